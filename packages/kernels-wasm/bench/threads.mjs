/**
 * What threads bring: each kernel with one thread and with several, by turns in one memory, least and median of both.
 * Run after a build: node bench/threads.mjs [threads], 2 by default; about 20 seconds. `wait` is a pause before each call,
 * in milliseconds: after it the workers are asleep.
 */
import { loadKernels } from '../dist/index.js'

const count = Number(process.argv[2] ?? 2)
const memory = new WebAssembly.Memory({ initial: 2000, maximum: 65536, shared: true })
let next = 64
const allocate = (bytes) => {
  const at = next
  next += Math.ceil(bytes / 64) * 64
  return at
}
const [alone, together] = [loadKernels(memory, allocate), loadKernels(memory, allocate)]
await together.startThreads(count)
const size = 2 ** 22
const [a, b, out] = [0, 1, 2].map(() => allocate(4 * size))
for (const at of [a, b])
  new Float32Array(memory.buffer, at, size).forEach((_, i, all) => {
    all[i] = Math.sin(i)
  })

const product = (rows, columns, inner, batch = 1) => {
  const [left, right] = [
    { at: a, rowStep: inner, columnStep: 1, matrixStep: rows * inner },
    { at: b, rowStep: columns, columnStep: 1, matrixStep: inner * columns },
  ]
  const name = `${batch > 1 ? `${batch} times ` : ''}[${rows}, ${inner}] · [${inner}, ${columns}]`
  return [name, (kernels) => kernels.multiply(left, right, out, rows, columns, inner, batch)]
}
const works = [
  product(16, 16, 16),
  product(64, 64, 64),
  product(96, 96, 96),
  product(128, 128, 128),
  product(192, 192, 192),
  product(256, 256, 256),
  product(512, 512, 512),
  product(1024, 256, 256),
  product(1024, 1024, 256),
  product(1024, 256, 1024),
  product(256, 256, 4096),
  product(1, 1024, 256),
  product(1, 4096, 512),
  product(128, 640, 64, 32),
  product(1, 512, 64, 4),
  ['exp of 65,536', (kernels) => kernels.exponentials(a, out, 65536)],
  ['exp of a million', (kernels) => kernels.exponentials(a, out, 2 ** 20)],
  ['erf of a million', (kernels) => kernels.errorFunctions(a, out, 2 ** 20)],
  ['4,096 sums of 640', (kernels) => kernels.sumLines(a, out, 640, 4096)],
  ['4,096 lines of 640 turned', (kernels) => kernels.reverseLines(a, out, 640, 4096)],
  ['4,096 copies of 2,560 bytes', (kernels) => kernels.copyLines(a, 2560, out, 2560, 2560, 4096)],
]

const pause = (milliseconds) => {
  const end = performance.now() + milliseconds
  while (performance.now() < end);
}
const microseconds = (kernels, work, wait) => {
  pause(wait)
  const start = performance.now()
  work(kernels)
  return 1000 * (performance.now() - start)
}
const line = (name, ...columns) =>
  console.log(name.padEnd(34) + columns.map((text) => text.padStart(9)).join(''))
line('µs: least, median', '1', `${count}`, 'ratio', '1', `${count}`, 'ratio', 'wait: 1', `${count}`, 'ratio')
for (const [name, work] of works) {
  const columns = [0, 0.3].flatMap((wait) => {
    const times = [[], []]
    const end = performance.now() + 300
    while (performance.now() < end)
      [alone, together].forEach((kernels, which) => {
        for (let i = 0; i < 3; i++) times[which].push(microseconds(kernels, work, wait))
      })
    for (const list of times) list.sort((one, other) => one - other)
    const places = wait ? [0.5] : [0, 0.5]
    return places.flatMap((place) => {
      const [one, more] = times.map((list) => list[Math.floor(place * list.length)])
      return [one.toFixed(1), more.toFixed(1), (one / more).toFixed(2)]
    })
  })
  line(name, ...columns)
}
together.stopThreads()
