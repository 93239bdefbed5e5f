"""Measurements over a grid of layers, coefficients, positions and dims."""
