"""Compile models for devices, and measure them there in fresh processes."""
