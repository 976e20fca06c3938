"""Two steps of each trainer by a recipe, to know what a round would take before it is started."""
