"""A search for the layer, position and coefficient that steer most within a damage budget."""
