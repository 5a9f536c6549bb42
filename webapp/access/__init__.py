"""API keys: their scopes, and the guard that checks them before every view."""
