"""What operators look at: figures for Prometheus, and workers that say that they live and end when they do not."""
