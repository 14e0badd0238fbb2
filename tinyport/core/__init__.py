"""Decisions: pure functions and values. No clock, randomness, files or network of their own."""
