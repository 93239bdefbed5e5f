"""Workers on a Ray cluster: each holds the model, and all that ends in a file stays with the caller."""
