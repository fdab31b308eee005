"""Addresses that people give: none may hold credentials, which would travel, be logged and be kept with it."""

import re
from urllib.parse import urlsplit

from sttn_ray.shown import without_secrets

SECRET_ADVICE = (
    "holds a key, a password or a signature; write s3://bucket/key, and give credentials in the environment "
    "(AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY) or in ~/.aws"
)
_ADDRESS = re.compile(r"(?i)[a-z][a-z0-9+.-]+:/|//")


def holds_secret(path: str) -> bool:
    """Whether a path is an address with credentials in it."""
    return bool(_ADDRESS.match(path.strip())) and without_secrets(path) != path


def endpoint_fault(url: str) -> str | None:
    """What is wrong with the address of a store, or None."""
    try:
        parts = urlsplit(url)
        is_complete = parts.scheme in ("http", "https") and bool(parts.hostname)
        _ = parts.port  # which is only looked at here
    except ValueError:
        is_complete = False
    if holds_secret(url) or (is_complete and (parts.username or parts.password)):
        return "holds a password or a signature; give the address alone, and credentials in the environment"
    if not is_complete:
        return "expected http://host:port or https://host"
    return "has more than a host, a port and a path" if parts.query or parts.fragment else None
