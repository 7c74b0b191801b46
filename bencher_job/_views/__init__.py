"""Show records and values to people: tables, arrays, plots, summaries, progress."""
