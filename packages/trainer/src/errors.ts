/** The trainer's errors: as core's, each names the offending value and the fix. */
import { LetheError } from '@lethe/core'

/** Text that is missing, empty, unreadable, or too short for the asked batch and block. */
export class DataError extends LetheError {
  override readonly name = 'DataError'
}

/** A checkpoint or run folder that cannot be written, or does not belong to this model, data or these options. */
export class CheckpointError extends LetheError {
  override readonly name = 'CheckpointError'
}

/** Training that cannot go on, such as a loss that is no longer a number. */
export class TrainingError extends LetheError {
  override readonly name = 'TrainingError'
}

/** An option out of its range: refused before any tensor is made. */
export class OptionError extends LetheError {
  override readonly name = 'OptionError'
}
