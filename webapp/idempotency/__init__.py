"""Requests that create something once, however often they are sent."""
