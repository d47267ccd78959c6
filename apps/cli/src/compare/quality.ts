/** The figure by which models are compared: bits per byte of text, accuracy of a task's answers, episodes solved in a world. */
import { percent } from '../output'

export type Measured = { readonly [name in 'bitsPerByte' | 'accuracy' | 'solved']?: number | undefined }

export interface Quality {
  readonly name: keyof Measured
  readonly label: string
  /** Of a column. */
  readonly head: string
  /** What it is a part of; of bits per byte nothing. */
  readonly parts?: 'answers' | 'episodes'
  /** 1 where more is worse, -1 where more is better. */
  readonly worse: 1 | -1
  readonly format: (value: number) => string
  readonly of: (figures: Measured) => number | undefined
}

const bitsPerByte: Quality = {
  name: 'bitsPerByte',
  label: 'bits per byte',
  head: 'bits/byte',
  worse: 1,
  format: (value) => value.toFixed(4),
  of: (figures) => figures.bitsPerByte,
}

const accuracy: Quality = {
  name: 'accuracy',
  label: 'accuracy',
  head: 'accuracy',
  parts: 'answers',
  worse: -1,
  format: percent,
  of: (figures) => figures.accuracy,
}

const solved: Quality = {
  name: 'solved',
  label: 'episodes solved',
  head: 'solved',
  parts: 'episodes',
  worse: -1,
  format: percent,
  of: (figures) => figures.solved,
}

/** Of these figures. */
export const qualityOf = (figures: Measured): Quality =>
  figures.solved !== undefined ? solved : figures.accuracy !== undefined ? accuracy : bitsPerByte
