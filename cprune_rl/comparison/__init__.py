"""Many search methods on many recorded problems at equal budgets, and what may be said of them.

What is compared where nothing is said: the defaults of `cli/compare.py`.
"""
