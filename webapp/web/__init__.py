"""How this service speaks HTTP: bodies, fields, JSON, errors, pages, browsers and limits."""
