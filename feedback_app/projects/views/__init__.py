"""Pages of projects: making one, its settings, its protocol and guidelines, and its people."""
