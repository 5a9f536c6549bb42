"""Machine learning: train, version, activate, serve."""
