"""The version, at the bottom of the house so that every stage may name it."""

__version__ = "0.2.0"
