"""Data: sources, splits, preprocessing and augmented views."""
