"""Tests of ``webapp.web``."""
