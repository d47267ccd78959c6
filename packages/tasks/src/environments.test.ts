/** What every environment promises, and the rules of each. */
import { ConfigError, Random } from '@lethe/core'
import { describe, expect, test } from 'vitest'
import { createEnvironment, type Environment, type EnvironmentTask, type Policy } from './index'

const [up, down, left, right] = [0, 1, 2, 3]

/** Plays one episode to its end. */
function play(world: Environment, policy: Policy) {
  let [total, steps] = [0, 0]
  for (;;) {
    const { reward, done, solved } = world.step(policy.act(world.observe()))
    total += reward
    steps++
    if (done) return { return: total, steps, solved }
  }
}

function episodes(task: EnvironmentTask, count: number, policy: () => Policy) {
  const world = task.start(1)
  return Array.from({ length: count }, () => {
    const result = play(world, policy())
    world.reset()
    return result
  })
}

const solvedPart = (results: { solved: boolean }[]) =>
  results.filter(({ solved }) => solved).length / results.length

/** As the oracle walks, but taking any door at random: the last step of each way to one is a guess. */
function guesser(task: EnvironmentTask, random: Random): () => Policy {
  return () => ({
    act: ([first, second]) => {
      if (task.name === 'corridor') return first! < 5 ? right : [up, down][random.integer(2)]!
      const { rooms, size } = task.options as { rooms: number; size: number }
      const column = Math.floor((second! - rooms) / 2) % size
      // At the centre a side is chosen, and then walked to.
      const middle = (size - 1) / 2
      return column === middle ? [left, right][random.integer(2)]! : column < middle ? left : right
    },
  })
}

describe.each<[string, object]>([
  ['corridor', {}],
  ['corridor', { length: 3 }],
  ['portal', { rooms: 4, size: 3 }],
  ['portal', { rooms: 3, size: 1, mistakes: 3 }],
  ['portal', { rooms: 2, size: 5, mistakes: 1 }],
])('%s %o', (name, options) => {
  const task = createEnvironment(name, options)

  test('guessing at doors solves what chance says', () => {
    const results = episodes(task, 20_000, guesser(task, new Random(5)))
    expect(Math.abs(solvedPart(results) - task.chance)).toBeLessThan(0.012)
  })

  test('observations are within their range and length; the actions are the four moves', () => {
    const random = new Random(2)
    const world = task.start(0)
    const seen = new Set<number>()
    const lengths = new Set<number>()
    for (let step = 0; step < 5000; step++) {
      const observation = world.observe()
      lengths.add(observation.length)
      for (const token of observation) seen.add(token)
      if (world.step(random.integer(task.actions.length)).done) world.reset()
    }
    expect([...lengths]).toEqual([task.observationLength])
    expect(Math.min(...seen)).toBeGreaterThanOrEqual(0)
    expect(Math.max(...seen)).toBeLessThan(task.observations)
    expect(() => task.start(0).step(4)).toThrow(ConfigError)
  })

  test('a world depends on seed and row alone, and goes on from its state, which is JSON', () => {
    const run = (world: Environment, random: Random, steps: number) =>
      Array.from({ length: steps }, () => {
        const outcome = world.step(random.integer(4))
        if (outcome.done) world.reset()
        return [outcome, world.observe(), world.asText()]
      })
    const whole = run(task.start(3, 1), new Random(0), 400)
    const random = new Random(0)
    const world = task.start(3, 1)
    expect(run(world, random, 150)).toEqual(whole.slice(0, 150))
    const resumed = task.resume(JSON.parse(JSON.stringify(world.state)))
    expect(run(resumed, random, 250)).toEqual(whole.slice(150))
    expect(run(task.start(3, 2), new Random(0), 400)).not.toEqual(whole)
  })

  test('after the end it must be reset', () => {
    const world = task.start(0)
    play(world, task.oracle())
    expect(() => world.step(0)).toThrow(/has ended: reset\(\)/)
  })
})

describe('corridor', () => {
  test('the oracle solves every one, in the shortest way', () => {
    const results = episodes(createEnvironment('corridor'), 2000, createEnvironment('corridor').oracle)
    expect(solvedPart(results)).toBe(1)
    const lengths = results.map(({ steps }) => steps)
    // length - 1 moves to the far end, and one through a door.
    expect([Math.min(...lengths), Math.max(...lengths)]).toEqual([3, 200])
    for (const { return: total } of results) expect(total).toBe(1)
  })

  test('walls stop, colours are seen at the start only, the door of the other colour costs what it says', () => {
    const task = createEnvironment('corridor', { length: 4, wrongReward: -1 })
    const world = task.start(0)
    const [object] = world.observe()
    expect([1, 2]).toContain(object)
    for (const action of [left, up, down]) {
      expect(world.step(action)).toEqual({ reward: 0, done: false, solved: false })
      expect(world.observe()).toEqual([object])
    }
    world.step(right)
    expect(world.observe()).toEqual([0])
    world.step(right)
    const [ahead] = world.observe()
    expect([3, 4]).toContain(ahead)
    world.step(right)
    world.step(right)
    expect(world.observe()).toEqual([ahead! + 2])
    const upperIsRight = ahead! - 3 === object! - 1
    expect(world.step(upperIsRight ? down : up)).toEqual({ reward: -1, done: true, solved: false })
  })

  test('an episode ends at the limit', () => {
    const [result] = episodes(createEnvironment('corridor', { limit: 7 }), 1, () => ({ act: () => left }))
    expect(result).toEqual({ return: 0, steps: 7, solved: false })
  })

  test('its text', () => {
    expect(createEnvironment('corridor', { length: 5 }).start(2).asText()).toMatch(
      /^#####[RB]\n[rb]@\.\.\.\.\n#####[RB]$/,
    )
  })
})

describe('portal', () => {
  test('the oracle never makes a mistake twice, and ends in the last room where there is time', () => {
    const task = createEnvironment('portal', { rooms: 8, size: 3, limit: 10_000 })
    const results = episodes(task, 500, task.oracle)
    expect(solvedPart(results)).toBe(1)
    // Without a mistake: 0.1 (1 + ... + 7), two moves a room; each mistake walks back through rooms already paid for.
    const clean = results.filter(({ steps }) => steps === 14)
    expect(clean.length).toBeGreaterThan(0)
    for (const { return: total } of clean) expect(total).toBeCloseTo(2.8)
    expect(Math.max(...results.map(({ steps }) => steps))).toBeGreaterThan(14)
  })

  test('with the recalled sizes the oracle ends in the last room or at the limit', () => {
    const task = createEnvironment('portal')
    expect(task.observations).toBe(50 + 2 * 25)
    expect(task.chance).toBeLessThan(1e-10)
    for (const { solved, steps } of episodes(task, 100, task.oracle))
      expect(solved || steps === 1000).toBe(true)
  })

  test('one wrong door leads back to the first room, a second in the same room ends the episode', () => {
    const task = createEnvironment('portal', { rooms: 3, size: 1 })
    const world = task.start(4)
    const first = [left, right].find((side) => task.resume(world.state).step(side).reward > 0)!
    expect(world.step(first)).toEqual({ reward: 0.1, done: false, solved: false })
    expect(world.observe()[0]).toBe(1)
    const state = world.state
    const wrong = [left, right].find((side) => !task.resume(state).step(side).solved)!
    expect(world.step(wrong)).toEqual({ reward: 0, done: false, solved: false })
    expect(world.observe()[0]).toBe(0)
    world.step(first)
    expect(world.step(wrong)).toEqual({ reward: 0, done: true, solved: false })
    const other = task.resume(state).step(wrong === left ? right : left)
    expect(other).toEqual({ reward: 0.2, done: true, solved: true })
  })

  test('its text', () => {
    expect(createEnvironment('portal', { rooms: 3, size: 3 }).start(0).asText()).toMatch(
      /^room 1 of 3\n#####\n#\.\.\.#\n(R\.@\.B|B\.@\.R)\n#\.\.\.#\n#####$/,
    )
  })
})

test('what cannot be made is refused with what can', () => {
  expect(() => createEnvironment('maze')).toThrow(/unknown environment "maze"; known are corridor, portal/)
  expect(() => createEnvironment('portal', { size: 4 })).toThrow(/an odd number from 1 to 1001, not 4/)
  expect(() => createEnvironment('corridor', { length: 2 })).toThrow(/from 3 to/)
  expect(() => createEnvironment('corridor', { colour: 2 })).toThrow(/it has length, limit, wrongReward/)
})
