"""What operators see of the service: log, metrics, traces, health."""
