"""The linear products and the networks."""
