"""Find a model by name, and load its network."""
