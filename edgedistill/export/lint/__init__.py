"""Whether an engine takes an ONNX model as it is, and runs in integers what the file stores in integers."""
