"""What programs import before they answer, and before they find that nothing is to be done; the real commands."""

import re
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from pipelines.inpaint_run import make_settings
from sttn_ray.catalog.items import single_item
from sttn_ray.catalog.plan import plan_video
from sttn_ray.catalog.publish import publish_copy
from sttn_ray.catalog.records import ItemDir, claim_output
from sttn_ray.config import load_experiment
from sttn_ray.model.generator import Generator, GeneratorConfig
from sttn_ray.model.weights import save_generator
from sttn_ray.storage import file_sha256
from tests.media import make_black_mask, make_video
from tests.processes import ROOT

HEAVY = {"torch", "av", "cv2", "ray", "pyarrow", "s3fs"}
PROGRAMS = ["pipelines.inpaint", "pipelines.build_shards", "pipelines.demo", "sttn_ray.train", "sttn_ray.tune"]


def started(*words: str) -> tuple[subprocess.CompletedProcess[str], set[str]]:
    """A program that has ended, and the packages that it imported."""
    command = [sys.executable, "-X", "importtime", *words]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    return done, set(re.findall(r"^import time:.*\|\s+(\w+)", done.stderr, re.MULTILINE))


@pytest.mark.parametrize("flag", ["--help", "--print-config"])
@pytest.mark.parametrize("program", PROGRAMS)
def test_a_program_answers_before_it_loads_what_it_works_with(program: str, flag: str) -> None:
    done, imported = started("-m", program, flag)
    assert done.returncode == 0
    assert "run" in done.stdout
    assert "pydantic" in imported
    assert not imported & HEAVY


def test_so_does_the_command() -> None:
    told = "import sys; from sttn_ray.command import main; sys.exit(main(['inpaint', '--help']))"
    done, imported = started("-c", told)
    assert done.returncode == 0
    assert "inpaint.mask=PATH" in done.stdout
    assert not imported & HEAVY


@pytest.fixture
def finished(tmp_path: Path) -> list[str]:
    """The request of a job that is done, and whose settings were chosen on that machine."""
    checkpoint = tmp_path / "tiny.pt"
    save_generator(
        checkpoint, Generator(GeneratorConfig(channels=16, num_blocks=1, width=96, height=48, mask_keys=True))
    )
    video = make_video(tmp_path / "film.mp4", num_frames=6)
    mask = make_black_mask(tmp_path / "black.png")  # the video is copied
    (item,) = single_item(str(video), str(mask), None)
    output = tmp_path / "out"
    settings = make_settings(load_experiment([]), "cuda", file_sha256(checkpoint), precision="bf16")
    claim_output(output, settings)
    publish_copy(ItemDir(output, item.output), plan_video(item, settings))
    request = {"video": video, "mask": mask, "output": output, "checkpoint": checkpoint}
    return [f"inpaint.{name}={value}" for name, value in request.items()]


def test_a_job_with_nothing_to_do_starts_no_cluster(tmp_path: Path, finished: list[str]) -> None:
    left = ItemDir(tmp_path / "out", "film").path / "segment-00000.mp4"
    left.write_text("of a driver that was killed after the video was done")
    done, imported = started("-m", "pipelines.inpaint", *finished)
    assert done.returncode == 0
    assert "1 copied without a hole, 0 failed" in done.stderr
    assert not imported & {"ray", "torch"}
    assert [row["status"] for row in pq.read_table(tmp_path / "out/manifest.parquet").to_pylist()] == ["copied"]
    assert not left.exists()


def test_a_folder_made_with_other_settings_is_refused_before_a_cluster_is_started(finished: list[str]) -> None:
    done, imported = started("-m", "pipelines.inpaint", *finished, "encode.crf=20")
    assert done.returncode == 2
    assert "crf was 16, now 20" in done.stderr
    assert "device was" not in done.stderr
    assert not imported & {"ray", "torch"}
    done, _ = started("-m", "pipelines.inpaint", *finished, "run.device=cpu")
    assert done.returncode == 2
    assert "device was 'cuda', now 'cpu'" in done.stderr
