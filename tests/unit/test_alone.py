"""Where a Ray of one machine keeps its files and its token."""

import os
import re
import stat
import tempfile
from pathlib import Path

import pytest

from sttn_ray import cluster
from sttn_ray.alone import close_token, ray_folder
from sttn_ray.errors import ConfigError
from tests.store import free_port


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A home and a folder for temporary files of this test's own."""
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    for name in ("RAY_AUTH_MODE", "RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH", "RAY_TMPDIR"):
        monkeypatch.delenv(name, raising=False)
    return home


def mode(path: str | Path) -> int:
    return stat.S_IMODE(os.stat(path).st_mode)


def test_a_token_is_made_for_its_user_alone_and_kept(home: Path) -> None:
    token = home / ".ray" / "auth_token"
    close_token()
    text = token.read_text()
    assert len(text) == 64
    assert (mode(token.parent), mode(token)) == (0o700, 0o600)
    assert [path.name for path in token.parent.iterdir()] == ["auth_token"]
    close_token()
    assert token.read_text() == text


def test_a_token_that_others_may_read_is_closed(home: Path) -> None:
    token = home / ".ray" / "auth_token"
    token.parent.mkdir()
    token.write_text("abc")
    token.chmod(0o644)
    close_token()
    assert (mode(token), token.read_text()) == (0o600, "abc")


@pytest.mark.parametrize("name", ["RAY_AUTH_TOKEN", "RAY_AUTH_TOKEN_PATH"])
def test_a_token_of_the_users_own_is_left_alone(home: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    monkeypatch.setenv(name, "mine")
    close_token()
    assert not (home / ".ray").exists()


def test_without_a_home_a_run_has_a_token_of_its_own(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (home / ".ray").write_text("a file")
    monkeypatch.setenv("RAY_AUTH_TOKEN", "")
    close_token()
    assert len(os.environ["RAY_AUTH_TOKEN"]) == 64


def test_rays_folder_lies_where_nobody_else_may_enter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    base = Path(tempfile.mkdtemp(dir="/tmp"))
    monkeypatch.setattr(tempfile, "tempdir", str(base))
    first = ray_folder()
    assert first == ray_folder()
    folder = Path(first).parent
    assert (folder.parent, mode(folder)) == (base, 0o700)
    folder.chmod(0o777)
    assert ray_folder() == first
    assert mode(folder) == 0o700
    # Somebody else's, or a link to anywhere: another one is taken.
    folder.rmdir()
    folder.symlink_to(tmp_path)
    second = Path(ray_folder()).parent
    assert second != folder
    assert (second.parent, mode(second)) == (base, 0o700)
    assert not (tmp_path / "ray").exists()


def test_a_folder_too_deep_for_sockets_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    assert Path(ray_folder()).parent.parent == Path("/tmp")
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    assert ray_folder() is None
    short = tempfile.mkdtemp(dir="/tmp")
    monkeypatch.setenv("RAY_TMPDIR", short)
    assert ray_folder() == f"{short}/sttn-ray-{os.getuid()}/ray"


@pytest.mark.parametrize("host", ["127.0.0.1", "[::1]"])
def test_a_cluster_where_nobody_listens_is_told_at_once(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Ray by itself looks for it for minutes."""
    address = f"{host}:{free_port()}"
    monkeypatch.setenv("RAY_ADDRESS", address)
    with pytest.raises(ConfigError, match=re.escape(f"RAY_ADDRESS={address}: no Ray cluster answers there")):
        cluster.connect()
