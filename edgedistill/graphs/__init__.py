"""ONNX graphs: reading, running and rewriting them."""
