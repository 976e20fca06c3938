"""The pages of data: what goes out, what is kept of it, and what comes in."""
