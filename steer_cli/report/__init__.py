"""How results are shown: on a screen, as records."""
