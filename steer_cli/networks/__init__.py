"""Plain networks of the families people use, one interface for all, and the adapter for every other model."""
