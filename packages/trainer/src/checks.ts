/** What is checked alike wherever a decoder is trained, evaluated or asked for text: before any tensor is made. */
import type { Decoder } from '@lethe/core'
import { DataError, OptionError } from './errors'

/** @throws OptionError */
export function checkWhole(name: string, value: number, least = 1): void {
  if (!Number.isInteger(value) || value < least)
    throw new OptionError(`${name} must be a whole number of at least ${least}, not ${value}`, {
      [name]: value,
    })
}

/** @throws DataError where there are tokens that the decoder does not know */
export function checkVocabulary({ vocabulary }: { readonly vocabulary: number }, { config }: Decoder): void {
  if (vocabulary > config.vocabulary)
    throw new DataError(
      `the data have ${vocabulary} different tokens, the decoder's vocabulary is ` +
        `${config.vocabulary}: make the decoder with vocabulary ${vocabulary}`,
      { tokens: vocabulary, vocabulary: config.vocabulary },
    )
}
