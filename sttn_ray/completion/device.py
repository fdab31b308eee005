"""Whether an error says that a GPU is lost to the process, which must then end."""

import torch

# What torch raises without a class of its own: cuBLAS ("CUDA error: CUBLAS_STATUS_..."), the driver, cuDNN.
_CALLS = ("CUDA error: ", "CUDA driver error: ", "cuDNN error: ", "cuDNN Frontend error: ")
# No fault of the GPU: memory is short, or the call itself was wrong; the next one may succeed.
_MEMORY = ("out of memory", "ALLOC_FAILED")
_WRONG_CALLS = ("NOT_SUPPORTED", "BAD_PARAM", "INVALID_VALUE")
# Where there is no GPU, or none that answers (c10/cuda/CUDAFunctions.cpp, torch/cuda/__init__.py).
_STARTS = (
    "No CUDA GPUs are available",
    "Found no NVIDIA driver",
    "The NVIDIA driver on your system is too old",
    "CUDA driver initialization failed",
    "CUDA unknown error",
    "Unexpected error from cudaGetDeviceCount()",
    "Torch not compiled with CUDA enabled",
    "CUDA call failed lazily at initialization",
)


def is_out_of_memory(error: Exception) -> bool:
    """Whether a GPU's memory was short."""
    line = first_line(error)
    return isinstance(error, torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and _is_call(error, line) and any(words in line for words in _MEMORY)
    )


def is_device_fault(error: Exception) -> bool:
    """Whether a GPU failed, or this process's hold on it: nothing that the process tries on it later will succeed."""
    if is_out_of_memory(error):
        return False
    line = first_line(error)
    if _is_call(error, line):
        # An error of CUDA itself stays with the process whatever it was.
        return isinstance(error, torch.AcceleratorError) or not any(words in line for words in _WRONG_CALLS)
    return isinstance(error, (RuntimeError, AssertionError, torch.cuda.DeferredCudaCallError)) and any(
        words in line for words in _STARTS
    )


def first_line(error: Exception) -> str:
    """What an error says, without torch's advice below it."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def _is_call(error: Exception, line: str) -> bool:
    return isinstance(error, torch.AcceleratorError) or (isinstance(error, RuntimeError) and line.startswith(_CALLS))
