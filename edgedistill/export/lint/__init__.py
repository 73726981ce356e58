"""A linter for ONNX models: does an engine accept the file, and run the quantized layers in integers?"""
