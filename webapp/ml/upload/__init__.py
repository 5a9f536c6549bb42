"""Models that were fitted elsewhere: from a file to a stored version."""
