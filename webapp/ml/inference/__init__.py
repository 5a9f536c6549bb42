"""Prediction requests, and the versions that answer them."""
