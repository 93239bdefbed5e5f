"""Prompts and arms -> completions, in one batch that is kept full."""
