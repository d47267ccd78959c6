import { library } from '../../tsup.base'

export default library({ entry: { index: 'src/index.ts', node: 'src/node.ts', bpe: 'src/bpe.ts' } })
