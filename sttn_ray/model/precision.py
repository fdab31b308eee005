"""The number format in which a network's convolutions and products are computed."""

from typing import Literal

import torch

Precision = Literal["fp32", "bf16"]
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def fastest_precision(device: str) -> Precision:
    """bf16 where the device computes it faster than float32: CUDA, and CPUs with instructions for it."""
    if device == "cuda":
        # The machine that plans may have no GPU of its own; then those of the cluster are taken to be recent.
        is_old = torch.cuda.is_available() and not torch.cuda.is_bf16_supported(including_emulation=False)
        return "fp32" if is_old else "bf16"
    if device == "cpu":
        capabilities = torch.cpu.get_capabilities()
        if any(capabilities.get(name) for name in ("amx_bf16", "avx512_bf16", "bf16")):
            return "bf16"
    return "fp32"
