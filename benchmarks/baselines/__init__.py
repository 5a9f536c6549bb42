"""Baselines: the least that an answer can cost."""
