import { isolation } from './headers.js'

export default {
  mode: 'production',
  entry: './index.html',
  output: { path: new URL('dist/webpack', import.meta.url).pathname, clean: true },
  devServer: { headers: isolation },
}
