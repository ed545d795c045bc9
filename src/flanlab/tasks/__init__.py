"""Tasks: data sets written as natural-language instructions, their clusters, and which of them are held out."""
