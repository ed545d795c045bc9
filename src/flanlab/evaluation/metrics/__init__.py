"""Metrics over predictions, each held against the program that defines it."""
