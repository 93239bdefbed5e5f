"""Read a YAML file into a validated recipe."""
