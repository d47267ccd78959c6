#!/usr/bin/env node
/**
 * node tools/verify-golden.mjs FILE... [--backend cpu|wasm|webgpu|tensorflow]
 *
 * Replays golden files through the built public packages and prints one JSON line per file:
 * {file, case, backend, maxAbsError: {logprobs, loss, auxLoss, memory, trace, grad}, pass}, or why it is skipped. Exits with
 * 1 when any error exceeds 1e-4. See test/golden/README.md for the files.
 */
import { existsSync } from 'node:fs'
import { readFile } from 'node:fs/promises'
import { parseArgs } from 'node:util'
import { disposeBackend, useBackend } from '@lethe/backends'
import { decodeSafetensors } from '@lethe/core'
import { notReplayed } from './golden/config.mjs'
import { replay } from './golden/replay.mjs'

const tolerance = 1e-4
const softwareVulkan = '/usr/lib/chromium/vk_swiftshader_icd.json'
const usage = 'usage: node tools/verify-golden.mjs FILE... [--backend cpu|wasm|webgpu|tensorflow]'

async function main() {
  const { positionals, values } = parseArgs({
    allowPositionals: true,
    options: { backend: { type: 'string', default: 'cpu' } },
  })
  if (positionals.length === 0) throw new Error(usage)
  // Without a GPU, WebGPU runs on the software driver of Debian's chromium, if that is installed.
  const options = existsSync(softwareVulkan) ? { softwareVulkan } : {}
  const { name: backend } = await useBackend(values.backend, options)
  let pass = true
  for (const file of positionals) {
    const line = { file, backend }
    try {
      const golden = decodeSafetensors(await readFile(file), file)
      line.case = golden.metadata.case
      line.skipped = notReplayed[golden.metadata.family]
      if (line.skipped) {
        console.log(JSON.stringify(line))
        continue
      }
      line.maxAbsError = await replay(golden)
      line.pass = Object.values(line.maxAbsError).every((error) => error <= tolerance)
    } catch (error) {
      line.error = error.message
      line.pass = false
    }
    pass &&= line.pass
    console.log(JSON.stringify(line))
  }
  await disposeBackend()
  return pass ? 0 : 1
}

try {
  process.exitCode = await main()
} catch (error) {
  console.error(`verify-golden: ${error.message}`)
  process.exitCode = 2
}
