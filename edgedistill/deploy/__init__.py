"""Kits and devices: find a kit, compile a model with it, and measure it in fresh processes on a device."""
