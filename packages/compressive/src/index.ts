export { type CompressiveOptions, compressive } from './compressive'
