/** `npm test`: sets everything up, then runs all tests, or with `npm test -- path` those of a file or folder. */
import { join } from 'node:path'
import { main, prepare, root, run } from './bootstrap.mjs'

await main(async () => {
  const environment = await prepare()
  // In CI the results are also written for tools/check-golden-ran.mjs.
  const reporters = process.env.CI
    ? ['--reporter=default', '--reporter=json', '--outputFile.json=node_modules/.cache/vitest.json']
    : []
  const vitest = join(root, 'node_modules/vitest/vitest.mjs')
  return run([vitest, 'run', ...reporters, ...process.argv.slice(2)], environment)
})
