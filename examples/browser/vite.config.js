import { isolation } from './headers.js'

export default {
  build: { outDir: 'dist/vite' },
  server: { headers: isolation },
  preview: { headers: isolation },
  worker: { format: 'es' }, // the backends are loaded when they are asked for, which Vite's default for workers cannot
}
