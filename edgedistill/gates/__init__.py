"""Limits that a comparison must keep, and their verdicts."""
