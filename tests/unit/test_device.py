"""Which errors say that a GPU is lost; their texts are torch's."""

import pytest
import torch

from sttn_ray.completion.device import first_line, is_device_fault, is_out_of_memory
from sttn_ray.errors import VideoError
from tests.sick import ILLEGAL_ACCESS, NO_DRIVER

LOST = [
    torch.AcceleratorError(ILLEGAL_ACCESS),
    torch.AcceleratorError(
        "CUDA error: unspecified launch failure\nCUDA kernel errors might be asynchronously reported"
    ),
    torch.AcceleratorError("CUDA error: uncorrectable ECC error encountered"),
    torch.AcceleratorError("CUDA error: device-side assert triggered"),
    torch.AcceleratorError("CUDA error: CUDA-capable device(s) is/are busy or unavailable"),
    torch.AcceleratorError("CUDA error: no kernel image is available for execution on the device"),
    RuntimeError("cuDNN error: CUDNN_STATUS_EXECUTION_FAILED"),
    RuntimeError("cuDNN Frontend error: CUDNN_BACKEND_API_FAILED"),
    RuntimeError("CUDA error: CUBLAS_STATUS_EXECUTION_FAILED when calling `cublasSgemm( handle, opa, opb, m, n, k)`"),
    RuntimeError("CUDA driver error: invalid device context"),
    RuntimeError(NO_DRIVER),
    RuntimeError("No CUDA GPUs are available"),
    RuntimeError(
        "Unexpected error from cudaGetDeviceCount(). Did you run some cuda functions before calling NumCudaDevices() "
        "that might have already set an error? Error 802: system not yet initialized"
    ),
    AssertionError("Torch not compiled with CUDA enabled"),
    torch.cuda.DeferredCudaCallError("CUDA call failed lazily at initialization with error: device >= 0"),
]
SHORT_OF_MEMORY = [
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 MiB. GPU 0 has a total capacity of 79 GiB"),
    torch.AcceleratorError("CUDA error: out of memory\nSearch for `cudaErrorMemoryAllocation' in https://docs.nvidia"),
    RuntimeError("cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
]
OTHERS = [
    RuntimeError("The size of tensor a (3) must match the size of tensor b (4) at non-singleton dimension 1"),
    RuntimeError("cuDNN error: CUDNN_STATUS_NOT_SUPPORTED. This error may appear if you passed in a non-contiguous"),
    RuntimeError("[enforce fail at alloc_cpu.cpp:118] DefaultCPUAllocator: can't allocate memory: out of memory"),
    ValueError("CUDA error: an illegal memory access was encountered"),
    VideoError("a film called CUDA error: .mp4"),
    RuntimeError(),
]


@pytest.mark.parametrize("error", LOST, ids=str)
def test_a_gpu_that_is_lost_is_known(error: Exception) -> None:
    assert is_device_fault(error)
    assert not is_out_of_memory(error)


@pytest.mark.parametrize("error", SHORT_OF_MEMORY, ids=str)
def test_short_memory_is_no_fault(error: Exception) -> None:
    assert is_out_of_memory(error)
    assert not is_device_fault(error)


@pytest.mark.parametrize("error", OTHERS, ids=str)
def test_other_errors_are_neither(error: Exception) -> None:
    assert not is_device_fault(error)
    assert not is_out_of_memory(error)


def test_the_first_line_is_what_people_need() -> None:
    assert first_line(LOST[0]) == "CUDA error: an illegal memory access was encountered"
    assert first_line(RuntimeError()) == "RuntimeError"
