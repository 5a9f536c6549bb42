"""Faults put in on purpose, and what is left of the service then."""
