"""CUDA C++ kernels, compiled at first use by NVRTC for exactly the GPU that is there.

Neither a CUDA toolkit nor a C++ compiler is needed, only NVRTC, which comes with torch's CUDA
builds or as the wheel `nvidia-cuda-nvrtc`. Nothing of CUDA is loaded before a weight is served.
"""

from accel_kernels.cuda_provider.provider import CudaProvider

__all__ = ["CudaProvider"]
