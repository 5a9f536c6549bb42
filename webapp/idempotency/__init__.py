"""`Idempotency-Key`: a request that creates something does so once, however often it is sent."""
