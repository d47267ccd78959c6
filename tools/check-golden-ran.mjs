/**
 * Fails unless the golden tests ran and passed on cpu and on wasm: a skipped test is silent, and a backend that does
 * not start would otherwise go unnoticed. Reads the JSON that `npm test` writes in CI, and closes with the totals.
 *
 *     node tools/check-golden-ran.mjs [node_modules/.cache/vitest.json]
 */
import { readFileSync } from 'node:fs'

const path = process.argv[2] ?? 'node_modules/.cache/vitest.json'
const results = JSON.parse(readFileSync(path, 'utf8'))
const tests = results.testResults.flatMap((file) =>
  file.assertionResults.map((test) => ({ ...test, file: file.name })),
)
const problems = []

for (const backend of ['cpu', 'wasm']) {
  const golden = tests.filter((test) => new RegExp(`golden.*\\b${backend}\\b`, 'i').test(test.fullName))
  if (golden.length === 0) problems.push(`No golden test ran on ${backend}.`)
  for (const test of golden) if (test.status !== 'passed') problems.push(`${test.status}: ${test.fullName}`)
  console.log(
    `golden, ${backend}: ${golden.filter((test) => test.status === 'passed').length} of ${golden.length} passed`,
  )
}

for (const problem of problems) console.error(problem)
if (!results.success) console.error('vitest did not succeed.')
const count = (status) => tests.filter((test) => test.status === status).length
const skipped = tests.length - count('passed') - count('failed')
console.log(`${count('passed')} passed, ${count('failed')} failed${skipped ? `, ${skipped} skipped` : ''}`)
process.exitCode = problems.length > 0 || !results.success ? 1 : 0
