"""Measurements that the docs quote, re-runnable."""
