"""Checkpoints: ours and the published layout load; anything else is refused by name and fault."""

import os
import pickle
import re
import resource
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from sttn_ray.errors import CheckpointError
from sttn_ray.model import weights
from sttn_ray.model.generator import PRESETS, Generator, GeneratorConfig
from sttn_ray.model.weights import AVERAGE, load_discriminator, load_generator, save_generator

TINY = GeneratorConfig(channels=16, num_blocks=1, width=48, height=48, grids=(1, 3), mask_keys=True)


@pytest.fixture
def generator() -> Generator:
    torch.manual_seed(0)
    return Generator(TINY)


@pytest.fixture
def data(generator: Generator) -> dict[str, Any]:
    """What our checkpoint of the generator holds."""
    return {"format_version": 1, "model": TINY.as_dict(), "generator": generator.state_dict()}


def assert_same_state(found: dict[str, Tensor], wanted: dict[str, Tensor]) -> None:
    assert list(found) == list(wanted)
    assert all(torch.equal(found[name], wanted[name]) for name in wanted)


def refused(path: Path) -> str:
    """The message that refuses a file; it names the file."""
    with pytest.raises(CheckpointError) as caught:
        load_generator(path)
    assert str(path) in str(caught.value)
    return str(caught.value).replace(str(path), "")


def peak_rss_mb() -> float:
    """The most memory that this process has had, which does not fall."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 2**10)


def test_round_trip(tmp_path: Path, generator: Generator) -> None:
    save_generator(tmp_path / "ours.pth", generator)
    loaded = load_generator(tmp_path / "ours.pth")
    assert loaded.config == TINY
    assert not loaded.training
    assert_same_state(loaded.state_dict(), generator.state_dict())


def test_our_checkpoint_holds_plain_values_only(tmp_path: Path, generator: Generator) -> None:
    save_generator(tmp_path / "ours.pth", generator)
    data = torch.load(tmp_path / "ours.pth", weights_only=True)
    assert data["format_version"] == 1
    assert data["model"] == {
        "channels": 16,
        "num_blocks": 1,
        "width": 48,
        "height": 48,
        "grids": [1, 3],
        "mask_keys": True,
    }


@pytest.mark.parametrize("mask_keys", [None, False, True])
def test_mask_keys_can_be_overridden(tmp_path: Path, generator: Generator, mask_keys: bool | None) -> None:
    save_generator(tmp_path / "ours.pth", generator)
    loaded = load_generator(tmp_path / "ours.pth", mask_keys=mask_keys)
    assert loaded.config.mask_keys is (True if mask_keys is None else mask_keys)


@pytest.mark.parametrize("prefix", ["", "module."])
@pytest.mark.parametrize("is_zip", [True, False])
def test_published_layout(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, generator: Generator, prefix: str, is_zip: bool
) -> None:
    """As saved by the published trainer, also from under DistributedDataParallel and by torch 1.1."""
    monkeypatch.setitem(PRESETS, "sttn", TINY)
    state = {prefix + name: value for name, value in generator.state_dict().items()}
    path = tmp_path / "gen_00050.pth"
    torch.save({"netG": state}, path, _use_new_zipfile_serialization=is_zip)
    loaded = load_generator(path)
    assert loaded.config == TINY  # the layout does not tell: it is the "sttn" preset
    assert_same_state(loaded.state_dict(), generator.state_dict())


def test_refuses_a_missing_file(tmp_path: Path) -> None:
    assert "no such checkpoint file" in refused(tmp_path / "gone.pth")


def test_refuses_a_folder(tmp_path: Path) -> None:
    assert "is a folder" in refused(tmp_path)


@pytest.mark.parametrize("text", ["# weights\nsee the readme\n", "hello\n", ""])
def test_refuses_text(tmp_path: Path, text: str) -> None:
    path = tmp_path / "readme.txt"
    path.write_text(text)
    message = refused(path)
    assert "cannot be read as a checkpoint" in message or "not a checkpoint" in message
    assert not re.search(r"\(\d+\)", message)  # the byte at which torch stopped


@pytest.mark.parametrize("share", [0.01, 0.5, 0.999])
def test_refuses_a_truncated_file(tmp_path: Path, generator: Generator, share: float) -> None:
    path = tmp_path / "ours.pth"
    save_generator(path, generator)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(len(whole) * share)])
    assert "is it complete?" in refused(path)


class RunsCode:
    """An object whose unpickling makes a folder."""

    def __init__(self, trace: Path) -> None:
        self.trace = trace

    def __reduce__(self) -> tuple[Callable[..., Any], tuple[str]]:
        return os.mkdir, (str(self.trace),)


@pytest.mark.parametrize("is_zip", [True, False])
def test_refuses_a_pickle_that_would_run_code(tmp_path: Path, data: dict[str, Any], is_zip: bool) -> None:
    path, trace = tmp_path / "evil.pth", tmp_path / "it-ran"
    data["generator"]["extra"] = RunsCode(trace)
    torch.save(data, path, _use_new_zipfile_serialization=is_zip)
    assert "could run code" in refused(path)
    assert not trace.exists()


def _without(name: str) -> Callable[[dict[str, Any]], None]:
    return lambda data: data.pop(name)


def _first(data: dict[str, Any]) -> tuple[dict[str, Tensor], str]:
    return data["generator"], next(iter(data["generator"]))


def _cut_weight(data: dict[str, Any]) -> None:
    state, name = _first(data)
    state[name] = state[name][:3]


def _drop_weight(data: dict[str, Any]) -> None:
    state, name = _first(data)
    del state[name]


def _add_weight(data: dict[str, Any]) -> None:
    data["generator"]["surplus"] = torch.zeros(1)


def _spoil_weight(data: dict[str, Any]) -> None:
    state, name = _first(data)
    state[name] = state[name].clone()
    state[name].view(-1)[5] = torch.nan


WEIGHT = "transformer.0.attention.query_embedding.weight"


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (_cut_weight, f"{WEIGHT} has shape (3, 16, 1, 1), expected (16, 16, 1, 1)"),
        (_drop_weight, f"missing {WEIGHT}"),
        (_add_weight, "unexpected 'surplus'"),
        (_spoil_weight, f"{WEIGHT} holds values that are not finite"),
        (_without("generator"), "no generator in this checkpoint"),
        (_without("model"), "its 'model' section is not usable"),
        (lambda data: data["model"].pop("width"), "its 'model' section is not usable"),
        (lambda data: data["model"].update(depth=2), "its 'model' section is not usable"),
        (lambda data: data["model"].update(num_blocks=2), "missing transformer.1."),
        (lambda data: data.update(format_version=2), "checkpoint format 2, this version reads 1"),
        (lambda data: data.update(format_version="1"), "checkpoint format '1'"),
    ],
)
def test_refuses_what_does_not_fit(
    tmp_path: Path, data: dict[str, Any], change: Callable[[dict[str, Any]], None], fault: str
) -> None:
    change(data)
    torch.save(data, tmp_path / "changed.pth")
    assert fault in refused(tmp_path / "changed.pth")


def test_many_faults_are_counted_not_listed(tmp_path: Path, data: dict[str, Any]) -> None:
    num_weights = len(data["generator"])
    data["generator"].clear()
    torch.save(data, tmp_path / "empty.pth")
    message = refused(tmp_path / "empty.pth")
    assert message.count("missing ") == 5
    assert f"and {num_weights - 5} more" in message


@pytest.mark.parametrize("content", [{}, {"netD": {}}, [1, 2], torch.zeros(3)])
def test_refuses_other_contents(tmp_path: Path, content: object) -> None:
    torch.save(content, tmp_path / "other.pth")
    message = refused(tmp_path / "other.pth")
    assert "no generator in this checkpoint" in message or "expected a dictionary" in message


@pytest.mark.parametrize("key", ["netG", "generator", AVERAGE])
def test_a_generator_that_is_no_table_of_weights_is_told_as_that(
    tmp_path: Path, data: dict[str, Any], key: str
) -> None:
    torch.save({"netG": []} if key == "netG" else {**data, key: []}, tmp_path / "odd.pth")
    assert f"'{key}' holds list, expected a dictionary of names and tensors" in refused(tmp_path / "odd.pth")


def test_discriminator_is_asked_for_by_its_key(tmp_path: Path, generator: Generator) -> None:
    save_generator(tmp_path / "ours.pth", generator)
    with pytest.raises(CheckpointError, match="expected the key 'netD'"):
        load_discriminator(tmp_path / "ours.pth")


def test_format_version_is_stated() -> None:
    assert weights.FORMAT_VERSION == 1


def test_published_layout_of_a_smaller_network_loads_at_its_size(tmp_path: Path) -> None:
    small = Generator(GeneratorConfig(channels=32, num_blocks=3, width=432, height=240, mask_keys=False))
    torch.save({"netG": small.state_dict()}, tmp_path / "small.pth")
    loaded = load_generator(tmp_path / "small.pth")
    assert (loaded.config.channels, loaded.config.num_blocks, loaded.config.width) == (32, 3, 432)
    assert all(torch.equal(a, b) for a, b in zip(loaded.parameters(), small.parameters(), strict=True))


def _set(name: str, value: object) -> Callable[[dict[str, Any]], None]:
    return lambda data: data["generator"].update({name: value})


def _nested(depth: int) -> list[Any]:
    """A value that takes a line for each level in the file, and twice as much room with each when written out."""
    value: list[Any] = ["x"]
    for _ in range(depth):
        value = [value, value]
    return value


BIAS = "transformer.0.attention.query_embedding.bias"


@pytest.mark.parametrize(
    ("change", "fault"),
    [
        (_set(BIAS, torch.zeros(16).to_sparse()), f"'{BIAS}' is a sparse or nested tensor, expected a dense one"),
        (_set(BIAS, torch.zeros(16, device="meta")), f"'{BIAS}' has a shape and no values"),
        (_set(BIAS, torch.zeros(16, dtype=torch.int8)), f"'{BIAS}' holds int8, expected float32, float16 or bfloat16"),
        (_set(BIAS, torch.zeros(16, dtype=torch.int64)), f"'{BIAS}' holds int64"),
        (_set(BIAS, torch.zeros(16, dtype=torch.bool)), f"'{BIAS}' holds bool"),
        (_set(BIAS, torch.zeros(16, dtype=torch.complex64)), f"'{BIAS}' holds complex64"),
        (_set(BIAS, torch.zeros(16).to(torch.float8_e4m3fn)), f"'{BIAS}' holds float8_e4m3fn"),
        (_set(BIAS, torch.full((16,), 1e300, dtype=torch.float64)), f"{BIAS} holds values that are not finite"),
        (_set(BIAS, "weights"), "its weights are not a table of names and tensors"),
        (lambda data: data["generator"].update({7: torch.zeros(1)}), "not a table of names and tensors"),
        (lambda data: data["model"].update(width=_nested(60)), "its 'model' section is not usable"),
        (lambda data: data["model"].update(channels=True), "its 'model' section is not usable"),
        (lambda data: data["model"].update(channels=10**400), "its 'model' section is not usable"),
        (lambda data: data["model"].update(width=4096, height=4096), "at most 256 blocks and 9437184 pixels"),
        (lambda data: data["model"].update(mask_keys="no"), "mask_keys true or false"),
        (lambda data: data["model"].update(grids=[997, 1009]), "least common multiple is at most 1024"),
        (lambda data: data.update(model="x" * 1_000_000), "its 'model' section is not usable"),
        (lambda data: data.update(format_version=_nested(60)), "checkpoint format [[["),
        (lambda data: data.update(format_version=None), "checkpoint format None"),
        (lambda data: (data.pop("format_version"), data.pop("generator"), data.update(a=_nested(60))), "no generator"),
    ],
)
def test_refuses_what_a_network_cannot_take(
    tmp_path: Path, data: dict[str, Any], change: Callable[[dict[str, Any]], None], fault: str
) -> None:
    change(data)
    torch.save(data, tmp_path / "changed.pth")
    message = refused(tmp_path / "changed.pth")
    assert fault in message
    assert len(message) < 2000


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_of_other_precision_load_as_float32(tmp_path: Path, data: dict[str, Any], dtype: torch.dtype) -> None:
    wanted = {name: value.to(dtype).to(torch.float32) for name, value in data["generator"].items()}
    data["generator"] = {name: value.to(dtype) for name, value in data["generator"].items()}
    torch.save(data, tmp_path / "half.pth")
    assert_same_state(load_generator(tmp_path / "half.pth").state_dict(), wanted)


def _claims(channels: int, num_blocks: int) -> dict[str, Tensor]:
    """The weights of a network of any size, by strides: all share one number."""
    with torch.device("meta"):
        network = Generator(GeneratorConfig(channels=channels, num_blocks=1, width=432, height=240, mask_keys=False))
    state = {}
    for name, value in network.state_dict().items():
        for block in range(num_blocks if name.startswith("transformer.") else 1):
            state[name.replace("transformer.0", f"transformer.{block}")] = torch.zeros(1).expand(value.shape)
    return state


@pytest.mark.parametrize("num_blocks", [1, 256])
@pytest.mark.parametrize("is_ours", [True, False])
def test_a_header_does_not_get_the_memory_it_asks_for(tmp_path: Path, num_blocks: int, is_ours: bool) -> None:
    path = tmp_path / "large.pth"
    state = _claims(4096, num_blocks)
    config = GeneratorConfig(channels=4096, num_blocks=num_blocks, width=432, height=240, mask_keys=False)
    ours = {"format_version": 1, "model": config.as_dict(), "generator": state}
    torch.save(ours if is_ours else {"netG": state}, path)
    assert path.stat().st_size < 4_000_000
    before = peak_rss_mb()
    assert "its weights claim" in refused(path)
    assert peak_rss_mb() - before < 200


def test_a_header_alone_gets_no_memory(tmp_path: Path, data: dict[str, Any]) -> None:
    data["model"].update(channels=4096, num_blocks=256, grids=[1, 3, 6, 12], width=2048, height=2048)
    torch.save(data, tmp_path / "large.pth")
    before = peak_rss_mb()
    assert "missing" in refused(tmp_path / "large.pth")
    assert peak_rss_mb() - before < 500


def test_a_zip_that_unpacks_to_more_is_not_unpacked(tmp_path: Path, generator: Generator) -> None:
    save_generator(tmp_path / "ours.pth", generator)
    with zipfile.ZipFile(tmp_path / "ours.pth") as plain, zipfile.ZipFile(tmp_path / "bomb.pth", "w", 8) as packed:
        for member in plain.infolist():
            packed.writestr(member.filename, plain.read(member))
        packed.writestr("ours/data/9999", bytes(50_000_000))
    assert "unpacks to 50" in refused(tmp_path / "bomb.pth")


@pytest.mark.parametrize(
    "make",
    [
        lambda path: torch.jit.script(torch.nn.Linear(2, 2)).save(path),
        lambda path: torch.save(torch.nn.Linear(2, 2), path),
        lambda path: torch.save({"netG": {}, "x": np.zeros(3)}, path),
        lambda path: torch.save({"netG": {}, "x": np.float64(3)}, path),
        lambda path: torch.save({"netG": {}, "x": Path("/")}, path),
        lambda path: path.write_bytes(pickle.dumps({"netG": range(3)}, 2)),
    ],
)
@pytest.mark.filterwarnings("ignore:.*torch.jit:DeprecationWarning")
def test_a_refusal_never_tells_to_load_unsafely(tmp_path: Path, make: Callable[[Path], None]) -> None:
    make(tmp_path / "other.pth")
    message = refused(tmp_path / "other.pth")
    for word in ("weights_only", "safe_globals", "Re-running", "allowlist"):
        assert word not in message


def test_what_a_refusal_advises_works(tmp_path: Path, generator: Generator) -> None:
    torch.save(generator, tmp_path / "whole.pth")
    assert "torch.save({'netG': model.state_dict()}, PATH)" in refused(tmp_path / "whole.pth")
    large = Generator(GeneratorConfig(channels=32, num_blocks=1, width=432, height=240, mask_keys=False))
    torch.save({"netG": large.state_dict()}, tmp_path / "weights.pth")
    assert_same_state(load_generator(tmp_path / "weights.pth").state_dict(), large.state_dict())


def _doubled() -> bytes:
    """The steps that make forty tuples, each of which holds the one before twice."""
    steps = b")q\x00"
    for n in range(40):
        steps += b"h" + bytes([n]) + b"h" + bytes([n]) + b"\x86q" + bytes([n + 1])
    return steps


@pytest.mark.parametrize("steps", [_doubled(), b")" + b"\x85" * 1_000_000, b"(" + b")" * 2000 + b"t"])
@pytest.mark.parametrize("is_zip", [True, False])
def test_a_key_without_end_is_not_hashed(tmp_path: Path, data: dict[str, Any], steps: bytes, is_zip: bool) -> None:
    evil = b"\x80\x02}" + steps + b"K\x01s."
    path = tmp_path / "endless.pt"
    torch.save(data, path, _use_new_zipfile_serialization=is_zip)
    if is_zip:
        with zipfile.ZipFile(path) as plain, zipfile.ZipFile(tmp_path / "evil.pt", "w") as target:
            for member in plain.infolist():
                is_pickle = member.filename.endswith("data.pkl")
                target.writestr(member.filename, evil if is_pickle else plain.read(member))
    else:
        (tmp_path / "evil.pt").write_bytes(evil)
    assert "refused" in refused(tmp_path / "evil.pt")
