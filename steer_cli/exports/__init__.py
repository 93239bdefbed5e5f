"""Carry a recipe's vectors to other programs."""
