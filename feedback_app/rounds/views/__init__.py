"""Pages of the rounds app."""
