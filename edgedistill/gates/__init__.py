"""Gates: limits on a comparison, and whether they pass."""
