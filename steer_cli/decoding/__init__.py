"""Complete prompts in all arms, in one batch that is kept full."""
