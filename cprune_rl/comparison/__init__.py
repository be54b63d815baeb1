"""Many search methods on many recorded problems at equal budgets, and what may be said of them."""
