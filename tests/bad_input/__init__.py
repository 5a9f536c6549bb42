"""The census of bad input: what nobody should send, sent to every operation that takes such.

The operations come from the application's own document, so that a new one is tried without
being listed here. What is sent stands in ``catalogue``, what must hold of the answers in
``census``.
"""
