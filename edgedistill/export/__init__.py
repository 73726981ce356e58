"""Trained models as ONNX files, in the encoding an engine wants, checked against what they were made from."""
