"""Many runs from one recipe: a grid, equal tuning budgets, workers that may die, and the table of what came out."""
