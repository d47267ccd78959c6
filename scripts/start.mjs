/** `npm start`: sets everything up, then runs Lethe's main job. `npm start -- …` passes arguments on. */
import { join } from 'node:path'
import { main, prepare, root, run } from './bootstrap.mjs'

await main(async () => {
  const environment = await prepare({ only: '@lethe/cli' })
  return run([join(root, 'apps/cli/dist/main.js'), 'demo', ...process.argv.slice(2)], environment)
})
