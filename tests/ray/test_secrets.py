"""No way to fail shows a secret, or writes a character that steers a terminal: all that refused and failing runs say.

Secrets stand wherever a person could put one; names of files, zip members and catalog rows hold what a stranger may
have put there.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path

import av
import numpy as np
import pyarrow.parquet as pq
import pytest
import torch

from sttn_ray.command import main
from tests.media import make_damaged_copy, make_images, make_video, zip_folder
from tests.processes import run
from tests.ray.conftest import ray_address
from tests.store import client, free_port

KEY, SECRET, TOKEN = "AKIAIOSFODNN7EXAMPLE", "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY", "hunter2Signature"
URLS = [
    f"s3://{KEY}:{SECRET}@archive/a.mp4",
    f"s3://{SECRET}@archive/a.mp4",
    f"https://me:{SECRET}@example.org/a.mp4",
    f"https://example.org/a.mp4?X-Amz-Credential={KEY}%2F2026&X-Amz-Signature={TOKEN}",
    f"https://example.org/a.mp4?sv=2024&sig={TOKEN}",
    f"s3://archive/a.mp4?X-Amz-Security-Token={TOKEN}",
    f"gs://archive/a.mp4?X-Goog-Signature={TOKEN}",
]
EVIL = "a\x1b[31m\nerror: forged\u202e\u2066\x85\x07b"
STEERING = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069]")
BOX = "16,12,30,20"


def assert_clean(text: str) -> None:
    for part in (SECRET, TOKEN, SECRET.split("/")[1], "rfiCYEXAMPLE"):
        assert part not in text
    assert not STEERING.search(text), text
    assert not any(line.lstrip().startswith("error: forged") for line in text.splitlines()), text


def assert_refused(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(words)
    told = capsys.readouterr()
    assert ended.value.code == 2, (words, told)
    assert_clean(told.out + told.err)


def strings_of(value: object) -> Iterator[str]:
    """All texts in lists and dictionaries."""
    if isinstance(value, dict):
        value = [*value.keys(), *value.values()]
    if isinstance(value, list):
        for part in value:
            yield from strings_of(part)
    elif isinstance(value, str):
        yield value


def assert_folder_clean(folder: Path) -> None:
    """Records, tables, settings and pages of a run, and of records what they read back as."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    assert paths
    for path in paths:
        if path.suffix in (".json", ".yaml", ".html", ".jsonl"):
            assert_clean(path.read_text())
        if path.name == "outcome.json":
            assert_clean(json.loads(path.read_text()).get("reason", ""))
        if path.name == "manifest.parquet":
            for text in strings_of(pq.read_table(path).to_pylist()):
                assert_clean(text)


def words_with(url: str) -> list[list[str]]:
    """Command lines that hold an address wherever one could stand."""
    fine = ["inpaint.video=a.mp4", f"inpaint.boxes={BOX}", "inpaint.output=out", "inpaint.checkpoint=a.pt"]
    keys = ("video", "mask", "boxes", "catalog", "output", "checkpoint", "codec", "no_such_key", "preview")
    inpaint = [["inpaint", *fine, f"inpaint.{key}={url}"] for key in keys]
    return [
        *inpaint,
        ["inpaint", url, "--mask", url, "-o", url, "--checkpoint", url],
        ["inpaint", url, url],
        ["inpaint", f"--nothing={url}"],
        ["inpaint", "--catalog", url],
        ["inpaint", f"{url}.yaml"],
        ["inpaint", f"{url}.x=1"],
        ["inpaint", f"storage.endpoint_url={url}", *fine],
        ["inpaint", "--print-config", f"storage.endpoint_url={url}", f"run.dir={url}"],
        ["build-shards", f"corpus.root={url}", f"shards.dir={url}", f"corpus.manifest={url}"],
        ["build-shards", "--verify", url],
        ["build-shards", "corpus.root=a", f"shards.dir={url}", "--nothing"],
        ["train", f"run.dir={url}", f"shards.dir={url}", f"train.start_from={url}"],
        ["train", "--summary", url],
        ["tune", f"run.dir={url}", f"tune.space={{train.start_from: 'choice({url})'}}"],
        ["demo", f"demo.output={url}", f"demo.media={url}"],
        [url],
    ]


@pytest.mark.parametrize("url", URLS)
def test_a_request_with_a_secret_is_refused_without_it(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.yaml").write_text(
        json.dumps({"inpaint": {"video": url}, "storage": {"endpoint_url": url, "x": url}})
    )
    (tmp_path / "b.yaml").write_text(f"inpaint: [{url}\n")
    (tmp_path / "c.yaml").write_text(f'- "{url}"')
    lines = [*words_with(url), ["inpaint", "a.yaml"], ["inpaint", "b.yaml"], ["inpaint", "c.yaml"]]
    for words in lines:
        assert_refused(words, capsys)
    assert {path.name for path in tmp_path.iterdir()} == {"a.yaml", "b.yaml", "c.yaml"}


def test_a_request_with_characters_that_steer_is_refused_without_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for words in words_with(EVIL):
        assert_refused(words, capsys)


@pytest.mark.parametrize("name", ["AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"])
@pytest.mark.parametrize("url", URLS)
def test_an_environment_with_a_secret_is_refused_without_it(
    url: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv(name, url)
    for words in (
        ["inpaint", "a.mp4", "--boxes", BOX, "-o", str(tmp_path), "--checkpoint", "a.pt"],
        ["build-shards", "corpus.root=s3://a", f"shards.dir={tmp_path}"],
        ["build-shards", "--verify", "s3://a"],
        ["train", "--summary", "s3://a"],
        ["train", f"run.dir={tmp_path}", "shards.dir=s3://a"],
        ["tune", f"run.dir={tmp_path}", "shards.dir=s3://a", "tune.space={train.hole_weight: 'uniform(1, 6)'}"],
    ):
        assert_refused(words, capsys)


@pytest.fixture
def archive(tmp_path: Path, bucket: str, store: str) -> Path:
    """A catalog with a row for each way to fail, and one that is done."""
    folder = tmp_path / "archive"
    (folder / EVIL).mkdir(parents=True)
    whole = make_video(folder / f"{EVIL}.mp4", num_frames=12)
    make_damaged_copy(whole, folder / f"{EVIL}-damaged.mp4", start=0.3, stop=0.6)
    (folder / f"{EVIL}-empty.mp4").write_bytes(b"")
    (folder / f"{EVIL}-text.mp4").write_text("no video")
    make_video(folder / f"{EVIL}-odd.mkv", num_frames=4, metadata={"title": f"{EVIL} {URLS[0]}"})
    masks = folder / "masks" / EVIL
    make_images(masks, [np.zeros((64, 96), np.uint8)] * 12)
    (masks / f"{EVIL}.png").write_bytes(b"no image")
    zip_folder(masks, folder / f"{EVIL}.zip")
    client(store).pipe_file(f"{bucket}/a\u202eb.mp4", b"no video")
    film = f"{EVIL}.mp4"
    rows: list[dict[str, str]] = [
        {"video": film, "boxes": BOX},
        {"video": f"{EVIL}-odd.mkv", "boxes": "1,1,8,8@90-99"},
        *({"video": url, "boxes": BOX} for url in URLS),
        *({"video": film, "mask": url, "output": f"m{n}"} for n, url in enumerate(URLS)),
        *({"video": film, "boxes": url, "output": f"b{n}"} for n, url in enumerate(URLS)),
        *({"video": film, "boxes": BOX, "output": url} for url in URLS),
        *({"video": f"{EVIL}-{kind}.mp4", "boxes": BOX} for kind in ("damaged", "empty", "text", "missing")),
        {"video": film, "mask": f"{EVIL}.zip", "output": "zip"},
        {"video": film, "mask": f"masks/{EVIL}", "output": "folder"},
        {"video": film, "mask": f"{EVIL}-missing.png", "output": "mask"},
        {"video": film, "boxes": f"1,2,{EVIL}", "output": f"../{EVIL}"},
        {"video": film, "boxes": f"1,2,{EVIL}", "output": "boxes"},
        {"video": film, "output": "neither"},
        {"video": f"{bucket}/a\u202eb.mp4", "boxes": BOX},
        {"video": f"{bucket}/{EVIL}-missing.mp4", "boxes": BOX},
        {"video": f"s3://no-such-bucket/{EVIL}.mp4", "boxes": BOX},
    ]
    (folder / f"{EVIL}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_a_run_in_which_everything_fails_shows_no_secret(
    archive: Path, checkpoint: Path, cluster: None, tmp_path: Path
) -> None:
    output = tmp_path / "out"
    words = [f"inpaint.catalog={archive}/{EVIL}.jsonl", f"inpaint.checkpoint={checkpoint}", f"inpaint.output={output}"]
    words += ["inpaint.segment_frames=10", "encode.preset=ultrafast", "inpaint.max_error_fraction=1"]
    for more in (["--dry-run"], ["inpaint.preview=100"], [], []):
        said = run("pipelines.inpaint", *words, *more, **ray_address())
        assert said.returncode == 1, said.text
        assert_clean(said.text)
        if not more:
            assert r"a\x1b[31m\nerror: forged" in said.text
            assert "s3://...@archive/a.mp4: holds a key, a password or a signature" in said.text
    rows = pq.read_table(output / "manifest.parquet").to_pylist()
    assert len(rows) == len((archive / f"{EVIL}.jsonl").read_text().splitlines())
    assert rows[0]["status"] == "done", rows[0]
    assert all(row["status"] == "failed" and not row["is_unexpected"] for row in rows[1:]), rows
    assert_folder_clean(output)
    # A film that plays is done whatever its name is.
    with av.open(output / f"{EVIL}.mp4") as container:
        assert sum(1 for _ in container.decode(video=0)) == 12


def test_a_catalog_or_a_checkpoint_that_cannot_be_used_is_told_without_a_secret(
    tmp_path: Path, cluster: None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    make_video(tmp_path / "a.mp4", num_frames=2)
    texts = {
        f"{EVIL}.csv": f"video,{EVIL},{URLS[0]}\na,b,c\n",
        "many.csv": f"video,boxes\n{URLS[0]},1,2,3,{EVIL}\n",
        "bad.jsonl": f'{{"video": "{URLS[0]}"\n',
        f"{EVIL}.txt": URLS[0],
        "empty.csv": "video\n",
    }
    for name, text in texts.items():
        (tmp_path / name).write_text(text)
    (tmp_path / "text.pt").write_text(URLS[0] + EVIL)
    torch.save({EVIL: 1, URLS[0]: 2}, tmp_path / "keys.pt")
    torch.save({"format_version": URLS[0] + EVIL}, tmp_path / "version.pt")
    torch.save({"netG": {EVIL: torch.zeros(1), URLS[0]: torch.zeros(1)}}, tmp_path / "weights.pt")
    catalogs = [["--catalog", name, "--checkpoint", "text.pt"] for name in [*texts, f"no{EVIL}.csv"]]
    names = ("text", "keys", "version", "weights", f"no{EVIL}")
    checkpoints = [["a.mp4", "--boxes", BOX, "--checkpoint", f"{name}.pt"] for name in names]
    for words in [*catalogs, *checkpoints]:
        assert_refused(["inpaint", *words, "-o", "out"], capsys)


def test_shards_of_a_corpus_with_such_names(archive: Path, cluster: None, tmp_path: Path) -> None:
    shards = tmp_path / "shards"
    (archive / "corpus.csv").write_text(
        "path\n" + "".join(f'"{name}"\n' for name in (f"{EVIL}.mp4", f"{EVIL}-text.mp4", f"no{EVIL}.mp4", *URLS))
    )
    words = [f"corpus.root={archive}", f"shards.dir={shards}", "model.preset=small", "shards.masks_per_family=1"]
    for more in (["corpus.validation_share=0"], [f"corpus.manifest={archive}/corpus.csv", "corpus.validation_share=0"]):
        said = run("pipelines.build_shards", *words, *more, **ray_address())
        assert said.returncode == 1, said.text
        assert_clean(said.text)
        assert r"a\x1b[31m\nerror: forged" in said.text
    reasons = pq.read_table(shards / "videos.parquet").column("reason").to_pylist()
    for reason in filter(None, reasons):
        assert_clean(reason)
    assert_clean(run("pipelines.build_shards", "--verify", str(shards)).text)


@pytest.mark.slow
def test_a_store_that_is_away_is_told_without_a_secret(checkpoint: Path, tmp_path: Path) -> None:
    """It is asked for a minute or so before it is given up."""
    away = {"AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{free_port()}", "AWS_SECRET_ACCESS_KEY": SECRET}
    words = [
        f"inpaint.catalog=s3://archive/{EVIL}.csv",
        f"inpaint.checkpoint={checkpoint}",
        f"inpaint.output={tmp_path}",
    ]
    said = run("pipelines.inpaint", *words, **away, AWS_ACCESS_KEY_ID=KEY, AWS_SESSION_TOKEN=TOKEN)
    assert said.returncode == 2
    assert r"a\x1b[31m\nerror: forged" in said.text
    assert "cannot be read" in said.text
    assert_clean(said.text)
