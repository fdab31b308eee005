"""The worker's loop without Ray: what it writes, when it keeps checkpoints, what ends it."""

import shutil
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from itertools import count, islice
from pathlib import Path

import numpy as np
import pytest
import torch

from sttn_ray.errors import ShardError, StorageError
from sttn_ray.model.generator import Generator, GeneratorConfig
from sttn_ray.training import best, loop
from sttn_ray.training.best import ValidationWriter
from sttn_ray.training.checkpoints import find_checkpoints
from sttn_ray.training.data import Batch
from sttn_ray.training.loop import LoopSettings, train_to_end
from sttn_ray.training.metrics import Writer, read_metrics
from sttn_ray.training.starts import MAX_STARTS, count_start, forget_starts, note_fault
from sttn_ray.training.state import create_networks, create_state
from sttn_ray.training.step import StepSettings
from sttn_ray.training.validation import Example

TINY = GeneratorConfig(channels=16, num_blocks=1, width=96, height=48, mask_keys=True)
SETTINGS = LoopSettings(
    step=StepSettings(
        learning_rate=1e-3,
        decay_at=(),
        hole_weight=1.0,
        valid_weight=1.0,
        adversarial_weight=0.01,
        adversarial_loss="hinge",
    ),
    num_steps=7,
    batch_size=2,
    log_interval=2,
    checkpoint_interval=100,
    validation_interval=100,
)


def make_batches() -> Iterator[Batch]:
    rng = torch.Generator().manual_seed(0)
    number = 0
    while True:
        frames = torch.randint(0, 255, (2, 3, 3, 48, 96), generator=rng, dtype=torch.uint8)
        masks = torch.zeros(2, 3, 1, 48, 96, dtype=torch.uint8)
        masks[..., 8:24, 10:40] = 1
        number += 1
        yield Batch([f"a{number}", f"b{number}"], frames, masks)


def run_loop(
    run_dir: Path,
    settings: LoopSettings,
    has_notice: Callable[[], bool] = lambda: False,
    *,
    is_compiled: bool = False,
    num_kept: int = 10,
    examples: Sequence[Example] = (),
    batches: Iterator[Batch] | None = None,
) -> tuple[list[int], str | None]:
    """The steps at which a checkpoint was kept, and what ended the loop."""
    generator, discriminator = create_networks(TINY, seed=0, initialization="fast")
    if is_compiled:
        generator.compile()
    state = create_state(generator, discriminator, beta1=0.0, beta2=0.99, keeps_average=True)
    fault = train_to_end(
        state,
        batches or make_batches(),
        replace(settings, num_checkpoints=num_kept),
        rank=0,
        num_workers=1,
        run_dir=run_dir,
        examples=examples,
        has_notice=has_notice,
    )
    return [int(name.removeprefix("step-")) for name in find_checkpoints(run_dir)], fault


def test_checkpoints_come_at_their_interval_and_at_the_end(tmp_path: Path) -> None:
    assert run_loop(tmp_path, replace(SETTINGS, checkpoint_interval=3)) == ([3, 6, 7], None)
    lines = read_metrics(tmp_path / "metrics.jsonl")
    assert [line["step"] for line in lines] == [2, 3, 4, 6, 7]
    assert lines[1]["clip_ids"] == ["a3", "b3"]


def test_only_the_last_checkpoints_are_kept(tmp_path: Path) -> None:
    assert run_loop(tmp_path, replace(SETTINGS, checkpoint_interval=2), num_kept=2) == ([6, 7], None)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["step-00000006", "step-00000007"]


def test_a_notice_brings_a_checkpoint_with_the_next_line(tmp_path: Path) -> None:
    notices = iter([False, True, False, False])
    assert run_loop(tmp_path, SETTINGS, lambda: next(notices)) == ([4, 7], None)


def test_a_gradient_that_is_no_number_ends_the_loop_and_names_step_and_clips(tmp_path: Path) -> None:
    settings = replace(SETTINGS, step=replace(SETTINGS.step, learning_rate=1e30))
    kept, fault = run_loop(tmp_path, settings)
    assert kept == []
    assert fault is not None
    assert "the gradient of step 1 is not finite; its clips: a1, b1" in fault


def make_away(run_dir: Path, steps: Sequence[int]) -> Callable[[], bool]:
    """For `has_notice`, which is asked before each validation: at these steps the folder takes no picture."""
    numbers, path = count(1), run_dir / "validation"

    def ask() -> bool:
        if next(numbers) in steps:
            path.touch()
        elif path.is_file():
            path.unlink()
        return False

    return ask


def make_example() -> Example:
    rng = np.random.default_rng(0)
    masks = np.zeros((3, 48, 96), bool)
    masks[:, 10:20, 20:50] = True
    return Example("a", rng.integers(0, 255, (3, 48, 96, 3), np.uint8), masks)


VALIDATING = replace(SETTINGS, num_steps=4, log_interval=1, validation_interval=1)


def test_training_goes_on_where_a_store_is_away_during_a_validation(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    steady, away = tmp_path / "steady", tmp_path / "away"
    for folder, steps in ((steady, []), (away, [1])):
        folder.mkdir()
        found = run_loop(folder, VALIDATING, make_away(folder, steps), examples=[make_example()])
        assert found == ([4], None)
    assert caplog.text.count("what validation found is not written yet") == 1
    names = ["best.json", "best.pt", *(f"validation/step-0000000{n}.png" for n in range(1, 5))]
    assert all((away / name).read_bytes() == (steady / name).read_bytes() for name in names)


def test_what_was_not_written_comes_with_the_next_checkpoint_its_record_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run goes on after the checkpoint: what a validation before it found would never be written."""
    torch.manual_seed(0)
    generator, strip = Generator(TINY), np.zeros((4, 4, 3), np.uint8)
    writer, order = ValidationWriter(tmp_path), []
    plain, refused = best.published, {"best.json"}

    def published(path: Path) -> AbstractContextManager[Path]:
        if path.name in refused:
            raise StorageError(f"{path}: cannot be written (away)")
        order.append(path.name)
        return plain(path)

    monkeypatch.setattr(best, "published", published)
    writer.write(1, strip, {"hole_psnr": 20.0}, generator)  # best.pt is there, its record is not
    refused.clear()
    writer.write(2, strip, {"hole_psnr": 21.0}, generator)
    assert order == ["step-00000001.png", "best.pt", "step-00000002.png", "best.pt", "best.json"]
    refused.add("best.pt")
    writer.write(3, strip, {"hole_psnr": 22.0}, generator)
    writer.flush_if_possible()
    assert '"step": 2' in (tmp_path / "best.json").read_text()
    refused.clear()
    writer.flush_if_possible()
    assert '"step": 3' in (tmp_path / "best.json").read_text()


def test_a_store_that_is_away_at_the_end_hides_no_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Begun again, the training would come to the same gradient."""
    monkeypatch.setattr(loop, "_find_fault", lambda state, *_: "not finite" if state.step == 2 else None)
    (tmp_path / "checkpoints").touch()  # no checkpoint comes there
    assert run_loop(tmp_path, replace(VALIDATING, checkpoint_interval=1))[1] == "not finite"
    assert "what the last steps wrote is lost" in caplog.text


def test_training_ends_where_a_store_is_away_for_two_validations(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"validation/step-00000001\.png: cannot be written"):
        run_loop(tmp_path, VALIDATING, make_away(tmp_path, [1, 2]), examples=[make_example()])
    assert [line["step"] for line in read_metrics(tmp_path / "metrics.jsonl")] == [1]


def test_whatever_ends_the_loop_its_files_are_closed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    writers = []
    plain = Writer.__init__
    monkeypatch.setattr(Writer, "__init__", lambda self, *a, **k: (writers.append(self), plain(self, *a, **k))[1])

    def broken() -> Iterator[Batch]:
        yield from islice(make_batches(), 3)
        raise ShardError("the clip is gone")

    with pytest.raises(ShardError, match="the clip is gone"):
        run_loop(tmp_path, replace(SETTINGS, checkpoint_interval=2), batches=broken())
    assert writers[0]._metrics._file.closed
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("checkpoint")]
    assert find_checkpoints(tmp_path) == ["step-00000002"]  # what was under way is there


def test_starts_from_one_place_are_limited(tmp_path: Path) -> None:
    forget_starts(tmp_path)
    assert [count_start(tmp_path, None, 2) for _ in range(MAX_STARTS)] == [None] * MAX_STARTS
    note_fault(tmp_path, "the disk is gone")
    told = count_start(tmp_path, None, 2)
    assert told == (
        "the workers died 4 times after the beginning, before another checkpoint; the last: the disk is gone; "
        "the same command goes on from there"
    )
    # From a checkpoint, or with other workers, they begin to count anew.
    assert count_start(tmp_path, "bucket/run/step-00000004", 2) is None
    assert count_start(tmp_path, "bucket/run/step-00000004", 1) is None
    for _ in range(MAX_STARTS - 1):
        assert count_start(tmp_path, "bucket/run/step-00000004", 1) is None
    assert "after step-00000004" in (count_start(tmp_path, "bucket/run/step-00000004", 1) or "")
    forget_starts(tmp_path)
    assert count_start(tmp_path, "bucket/run/step-00000004", 1) is None


@pytest.mark.slow
@pytest.mark.skipif(not shutil.which("g++"), reason="torch compiles with a C++ compiler")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of torch's own modules
def test_a_compiled_generator_learns_the_same(tmp_path: Path) -> None:
    settings = replace(SETTINGS, num_steps=3, log_interval=1)
    for name in ("plain", "compiled"):
        (tmp_path / name).mkdir()
        assert run_loop(tmp_path / name, settings, is_compiled=name == "compiled") == ([3], None)
    plain, compiled = (
        [line["hole"] for line in read_metrics(tmp_path / name / "metrics.jsonl")] for name in ("plain", "compiled")
    )
    assert compiled == pytest.approx(plain, rel=1e-3)
