"""Measurements that the README quotes, re-runnable."""
