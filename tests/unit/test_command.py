"""The `sttn-ray` command turns flags into the words that programs read."""

from types import SimpleNamespace

import pytest

import sttn_ray
from pipelines import inpaint
from sttn_ray import command


class FakeProgram:
    """Keeps the words it is started with, and ends with a status of its own."""

    def __init__(self) -> None:
        self.words: dict[str, list[str]] = {}

    def load(self, name: str) -> SimpleNamespace:
        def main(argv: list[str]) -> int:
            self.words[name] = argv
            return 7

        return SimpleNamespace(main=main, SECTIONS=inpaint.SECTIONS)


@pytest.fixture
def program(monkeypatch: pytest.MonkeyPatch) -> FakeProgram:
    fake = FakeProgram()
    monkeypatch.setattr(command, "load_program", fake.load)
    return fake


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (
            "film.mp4 --mask logo.png -o out/ --checkpoint sttn.pth",
            "inpaint.video=film.mp4 inpaint.mask=logo.png inpaint.output=out/ inpaint.checkpoint=sttn.pth",
        ),
        ("--boxes 0,0,10%,10% film.mp4", "inpaint.video=film.mp4 inpaint.boxes=0,0,10%,10%"),
        ("--catalog=films.csv --output out", "inpaint.catalog=films.csv inpaint.output=out"),
        ("archive.yaml encode.crf=18", "archive.yaml encode.crf=18"),
        # Settings may stand on both sides of a flag; flags come last, so that they win over a file.
        ("encode.crf=18 -o out old.yml run.device=cpu", "encode.crf=18 old.yml run.device=cpu inpaint.output=out"),
        ("--dry-run film.mp4", "inpaint.video=film.mp4 --dry-run"),
        ("--print-config film.mp4", "inpaint.video=film.mp4 --print-config"),
        # Not a setting, but the program can say best what is wrong with it.
        ("crf=18", "crf=18"),
        ("", ""),
    ],
)
def test_flags_become_words(program: FakeProgram, line: str, words: str) -> None:
    assert command.main(["inpaint", *line.split()]) == 7
    assert program.words == {"inpaint": words.split()}


def test_a_path_with_spaces_stays_one_word(program: FakeProgram) -> None:
    command.main(["inpaint", "my film.mp4", "--mask", "my logo.png"])
    assert program.words["inpaint"] == ["inpaint.video=my film.mp4", "inpaint.mask=my logo.png"]


@pytest.mark.parametrize("name", ["build-shards", "train", "tune", "demo"])
def test_other_programs_get_all_their_words(program: FakeProgram, name: str) -> None:
    assert command.main([name, "--help", "run.seed=3"]) == 7
    assert program.words == {name: ["--help", "run.seed=3"]}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("", "required: program"),
        ("paint film.mp4", "'paint'"),
        ("inpaint film.mp4 --maks logo.png", "--maks"),
        ("inpaint a.mp4 b.mp4", "--catalog"),
    ],
)
def test_a_wrong_line_exits_2_and_starts_nothing(
    program: FakeProgram, capsys: pytest.CaptureFixture[str], line: str, message: str
) -> None:
    with pytest.raises(SystemExit) as exit_info:
        command.main(line.split())
    assert exit_info.value.code == 2
    assert message in capsys.readouterr().err
    assert not program.words


def test_help_shows_flags_and_every_setting(program: FakeProgram, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        command.main(["inpaint", "--help"])
    assert exit_info.value.code == 0
    text = capsys.readouterr().out
    assert all(word in text for word in ("--mask", "--catalog", "inpaint.dilation_px=", "encode.crf=", "run.device="))
    assert not program.words


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as exit_info:
        command.main(["--version"])
    assert exit_info.value.code == 0
    assert capsys.readouterr().out == f"sttn-ray {sttn_ray.__version__}\n"


def test_programs_are_found() -> None:
    assert command.load_program("inpaint").SECTIONS == inpaint.SECTIONS
    for name in command.PROGRAMS:
        assert callable(command.load_program(name).main)
