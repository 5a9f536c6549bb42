"""Searches for the parameters of an estimator: grid and random search, as jobs."""
