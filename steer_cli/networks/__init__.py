"""Plain networks for common model families, an adapter for all other models, and their one interface."""
