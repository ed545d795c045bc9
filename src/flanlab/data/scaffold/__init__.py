"""First drafts of task files: what the columns and rows of a data set let one guess."""
