"""Kits: what is known of each deployment target."""
