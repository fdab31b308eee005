"""What the workers of a training tell each other, beside gradients."""

import torch
import torch.distributed
from torch import Tensor

from sttn_ray.training.validation import METRICS


def mean_losses(sums: dict[str, Tensor], steps: int, num_workers: int) -> dict[str, float]:
    """Mean losses over some steps and all workers, read from the device at once."""
    values = torch.stack(list(sums.values())) / steps
    if num_workers > 1:
        torch.distributed.all_reduce(values)
        values /= num_workers
    return dict(zip(sums, values.tolist(), strict=True))


def all_clip_ids(clip_ids: list[str], num_workers: int) -> list[str]:
    """The clips of the whole batch, in the order of their positions."""
    if num_workers == 1:
        return clip_ids
    gathered: list[list[str]] = [[] for _ in range(num_workers)]
    torch.distributed.all_gather_object(gathered, clip_ids)
    return [clip_id for part in gathered for clip_id in part]


def mean_metrics(found: list[dict[str, float]], num_workers: int, device: torch.device) -> dict[str, float]:
    """The mean of each metric over the examples of all workers, of which each has some; at least one has any."""
    rows = [[metrics[name] for name in METRICS] + [1.0] for metrics in found]
    sums = torch.tensor(rows, dtype=torch.float32).reshape(-1, len(METRICS) + 1).sum(0).to(device)
    if num_workers > 1:
        torch.distributed.all_reduce(sums)
    *totals, count = sums.tolist()
    return {name: total / count for name, total in zip(METRICS, totals, strict=True)}


def told_by_first(text: str | None, num_workers: int) -> str | None:
    """What the first worker says, on all of them."""
    told = [text]
    if num_workers > 1:
        torch.distributed.broadcast_object_list(told)
    return told[0]
