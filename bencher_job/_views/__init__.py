"""What people see of entries: tables, plots, summaries."""
