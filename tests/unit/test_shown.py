"""What people see of other people's text: no credentials, and no character that steers a terminal."""

import logging
import pickle
import sys

import pytest

from sttn_ray.addresses import endpoint_fault, holds_secret
from sttn_ray.catalog.items import Item
from sttn_ray.catalog.manifest import manifest_row
from sttn_ray.config import load_experiment
from sttn_ray.errors import ConfigError, VideoError, failed_outcome
from sttn_ray.paths import as_path, use_endpoint
from sttn_ray.shown import ShownFormatter, as_html, shown, shown_lines

SECRET = "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"  # the one of AWS's documentation: with a slash in it
TOKEN = SECRET.split("/")[1]
WITH_SECRETS = [
    (f"s3://AKIAIOSFODNN7EXAMPLE:{SECRET}@archive/a.mp4", "s3://...@archive/a.mp4"),
    (f"s3://{SECRET}@archive/a.mp4", "s3://...@archive/a.mp4"),
    (f"s3:/AKIAIOSFODNN7EXAMPLE:{SECRET}@archive/a.mp4", "s3:/...@archive/a.mp4"),  # as pathlib has it
    (f"s3://me:{SECRET}@2@archive/a.mp4", "s3://...@archive/a.mp4"),
    (f"https://me:{SECRET}@example.org/a.mp4", "https://...@example.org/a.mp4"),
    (f"https://{TOKEN}@example.org", "https://...@example.org"),
    (f"//me:{SECRET}@server/share", "//...@server/share"),
    (f"https://example.org/a.mp4?X-Amz-Signature={SECRET}&x=1", "https://example.org/a.mp4?..."),
    (f"https://example.org/a.mp4?sv=2024&sig={SECRET}", "https://example.org/a.mp4?..."),
    (f"https://example.org/#access_token={SECRET}", "https://example.org/#..."),
    (f"https://example.org/x#{TOKEN}", "https://example.org/x#..."),
    (f"s3://archive/a.mp4?X-Amz-Security-Token={SECRET}&versionId=7", "s3://archive/a.mp4?X-Amz-Security-Token=...&v"),
    (
        f"s3://archive/a.mp4?AWSAccessKeyId=AKIA&Signature={SECRET}",
        "s3://archive/a.mp4?AWSAccessKeyId=...&Signature=...",
    ),
]
PLAIN = [
    "s3://archive/2019/a:b@c.mp4",
    "s3://archive/token=7/a.mp4",
    "s3://archive/a?b=c.mp4",
    "http://127.0.0.1:9000/archive/a@b.mp4",
    "http://[::1]:9000/a@b.mp4",
    "https://minio.example.org:9000",
    "/data/x:y/a@b.mp4",
    "me@example.org/a.mp4",
]
STEERING = "a\x1b[2J\r\n\x00\x85\u2028\u202eb\u2066\ufeff\udcff"


@pytest.mark.parametrize(("text", "expected"), WITH_SECRETS)
def test_credentials_are_hidden_wherever_they_stand(text: str, expected: str) -> None:
    assert holds_secret(text)
    for line in (text, f"{text}: no such file", f"inpaint.video={text!r}: refused", f"cannot reach '{text}' ({text})"):
        assert expected in shown(line)
        assert TOKEN not in shown(line)
        assert TOKEN not in shown(line)
        assert shown(shown(line)) == shown(line)


@pytest.mark.parametrize("text", PLAIN)
def test_other_paths_stay_as_they_are(text: str) -> None:
    assert shown(text) == text
    assert not holds_secret(text)


def test_what_is_given_as_a_secret_is_hidden_without_an_address_too() -> None:
    text = f"AWS_SECRET_ACCESS_KEY={SECRET} storage.password='{SECRET}' AKIAIOSFODNN7EXAMPLE:{SECRET}@archive"
    assert shown(text) == "AWS_SECRET_ACCESS_KEY=... storage.password='...' AKIAIOSFODNN7EXAMPLE:...@archive"


def test_what_steers_is_escaped_and_letters_of_all_languages_stay() -> None:
    assert shown(STEERING) == r"a\x1b[2J\r\n\x00\x85\u2028\u202eb\u2066\ufeff\udcff"
    for text in ("é ü 日本語\u3000動画", "\u0645\u06cc\u200c\u062e\u0648\u0627\u0647\u0645", "👩\u200d💻.mp4", "a\\nb"):
        assert shown(text) == text
    assert shown_lines("a\tb\n\x1bc") == "a\tb\n\\x1bc"
    assert as_html("<b>\x1b&") == r"&lt;b&gt;\x1b&amp;"


def test_a_long_text_is_cut_in_the_middle() -> None:
    for part in ("a", "a.", "s3:/X", "//", "x=", "s3://a:", "\x1b"):
        text = shown(part * 3_000_000 + "b")
        assert len(text) <= 10_000
        assert text.startswith(shown(part))
        assert text.endswith("b")
        assert shown(text) == text


def test_an_error_shows_its_lines_and_travels() -> None:
    error = ConfigError(f"{STEERING}: no", f"s3://me:{SECRET}@archive: no")
    lines = [r"a\x1b[2J\r\n\x00\x85\u2028\u202eb\u2066\ufeff\udcff: no", "s3://...@archive: no"]
    assert str(error).split("\n") == lines
    copy = pickle.loads(pickle.dumps(error))
    assert (type(copy), str(copy)) == (ConfigError, str(error))


def test_rows_of_failures_show_their_text() -> None:
    for error in (VideoError(STEERING + SECRET_URL), RuntimeError(STEERING + SECRET_URL)):
        outcome = failed_outcome("plan", error)
        row = manifest_row(Item(video=STEERING, mask=SECRET_URL, boxes=None, output="a"), outcome)
        assert row["video"] == shown(STEERING)
        assert TOKEN not in str(row)
        assert "\x1b" not in "".join(map(str, row.values()))


SECRET_URL = f"s3://me:{SECRET}@archive"


def test_the_log_is_shown_with_its_tracebacks() -> None:
    try:
        raise RuntimeError(STEERING + SECRET_URL)
    except RuntimeError:
        record = logging.LogRecord("x", logging.INFO, "", 1, "%s %s", (STEERING, SECRET_URL), sys.exc_info())
    line = ShownFormatter().format(record)
    assert TOKEN not in line
    assert "\x1b" not in line
    assert "\u202e" not in line
    assert "RuntimeError" in line


@pytest.mark.parametrize("key", ["inpaint.video", "inpaint.checkpoint", "inpaint.output", "corpus.root", "run.dir"])
@pytest.mark.parametrize("text", [text for text, _ in WITH_SECRETS])
def test_settings_with_credentials_are_refused(key: str, text: str) -> None:
    with pytest.raises(ConfigError, match="holds a key, a password or a signature") as raised:
        load_experiment([f"{key}={text}"])
    assert TOKEN not in str(raised.value)


def test_paths_with_credentials_are_refused() -> None:
    for text, _ in WITH_SECRETS:
        with pytest.raises(ConfigError) as raised:
            as_path(text)
        assert TOKEN not in str(raised.value)
    for text in PLAIN:
        if text.startswith(("s3://", "/", "me")):
            assert str(as_path(text)) == text


@pytest.mark.parametrize(
    "url",
    [
        f"https://me:{SECRET}@example.org",
        f"https://{TOKEN}@example.org",
        f"https://example.org?X-Amz-Signature={SECRET}",
        f"https://example.org/#token={SECRET}",
        "https://example.org/?x=1",
        "http://[x",
        "http://example.org:port",
        "example.org",
    ],
)
def test_the_address_of_a_store_is_an_address_alone(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert endpoint_fault(url)
    with pytest.raises(ConfigError) as raised:
        load_experiment([f"storage.endpoint_url={url}"])
    assert TOKEN not in str(raised.value)
    for name in ("AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"):
        with monkeypatch.context() as patch:
            patch.setenv(name, url)
            with pytest.raises(ConfigError, match=f"^{name}: ") as raised:
                use_endpoint(None)
        assert TOKEN not in str(raised.value)


def test_addresses_of_stores_are_taken() -> None:
    for url in ("http://127.0.0.1:9000", "http://[::1]:9000", "https://minio.example.org/path"):
        assert load_experiment([f"storage.endpoint_url={url}"]).storage.endpoint_url == url
