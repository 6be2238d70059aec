"""Checkpoint formats of quantised weights, read into one layout and written back losslessly."""

from accel_kernels.formats.canonical import FormatError, QuantizedWeight, from_values

__all__ = ["FormatError", "QuantizedWeight", "from_values"]
