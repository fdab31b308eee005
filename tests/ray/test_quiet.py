"""What a job says on standard error where that is a file, and what it starts on a Ray of its own."""

import re
import subprocess
import sys
from pathlib import Path

from tests.media import make_video
from tests.processes import ROOT

# The program, and then which actors Ray knows by a name: those that Ray Data starts for itself outlive a dataset.
TOLD = """
import sys
import ray
from pipelines.inpaint import main
status = main(sys.argv[1:])
print(ray.util.list_named_actors(all_namespaces=True))
sys.exit(status)
"""


def test_a_job_says_what_it_does_and_where_rays_own_lines_are(tmp_path: Path, checkpoint: Path) -> None:
    video = make_video(tmp_path / "film.mp4", num_frames=12)
    request = {"video": video, "boxes": "16,12,30,20", "output": tmp_path / "out", "checkpoint": checkpoint}
    words = [f"inpaint.{name}={value}" for name, value in request.items()]
    done = subprocess.run([sys.executable, "-c", TOLD, *words], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    first, second, *counts, last = done.stderr.splitlines()
    told = re.fullmatch(r"started Ray on this machine with \d+ logical CPUs; Ray's own log: (\S+)", first)
    assert told, done.stderr
    assert second.startswith("1 video, network 16 channels")
    assert all("videos" in line for line in counts), done.stderr
    assert last.startswith("1 done (12 frames)")
    assert done.stdout.splitlines()[-1] == "[]"
    assert "\x1b" not in done.stderr + done.stdout
    assert "core_worker.cc" in "".join(path.read_text() for path in Path(told[1]).glob("sttn-ray-driver.err.*"))
