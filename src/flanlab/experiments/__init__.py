"""Experiments: recipes, and runs that carry them out."""
