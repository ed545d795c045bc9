"""Results as data: scores with their uncertainty."""
