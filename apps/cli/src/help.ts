/** --help, made from the table of options. */
import { placeholder } from './option-kinds'
import { type CommandName, commandNames, optionsOf } from './options'

export interface CommandHelp {
  readonly summary: string
  readonly usage: string
  readonly details?: string
  readonly examples: readonly (readonly [command: string, what: string])[]
}

const commandHelp: Readonly<Record<CommandName, CommandHelp>> = {
  train: {
    summary: 'train a model on text or a task, or an agent in a world',
    usage:
      'lethe train --data PATH | --task NAME --out FOLDER [options]\n       lethe train --resume FOLDER [--steps N]',
    details:
      'The first 90 % of the text are for training, the last 10 % for validation. The folder gets config.json,\n' +
      'metrics.jsonl (a line per step and evaluation) and checkpoints/. Ctrl-C saves a checkpoint and says how to go on.\n' +
      'A task is an endless stream with answers in it; the seed draws it, and other streams of it are for validation.\n' +
      'In a world (corridor, portal) an agent acts, --batch of them side by side, and learns by advantage actor-critic from\n' +
      'rollouts of --block x --unroll steps. Evaluations play --valid-batch episodes, the same ones each time, by drawn actions\n' +
      'or --greedy, and say how many were solved beside chance and a policy in plain code that knows the world (oracle).',
    examples: [
      ['lethe train --data book.txt --out runs/book', 'defaults: modern preset, 4 layers, width 128'],
      [
        'lethe train --data texts/ --out runs/a --method fixed-span --span 512 --block 128',
        'a folder of texts',
      ],
      [
        'lethe train --task copy --task-options \'{"length":[1,20]}\' --out runs/copy',
        'answers right, beside chance',
      ],
      [
        'lethe train --task corridor --task-options \'{"length":[3,8],"limit":40}\' --out runs/agent --layers 1 --width 32 --block 16 --steps 300 --learning-rate 3e-3',
        'an agent in a world',
      ],
      [
        'lethe train --data book.txt --out runs/book --tensorboard',
        'curves for TensorBoard, in runs/book/tensorboard',
      ],
      ['lethe train --resume runs/book --steps 5000', 'go on, for longer'],
      ['lethe train --config runs/a/config.json --seed 1 --out runs/b', 'the same with another seed'],
    ],
  },
  eval: {
    summary: 'bits per byte, accuracy or episodes solved of a trained model',
    usage:
      'lethe eval FOLDER [--data PATH] [--split PART] [--buckets] [options]\n' +
      '       lethe eval FOLDER --multiple-choice FILE [options]',
    details:
      'FOLDER is a run (its newest checkpoint is taken) or one checkpoint. Without --data it is evaluated on the\n' +
      'validation part of its own text, with --data on the whole of another one (on its validation part, where it has\n' +
      'parts). Memory is carried from block to block. A model of a task is evaluated on streams it was not trained on, an\n' +
      'agent in episodes it was not trained in, with other --task-options if given.\n' +
      'Perplexity per word is e to the loss over the words of the text as it was, as for PG-19. --buckets: by how often the\n' +
      'word occurs in the training text, as in Table 7 of the Compressive Transformer paper; the loss of a word is the sum\n' +
      'of those of its tokens. --multiple-choice: how often the right ending is the most probable one after its context,\n' +
      'and how often by log-probability per character.',
    examples: [
      ['lethe eval runs/pg19 --split test --buckets', 'the part for tests'],
      ['lethe eval runs/book --multiple-choice hellaswag_val.jsonl', ''],
      ['lethe eval runs/book', 'validation part of the run’s own text'],
      ['lethe eval runs/book --data other.txt --json', 'another text, as JSON'],
      ['lethe eval runs/copy --task-options \'{"length":40}\'', 'longer than it was trained for'],
      ['lethe eval runs/agent --valid-batch 256 --greedy', '256 episodes, the most probable actions'],
    ],
  },
  generate: {
    summary: 'text from a trained model',
    usage: 'lethe generate FOLDER [--prompt TEXT] [options]',
    details:
      'FOLDER is a run (its newest checkpoint is taken) or one checkpoint. The same seed gives the same text.',
    examples: [
      ['lethe generate runs/book --prompt "It was" --tokens 500', ''],
      ['lethe generate runs/book --temperature 0.7 --top-p 0.9 --seed 3', ''],
    ],
  },
  compare: {
    summary: 'which method, with what memory, for this text or task',
    usage: 'lethe compare [--data PATH | --task NAME,…] [options]\n       lethe compare --resume FOLDER',
    details:
      'Trains every method with every budget and seed, then measures each alone. --span is how far back expire-span and\n' +
      'selective may look, which hold no window (default: 4 x the largest budget). The folder (default: runs/compare-N) gets\n' +
      'results.json and report.html, and the runs, which are ordinary ones. Ctrl-C saves; --resume goes on. Models of a task\n' +
      'are judged by the part of its answers that they get right, agents in a world by the episodes they solve.\n' +
      '--equal-quality trains smaller budgets until it has found the smallest that is as good as the fixed span with the\n' +
      'largest one, and also prunes what selective and expire-span learned.',
    examples: [
      ['lethe compare', 'all methods, small, on a text that is already installed'],
      ['lethe compare --data book.txt --methods fixed-span,selective --budgets 32,64,128 --seeds 0,1,2', ''],
      [
        'lethe compare --task copy,needle --budgets 8,32 --steps 1000',
        'what each method remembers of a task',
      ],
      [
        'lethe compare --task corridor --task-options \'{"length":[3,8],"limit":40}\' --budgets 4,32 --layers 1 --width 32 --batch 16 --block 16 --learning-rate 3e-3',
        'which agent remembers its door?',
      ],
      [
        'lethe compare --data book.txt --methods fixed-span,selective --budgets 256 --block 16 --equal-quality 0.01',
        'with how little memory is a method as good?',
      ],
      ['lethe compare --resume runs/compare-1', 'go on where it was interrupted'],
    ],
  },
  measure: {
    summary: 'what a trained model remembers, and what that costs',
    usage: 'lethe measure FOLDER [options]',
    details:
      'FOLDER is a run (its newest checkpoint is taken) or one checkpoint. Bits per byte by how much was read before,\n' +
      'slots over time, spans by layer and head, bytes and times, on the validation part of the run’s own text or task; of an\n' +
      'agent the episodes it solves, slots by steps of the episode, and what acting costs.',
    examples: [
      ['lethe measure runs/book', ''],
      ['lethe measure runs/selective --budget 16', 'pruned to fewer slots than it was trained with'],
    ],
  },
  inspect: {
    summary: 'what a trained model kept of a text, token by token',
    usage: 'lethe inspect FOLDER [--data PATH] [--start N] [--tokens N] [options]',
    details:
      'FOLDER is a run or a checkpoint; the text is its validation part, or another one. Writes a page that shows what is\n' +
      'left of every token at every step, by layer and head, and prints the last step. --json prints the numbers instead.',
    examples: [
      ['lethe inspect runs/book', ''],
      ['lethe inspect runs/book --data other.txt --tokens 2000 --out other.html', ''],
    ],
  },
  bench: {
    summary: 'measure training steps, decoding, attention, memory',
    usage:
      'lethe bench train|memory [RUN…] [--methods NAME,… | all] [--spans N,…] [--against COMMAND] [options]\n' +
      '       lethe bench decode [--contexts N,…] [--read-all] [options]\n' +
      '       lethe bench attention [--methods NAME,…] [options]',
    details:
      'train: whole steps (forward, backward, clipping, update, reading the loss) with a full memory; median and least of\n' +
      '--steps steps after two to warm up. On random bytes, or, of trained models (RUN: what lethe train left), on their own\n' +
      'text with the spans they learned. Several cases each run in a process of their own, by turns with the first; another\n' +
      'program (--against; tools/peer runs the authors’ PyTorch code) or tfjs’s own wasm (--stock) by turns with each.\n' +
      'memory: the same with what the steps hold. Peak tensors: the most that tfjs had allocated after any kernel of one\n' +
      'further step. wasm heap and GPU buffers: taken from the system, scratch included. Peak resident: the whole process.\n' +
      'decode: streams with short and long contexts, read token by token by turns; the ratio of their times. A long context\n' +
      'begins late in the stream and reads as many tokens as its memory can depend on, unless --read-all. --span counts the\n' +
      'slots of every method: Compressive Transformer’s memory and compressed slots have half of it each, unless --compressed.\n' +
      'attention: one layer’s attention, forward, backward and for one query, by plain operations and by a backend’s kernel.\n' +
      'Ratios come with a 95 % bootstrap interval. --markdown prints tables that name their command, date and machine.',
    examples: [
      [
        'lethe bench train --preset fair --method fixed-span --layers 4 --width 256 --heads 4 --feed-forward 1024 --block 128 --span 512 --batch 8 --steps 8 --backend wasm --json',
        '',
      ],
      ['lethe bench train --methods fixed-span,selective --spans 256,1024,4096', 'cost as the span grows'],
      ['lethe bench train --backend wasm --stock', 'against tfjs’s own wasm backend'],
      ['lethe bench memory --markdown', 'every method'],
      ['lethe bench decode --contexts 1024,8192,65536,1048576', 'flat?'],
      ['lethe bench attention --backend wasm --spans 512,2048', ''],
    ],
  },
  data: {
    summary: 'get data sets by name: enwik8, text8, WikiText-103, PG-19',
    usage: 'lethe data [NAME] [--from FILE] [--folder FOLDER] [--only PART,…]',
    details:
      'Without a name it lists them. What was interrupted goes on where it was. Checksums are those that were published. The\n' +
      'parts for training, validation and tests are the usual ones, and --data NAME then means them, in all commands. A file or\n' +
      'folder of yours works the same; a folder with train, valid and test in it has parts of its own.',
    examples: [
      ['lethe data', 'what there is, how large, under which licence, and what is there already'],
      ['lethe data enwik8', '36 MB from the network, 100 MB on disk'],
      ['lethe data enwik8 --from enwik8.zip', 'without the network'],
      ['lethe data pg19 --only validation,test', 'without the 28,602 books for training'],
    ],
  },
  doctor: {
    summary: 'what this machine can compute with, and how to mend what is missing',
    usage: 'lethe doctor [--backend NAME] [--json]',
    details:
      'Starts each backend in a process of its own, multiplies 1024 x 1024 matrices for two seconds, and prints the\n' +
      'command that mends what does not work. Exit code 1 if nothing works, or not the --backend that was named.',
    examples: [
      ['lethe doctor', ''],
      ['lethe doctor --backend webgpu --json', 'one backend, with the adapter’s limits and features'],
    ],
  },
  setup: {
    summary: 'install TensorFlow for Node, in a folder of its own',
    usage: 'lethe setup tensorflow [--gpu] [--from WHEEL]',
    details:
      'Takes the TensorFlow 2.9.1 that tfjs-node downloads; with --gpu, with --from, or where that download fails, compiles\n' +
      'its addon against a wheel of the current TensorFlow from PyPI (Linux; needs a C++ compiler, and pip without --from).\n' +
      'Needs no root and touches no project: it goes to LETHE_TENSORFLOW, or to lethe/tensorflow in your data folder, once it has\n' +
      'multiplied matrices in a child process. --backend tensorflow and auto then find it. To undo: remove the folder.',
    examples: [
      ['lethe setup tensorflow', '1.1 GB'],
      ['lethe setup tensorflow --gpu', 'with CUDA, for an NVIDIA GPU'],
      ['lethe setup tensorflow --from tensorflow_cpu-2.21.0-….whl', 'without the network, but for npm'],
    ],
  },
  demo: {
    summary: 'train a small model on a text that is already installed, and show what it writes',
    usage: 'lethe demo [--data PATH] [options]',
    examples: [
      ['lethe demo', 'about two minutes'],
      ['lethe demo --data my.txt --steps 1000', 'your own text'],
    ],
  },
}

/** `lethe --help`. */
export function generalHelp(): string {
  const width = Math.max(...commandNames.map((name) => name.length))
  return [
    'Lethe: sequence models that learn what to forget.',
    '',
    'Usage: lethe COMMAND [options]',
    '',
    'Commands:',
    ...commandNames.map((name) => `  ${name.padEnd(width)}  ${commandHelp[name].summary}`),
    '',
    'Examples:',
    '  lethe compare --data book.txt',
    '  lethe train --data book.txt --out runs/book',
    '  lethe generate runs/book --prompt "It was"',
    '',
    'lethe COMMAND --help tells more. Exit codes: 0 done, 1 failed, 2 wrong command line, 130 interrupted.',
    '',
  ].join('\n')
}

/** `lethe COMMAND --help`. `defaults`: where a command's differ from the table's. */
export function helpOf(command: CommandName, defaults: Readonly<Record<string, unknown>> = {}): string {
  const { summary, usage, details, examples } = commandHelp[command]
  const lines = [`lethe ${command}: ${summary}`, '', `Usage: ${usage}`]
  if (details) lines.push('', details)
  const options = optionsOf(command).filter(([, { hidden }]) => !hidden)
  const left = new Map(
    options.map(([name, option]) => [name, `  --${name} ${placeholder(option)}`.trimEnd()]),
  )
  const width = Math.min(30, Math.max(...[...left.values()].map((text) => text.length)))
  for (const group of new Set(options.map(([, option]) => option.group))) {
    lines.push('', `${group}:`)
    for (const [name, option] of options) {
      if (option.group !== group) continue
      const value = defaults[name] ?? option.default
      const many =
        option.kind === 'choices' || (option.kind === 'choice' && option.choices.length > 4)
          ? `: ${option.choices.join(', ')}`
          : ''
      const text = `${option.help}${many}${value === undefined ? '' : ` (${value})`}`
      const start = left.get(name)!
      if (start.length > width) lines.push(start, `${' '.repeat(width)}  ${text}`)
      else lines.push(`${start.padEnd(width)}  ${text}`)
    }
  }
  lines.push('', 'Examples:')
  for (const [example, what] of examples) lines.push(what ? `  ${example}    # ${what}` : `  ${example}`)
  return `${lines.join('\n')}\n`
}
