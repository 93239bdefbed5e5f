"""The library's functions, each from end to end on a model that is loaded once."""
