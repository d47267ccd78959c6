/** Lines of all lengths, copied to where nothing else may change. */
import { expect, test } from 'vitest'
import { loadKernels } from './index'

test('lines of 0 to 40 bytes, wherever they lie', () => {
  const memory = new WebAssembly.Memory({ initial: 30 })
  const kernels = loadKernels(memory, () => 65536)!
  const bytes = new Uint8Array(memory.buffer)
  for (let length = 0; length <= 40; length++) {
    for (const lines of [0, 1, 3]) {
      const [from, fromStep, to, toStep] = [101, length + 5, 1003, length + 2]
      bytes.subarray(0, 4096).forEach((_, at) => {
        bytes[at] = (at * 7) % 251
      })
      const expected = bytes.slice(0, 4096)
      for (let line = 0; line < lines; line++)
        expected.copyWithin(to + line * toStep, from + line * fromStep, from + line * fromStep + length)
      kernels.copyLines(from, fromStep, to, toStep, length, lines)
      expect(bytes.slice(0, 4096)).toEqual(expected)
    }
  }
})
