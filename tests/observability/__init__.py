"""Tests of ``webapp.observability``."""
