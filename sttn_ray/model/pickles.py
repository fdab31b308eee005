"""Pickles looked through before they are read: a tuple in a tuple can be small in a file, and have no end written out.

A dictionary's key is hashed with all that it holds: thirty tuples, each of which holds the one before twice, would keep
a process busy for minutes, and a million in each other end it.
"""

import io
import os
import pickle
import pickletools
import struct
from pathlib import Path
from typing import Any, BinaryIO

import torch

MAX_SIZE = 1000  # of a tuple with all that it holds; those of checkpoints are shapes, and what a tensor is made of
_LEGACY_PICKLES = 5  # that begin a file of torch before 1.6; numbers follow
_ZIP, _RECORD = b"PK\x03\x04", "data.pkl"
_TUPLES = {"EMPTY_TUPLE": 0, "TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


def refuse_endless(path: Path | str) -> None:
    """Refuse a file of torch whose pickles hold tuples without end; what is none of these is left to torch to tell.

    Raises:
        pickle.UnpicklingError: it does.
        OSError, RuntimeError: it cannot be read.
    """
    if not is_zip(path):
        with open(path, "rb") as file:
            for _ in range(_LEGACY_PICKLES):
                _look_through(file)
        return
    # Torch's own reader: of two members with one name, or names in capitals, others may take another one.
    reader = torch._C.PyTorchFileReader(str(path))
    if reader.get_record_size(_RECORD) > os.path.getsize(path):
        raise RuntimeError(f"{_RECORD} unpacks to more than the file has")
    _look_through(io.BytesIO(reader.get_record(_RECORD)))


def is_zip(path: Path | str) -> bool:
    """Whether torch reads a file as a zip, which it tells by its beginning alone.

    Raises:
        OSError: it cannot be read.
    """
    with open(path, "rb") as file:
        return file.read(len(_ZIP)) == _ZIP


def _look_through(file: BinaryIO) -> None:
    """Go through a pickle's steps with the sizes of values in place of the values."""
    stack: list[int | None] = []  # None: a mark
    memo: dict[Any, int] = {}
    try:
        for step, argument, _ in pickletools.genops(file):
            name = step.name
            if name in ("BINGET", "LONG_BINGET"):
                stack.append(memo.get(argument, 1))
            elif name in ("BINPUT", "LONG_BINPUT"):
                memo[argument] = stack[-1] or 1
            elif name == "MARK":
                stack.append(None)
            else:
                wants = [kind.name for kind in step.stack_before]
                taken = _to_mark(stack) if "mark" in wants else []
                taken += [stack.pop() or 1 for _ in range(wants.index("mark") if "mark" in wants else len(wants))]
                holds = name in _TUPLES or name in ("TUPLE", "REDUCE", "NEWOBJ")
                size = 1 + sum(taken) if holds else 1
                if size > MAX_SIZE and name != "REDUCE":
                    raise pickle.UnpicklingError("it holds tuples of tuples without end")
                stack += [min(size, MAX_SIZE)] * len(step.stack_after)
    except (ValueError, IndexError, KeyError, struct.error, UnicodeError, OverflowError, EOFError):
        return


def _to_mark(stack: list[int | None]) -> list[int]:
    taken = []
    while (size := stack.pop()) is not None:
        taken.append(size)
    return taken
