"""Versions judged on rows that someone has posted, and what came of it."""
