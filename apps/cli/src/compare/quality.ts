/** The figure by which models are compared: bits per byte of text, accuracy of the answers of a task. */
import type { Evaluation } from '@lethe/trainer'
import { percent } from '../output'

type Measured = { readonly [name in 'bitsPerByte' | 'accuracy']?: Evaluation[name] | undefined }

export interface Quality {
  readonly name: keyof Measured
  readonly label: string
  /** 1 where more is worse, -1 where more is better. */
  readonly worse: 1 | -1
  readonly format: (value: number) => string
  readonly of: (figures: Measured) => number | undefined
}

const bitsPerByte: Quality = {
  name: 'bitsPerByte',
  label: 'bits per byte',
  worse: 1,
  format: (value) => value.toFixed(4),
  of: (figures) => figures.bitsPerByte,
}

const accuracy: Quality = {
  name: 'accuracy',
  label: 'accuracy',
  worse: -1,
  format: percent,
  of: (figures) => figures.accuracy,
}

/** Of these figures. */
export const qualityOf = (figures: Measured): Quality =>
  figures.accuracy === undefined ? bitsPerByte : accuracy
