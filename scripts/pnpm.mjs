/** The pinned pnpm, whether or not one is installed: `node scripts/pnpm.mjs add …` is `pnpm add …`. */
import { findPnpm, main, runPnpm } from './bootstrap.mjs'

await main(async () => runPnpm(process.argv.slice(2), findPnpm()))
