"""Data: rows from a source, rendered through templates into examples, mixed, and packed."""
