"""Where and how much, as integers and texts; no torch."""
