"""Tests of jobs and their processes."""
