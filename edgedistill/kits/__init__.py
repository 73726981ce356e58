"""Kits: descriptions of deployment targets."""
