"""Show results as screens, records and plots."""
