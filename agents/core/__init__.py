"""What every search method shares: the contract, the session, budgets, the Pareto front."""
