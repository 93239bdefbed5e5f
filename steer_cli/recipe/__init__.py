"""YAML -> a validated recipe."""
