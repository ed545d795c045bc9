"""Tasks: data sets written as natural-language instructions, their clusters, and the hold-out."""
