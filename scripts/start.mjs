/** `npm start`: sets everything up, then runs Lethe's main job. `npm start -- …` passes arguments on. */
import { join } from 'node:path'
import { pathToFileURL } from 'node:url'
import { main, prepare, root, run } from './bootstrap.mjs'

await main(async () => {
  const environment = await prepare({ only: '@lethe/cli' })
  const preload = pathToFileURL(join(root, 'scripts/one-interrupt.mjs')).href
  const command = join(root, 'apps/cli/dist/main.js')
  return run(['--import', preload, command, 'compare', ...process.argv.slice(2)], environment)
})
