"""Numbers only: no Flask, no SQLAlchemy, no settings, no clock."""
