"""Items: a plain resource, created, read, changed and deleted."""
