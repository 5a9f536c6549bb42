"""Train requests: rows to a stored version."""
