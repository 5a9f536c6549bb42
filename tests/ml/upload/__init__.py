"""Uploads as jobs."""
