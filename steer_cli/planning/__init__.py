"""Decide where each addition acts, as integers and texts."""
