"""A device that computes nothing: shapes, types and places alone, so that it needs no GPU.

It finds what a CPU forgives: tensors of two devices in one operation, and reads of a device's numbers, each of which
would have the host wait for all that was launched before it.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode

# Not "cuda": of all devices that are not here, the CPU's build of torch lets autograd and indexing see this one alone.
DEVICE = torch.device("lazy", 0)
aten = torch.ops.aten
# What reads numbers, or makes a size of them.
_READS = {
    *(aten._local_scalar_dense.default, aten.nonzero.default, aten.masked_select.default, aten.equal.default),
    *(aten.index.Tensor, aten.is_nonzero.default),
}


class HostWaitsError(AssertionError):
    """The host would wait for the device here."""


class _Watch(TorchDispatchMode):
    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        first = args[0] if args and isinstance(args[0], Tensor) else torch.empty(())
        waits = func in _READS and first.device == DEVICE
        if func is aten._to_copy.default and kwargs.get("device") is not None:
            is_back = first.device == DEVICE and torch.device(kwargs["device"]) != DEVICE
            waits = is_back and not kwargs.get("non_blocking")
        if func is aten.copy_.default:
            waits = first.device != DEVICE and args[1].device == DEVICE and not (len(args) > 2 and args[2])
        if waits:
            raise HostWaitsError(str(func))
        return func(*args, **kwargs)


@contextmanager
def fake_device() -> Iterator[None]:
    """Tensors that are made here are fake ones; those on `DEVICE` are taken for a GPU's.

    Raises:
        HostWaitsError: from an operation that would have the host wait.
    """
    with pytest.MonkeyPatch.context() as patch, FakeTensorMode(allow_non_fake_inputs=True), _Watch():
        patch.setattr(torch, "autocast", lambda *_, **__: nullcontext())  # there is none on a device of this kind
        patch.setattr(sys.modules["torch.optim.adam"], "_device_dtype_check_for_fused", lambda *_, **__: None)
        yield


def to_fake(network: nn.Module) -> nn.Module:
    """A network with parameters and buffers on the fake device, laid out as they were; changed in place."""
    for module in network.modules():
        for table in (module._parameters, module._buffers):
            for name, value in table.items():
                if value is not None:
                    fake = torch.empty_strided(value.shape, value.stride(), dtype=value.dtype, device=DEVICE)
                    is_parameter = isinstance(value, nn.Parameter)
                    table[name] = nn.Parameter(fake, requires_grad=value.requires_grad) if is_parameter else fake
    return network
