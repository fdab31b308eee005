"""Training over NCCL, and inpainting by two processes on one GPU, as real programs."""

import copy
from datetime import timedelta
from pathlib import Path

import pyarrow.parquet as pq
import pytest
import torch
import torch.distributed
import torch.multiprocessing
from torch.nn.parallel import DistributedDataParallel

from pipelines import inpaint
from sttn_ray.config import load_experiment
from sttn_ray.model.generator import Generator, GeneratorConfig
from sttn_ray.model.weights import save_generator
from sttn_ray.training.state import create_networks, create_state, unwrapped
from sttn_ray.training.step import train_step
from tests.media import make_video
from tests.ray.conftest import start_ray, without_shared_ray
from tests.unit.test_step_numbers import SETTINGS, TINY, make_batch

pytestmark = pytest.mark.gpu


def train_part(rank: int, num_workers: int, folder: Path) -> None:
    """What each of the processes does; what it has to tell lies in a file."""
    torch.cuda.set_device(rank)
    device = torch.device("cuda", rank)
    torch.distributed.init_process_group(
        "nccl",
        init_method=f"file://{folder}/rendezvous",
        rank=rank,
        world_size=num_workers,
        timeout=timedelta(seconds=120),
        device_id=device,
    )
    networks = (n.to(device) for n in create_networks(TINY, seed=0, initialization="fast"))
    wrapped = (DistributedDataParallel(n, device_ids=[rank], broadcast_buffers=False) for n in networks)
    state = create_state(*wrapped, beta1=0.0, beta2=0.99)
    share = 4 // num_workers
    for step in range(3):
        frames, masks = (x[rank * share : (rank + 1) * share].to(device) for x in make_batch(step))
        train_step(state, frames, masks, SETTINGS)
    tensors = {f"{n}.{k}": v.cpu() for n in ("generator", "discriminator") for k, v in _tensors(state, n).items()}
    torch.save(tensors, folder / f"worker-{rank}.pt")
    torch.distributed.destroy_process_group()


def _tensors(state: object, name: str) -> dict[str, torch.Tensor]:
    return unwrapped(getattr(state, name)).state_dict()


def test_workers_over_nccl_end_with_the_same_networks(tmp_path: Path) -> None:
    """With one GPU it is one worker: the group, the wrapped networks and their exchange run all the same."""
    num_workers = 2 if torch.cuda.device_count() > 1 else 1
    torch.multiprocessing.spawn(train_part, (num_workers, tmp_path), nprocs=num_workers)
    told = [torch.load(tmp_path / f"worker-{rank}.pt", weights_only=True) for rank in range(num_workers)]
    assert all(torch.equal(told[0][name], value) for other in told[1:] for name, value in other.items())
    start = create_state(*create_networks(TINY, seed=0, initialization="fast"), beta1=0.0, beta2=0.99)
    alone = copy.deepcopy(start)
    for step in range(3):
        train_step(alone, *make_batch(step), SETTINGS)
    for name in ("generator", "discriminator"):
        for key, value in _tensors(alone, name).items():
            moved = (value - _tensors(start, name)[key]).abs().mean()
            # Adam moves a weight whose gradient is hardly more than rounding either way: only the mean is held.
            assert (told[0][f"{name}.{key}"] - value).abs().mean() <= 0.1 * moved + 1e-6


def test_two_processes_share_a_gpu(tmp_path: Path) -> None:
    checkpoint = tmp_path / "tiny.pt"
    save_generator(
        checkpoint, Generator(GeneratorConfig(channels=16, num_blocks=1, width=96, height=48, mask_keys=True))
    )
    for number in range(4):
        make_video(tmp_path / f"films/{number}.mp4", num_frames=24, seed=number)
    rows = "".join(f'films/{n}.mp4,"16,12,30,20"\n' for n in range(4))
    (tmp_path / "catalog.csv").write_text(f"video,boxes\n{rows}")
    with without_shared_ray():
        start_ray(num_cpus=4, num_gpus=1)
        words = [f"inpaint.catalog={tmp_path}/catalog.csv", f"inpaint.checkpoint={checkpoint}", "run.device=cuda"]
        words += ["run.actor_cpus=1", "inpaint.segment_frames=12"]
        outputs = {}
        for name, more in (("shared", ["run.gpus_per_actor=0.5", "run.num_actors=2"]), ("alone", [])):
            assert inpaint.run(load_experiment([*words, f"inpaint.output={tmp_path}/{name}", *more])) == 0
            rows = pq.read_table(tmp_path / name / "manifest.parquet").to_pylist()
            assert [row["status"] for row in rows] == ["done"] * 4
            outputs[name] = [(tmp_path / name / f"films/{n}.mp4").read_bytes() for n in range(4)]
    assert outputs["shared"] == outputs["alone"]
