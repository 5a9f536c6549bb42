"""Items: a plain resource, and the pattern for further ones."""
