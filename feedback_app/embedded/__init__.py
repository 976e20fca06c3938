"""What a machine without PostgreSQL, Redis and a model needs, started and stopped by us alone."""
