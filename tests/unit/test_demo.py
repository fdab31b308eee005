"""The settings of the demo."""

from pathlib import Path

import pytest
import yaml

from pipelines import demo


def settings(capsys: pytest.CaptureFixture[str], *words: str) -> dict[str, dict[str, object]]:
    with pytest.raises(SystemExit) as ended:
        demo.main([*words, "--print-config"])
    assert ended.value.code == 0
    return yaml.safe_load(capsys.readouterr().out)


def test_real_videos_are_trained_on_for_longer(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    made = settings(capsys)["train"]["num_steps"]
    (tmp_path / "mine.yaml").write_text("demo: {media: videos}")
    for words in (["demo.media=videos"], [str(tmp_path / "mine.yaml")]):
        real = settings(capsys, *words)["train"]["num_steps"]
        assert isinstance(real, int)
        assert isinstance(made, int)
        assert real > made


def test_what_is_given_stands(capsys: pytest.CaptureFixture[str]) -> None:
    given = settings(capsys, "train.num_steps=7", "demo.media=videos", "masks.text=0")
    assert given["train"]["num_steps"] == 7
    assert given["masks"]["text"] == 0


def test_wrong_words_are_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        demo.main(["demo.medai=videos"])
    assert ended.value.code == 2
    assert capsys.readouterr().err == "error: demo.medai: no such setting; did you mean demo.media?\n"
