"""What of a text people see: no key, no password, and no character that steers a terminal or turns a line around.

Names of files, zip members and catalog rows are other people's text; addresses may hold credentials. Errors, log lines,
manifests and pages go through here.
"""

import html
import logging
import re

_MAX_LINE = 10_000  # characters; a file may hold a name of any length

# Control characters, those that set the direction of writing, and invisible ones; those that join letters stay.
_STEERING = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff"
    "\U000e0000-\U000e007f]"
)
_HOST_AND_PORT = r"(?:[\w.-]*|\[[0-9a-fA-F:.]*\]):\d{1,5}(?![^\s/?#])"
# s3://KEY:SECRET@bucket, also where the secret holds slashes, and where a path has made one of two slashes.
_USERINFO = re.compile(
    rf"(?i)(?<![a-z0-9])([a-z][a-z0-9+.-]{{1,20}}:/{{1,3}}(?!/)|(?<![:\w])//)(?:(?!{_HOST_AND_PORT})[^\s/@:]*:[^\s]*@|[^\s/]*@)"
)
# What stands first in such a path is a bucket, or no name that a bucket can have.
_NO_BUCKET = re.compile(r"(?<![a-zA-Z0-9])([sS]3:/{1,3})(?!/)(?![a-z0-9._-]+(?:[/\s]|$))\S*@")
_KEY_PAIR = re.compile(r"\b((?:AKIA|ASIA)[A-Z0-9]{12,}):[^\s@]+")
_WEB_QUERY = re.compile(r"(?i)(https?:/{1,3}[^\s?#'\"<>]*[?#])[^\s'\"<>]+")
_PARAMETER = re.compile(
    r"(?i)((?:^|[\s?&;,#'\"({\[])"
    r"(?:x-(?:amz|goog|ms)-[\w-]+|aws_?access_?key_?id|sig"
    r"|[\w.-]{0,40}(?:signature|secret|token|passw(?:or)?d|passphrase|access_?key|api_?key|credential)[\w-]{0,40})=['\"]?)"
    r"[^\s&;,'\"<>)}\]]+"
)
_SIGNS = ("=", "?", "#", "AKIA", "ASIA")  # without which, and without an @, none of these hides anything
_HIDING = {
    _WEB_QUERY: r"\1...",
    _NO_BUCKET: r"\1...@",
    _USERINFO: r"\1...@",
    _PARAMETER: r"\1...",
    _KEY_PAIR: r"\1:...",
}


def shown(text: object) -> str:
    """A text as one line: credentials hidden, characters that steer escaped, and the middle left out of a long one."""
    line = str(text)
    if line.isascii() and line.isprintable() and not _may_hold_secret(line) and len(line) <= _MAX_LINE:
        return line
    line = without_secrets(_cut(line, 2 * _MAX_LINE))
    return _cut(_STEERING.sub(_escaped, line), _MAX_LINE)


def shown_lines(text: str) -> str:
    """As `shown`, of a text that has lines of its own."""
    return "\n".join("\t".join(map(shown, line.split("\t"))) for line in text.split("\n"))


def as_html(text: object) -> str:
    """As `shown`, for a page."""
    return html.escape(shown(text))


def without_secrets(text: str) -> str:
    """A text without the passwords and keys of addresses, their queries, and what is given as `...secret...=`."""
    for pattern, replacement in _HIDING.items():
        text = pattern.sub(replacement, text)
    return text


class ShownFormatter(logging.Formatter):
    """Lines of a log as people see them."""

    def format(self, record: logging.LogRecord) -> str:
        return shown_lines(super().format(record))


def _may_hold_secret(line: str) -> bool:
    return ("/" in line and "@" in line) or any(sign in line for sign in _SIGNS)


def _cut(line: str, most: int) -> str:
    half = most // 2 - 20
    return line if len(line) <= most else f"{line[:half]} [{len(line) - 2 * half} characters] {line[-half:]}"


def _escaped(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode()
