"""The least that an answer can cost: a server that does nothing, and arithmetic alone."""
