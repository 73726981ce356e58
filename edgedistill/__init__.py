"""edgedistill: distil, quantize, export and compile a model, and measure it on the device."""

__version__ = "0.1.0"
