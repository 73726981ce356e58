"""Export of trained models to ONNX files in an engine's encoding, checked against the source models."""
