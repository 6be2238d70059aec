"""Quantised linear layers by Triton: kernels, layout, configurations. Triton is imported late."""

from accel_kernels.triton_provider.provider import TritonProvider

__all__ = ["TritonProvider"]
