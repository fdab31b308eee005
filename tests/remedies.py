"""The commands that errors advise, run as people would."""

import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

needs_ffmpeg = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="needs the program ffmpeg")
_COMMAND = re.compile(r"ffmpeg [^()]*?OUT\.\w+")


def follow(message: str, source: Path, *, number: int = 0) -> Path:
    """Run the command that a message holds, of several the one with a number, on a file; returns what it made."""
    words = shlex.split(_COMMAND.findall(message)[number])
    made = source.with_name(f"{source.stem}-anew{Path(words[-1]).suffix}")
    paths = {"IN": str(source), f"IN{source.suffix}": str(source), words[-1]: str(made)}
    command = [words[0], "-y", "-loglevel", "error", *(paths.get(word, word) for word in words[1:])]
    subprocess.run(command, check=True, capture_output=True)
    return made
