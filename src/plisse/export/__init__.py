"""ONNX files from baked networks, checked against them."""

from plisse.export.integer import to_integer_onnx
from plisse.export.onnx import to_onnx
from plisse.export.report import ExportReport

__all__ = ["ExportReport", "to_integer_onnx", "to_onnx"]
