"""Compare measurements: statistics, comparisons, recommendations, and their tables."""
