"""Tests of ``webapp.db``."""
