"""Tests of the server under the application, with an application of their own."""
