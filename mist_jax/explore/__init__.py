"""Design spaces: sweeps of a million deployments, gradient search, Pareto fronts, recommendations."""
