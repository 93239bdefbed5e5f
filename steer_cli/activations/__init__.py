"""Record streams, compute vectors, add them, and report what was added."""
