"""Who may do what, and who did it: API keys, their scopes, and the guard before every view."""
