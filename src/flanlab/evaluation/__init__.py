"""Evaluation: questions for a model, its predictions, metrics, and statistics over templates."""
