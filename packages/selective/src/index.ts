/** Selective Attention for Lethe: what later steps vote away is forgotten. */
export type { BudgetAllocation, BudgetChoice, BudgetOptions } from './allocate-budgets'
export { allocateBudgets } from './allocate-budgets'
export type { SelectiveOptions } from './selective'
export { selective } from './selective'
