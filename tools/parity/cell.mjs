/** One row in a Node process of its own: what it is asked for comes as the argument, events go out as messages. */
import { readFile } from 'node:fs/promises'
import { measure } from './measure.mjs'

const golden = new URL('../../test/golden/', import.meta.url)
const read = (name) => readFile(new URL(`${name}.safetensors`, golden))
process.send({ type: 'version', version: `Node ${process.versions.node}` })
for await (const event of measure(JSON.parse(process.argv[2]), read)) process.send(event)
process.disconnect()
