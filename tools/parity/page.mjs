/** One row in a page: `report` and `readGolden` are functions of the program that opened it. */
import { measure } from './measure.mjs'

const read = async (name) =>
  Uint8Array.from(atob(await window.readGolden(name)), (character) => character.charCodeAt(0))

window.measureRow = async (request) => {
  for await (const event of measure(request, read)) await window.report(event)
}
