"""Models, their versions, and which of them is active."""
