"""Streams -> vectors -> what is added, and the receipt."""
