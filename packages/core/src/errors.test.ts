import { expect, test, vi } from 'vitest'
import { ConfigError, LetheError, ShapeError } from './errors'

test('errors know their class, name and values', () => {
  const error = new ShapeError('no', { shape: [1] })
  expect(error).toBeInstanceOf(LetheError)
  expect(error.name).toBe('ShapeError')
  expect(error.values).toEqual({ shape: [1] })
  expect(ShapeError.isInstance(error)).toBe(true)
  expect(LetheError.isInstance(error)).toBe(true)
  expect(ConfigError.isInstance(error)).toBe(false)
  expect(LetheError.isInstance(new Error('no'))).toBe(false)
  expect(LetheError.isInstance(null)).toBe(false)
})

test('errors of another copy of the package are recognised', async () => {
  vi.resetModules()
  const copy = await import('./errors')
  const error = new copy.ShapeError('no')
  expect(error).not.toBeInstanceOf(ShapeError)
  expect(ShapeError.isInstance(error)).toBe(true)
  expect(LetheError.isInstance(error)).toBe(true)
  expect(ConfigError.isInstance(error)).toBe(false)
})
