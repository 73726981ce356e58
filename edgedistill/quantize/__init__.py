"""Post-training and training-time quantization to one symmetric int8 scheme."""
