"""One HTML page from a run folder alone: summary, plots, tables, examples."""
