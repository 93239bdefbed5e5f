"""Files of stored vectors: steer's own and those of other tools."""
