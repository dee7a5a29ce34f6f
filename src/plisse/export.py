"""ONNX files from baked networks, checked against them."""
