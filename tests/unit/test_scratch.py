import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from sttn_ray.scratch import PREFIX

HOLD = """
import sys, time
from sttn_ray.scratch import scratch_folder
with scratch_folder() as folder:
    (folder / "film.mp4").write_bytes(bytes(1000))
    print(folder, flush=True)
    time.sleep({seconds})
"""


@contextmanager
def holder(tmpdir: Path, seconds: float) -> Iterator[tuple[subprocess.Popen[str], Path]]:
    """A process with a scratch folder, which it holds for some time, or until the block ends."""
    with subprocess.Popen(
        [sys.executable, "-c", HOLD.format(seconds=seconds)],
        env={**os.environ, "TMPDIR": str(tmpdir)},
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        yield process, Path(process.stdout.readline().strip())
        if seconds:
            process.kill()


def test_a_folder_vanishes_with_its_block(tmp_path: Path) -> None:
    with holder(tmp_path, 0.0) as (process, folder):
        assert folder.parent == tmp_path
    assert process.returncode == 0
    assert not any(tmp_path.iterdir())


def test_a_killed_process_leaves_a_folder_until_the_next_one_comes(tmp_path: Path) -> None:
    (tmp_path / "sttn-ray-others").mkdir()
    with holder(tmp_path, 600.0) as (_, held):
        with holder(tmp_path, 600.0) as (_, left):
            pass
        assert (left / "film.mp4").is_file()
        with holder(tmp_path, 0.0):
            pass
        assert not left.exists()
        assert (held / "film.mp4").is_file()  # somebody works in it
        assert {path.name for path in tmp_path.iterdir()} == {held.name, "sttn-ray-others"}


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "file").write_text("kept")
    (tmp_path / f"{PREFIX}link").symlink_to(precious)
    with holder(tmp_path, 0.0):
        pass
    assert (precious / "file").read_text() == "kept"
