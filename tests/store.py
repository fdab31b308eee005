"""An object store of the tests' own, moto's server in a process, and a proxy before it that does what networks do."""

import http.client
import math
import random
import socket
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import s3fs

from tests.processes import start_command, wait_until

ENVIRONMENT = {
    "AWS_ACCESS_KEY_ID": "test",
    "AWS_SECRET_ACCESS_KEY": "test",
    "AWS_DEFAULT_REGION": "us-east-1",
    "AWS_EC2_METADATA_DISABLED": "true",
}


@contextmanager
def moto_server() -> Iterator[str]:
    """Start moto's server and set this process's credentials; gives the server's address."""
    port = free_port()
    words = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    process = start_command(words)
    with pytest.MonkeyPatch.context() as patch:
        for name, value in ENVIRONMENT.items():
            patch.setenv(name, value)
        try:
            wait_until(lambda: _answers(port), "the store", program=process)
            yield f"http://127.0.0.1:{port}"
        finally:
            process.kill()


def make_bucket(url: str, name: str) -> str:
    """Make a bucket; returns its `s3://` path."""
    client(url).mkdir(name)
    return f"s3://{name}"


def client(url: str) -> s3fs.S3FileSystem:
    """A client that shares nothing with the code under test."""
    return s3fs.S3FileSystem(endpoint_url=url, use_listings_cache=False, skip_instance_cache=True)


def upload(url: str, folder: Path, target: str) -> None:
    """Put a folder's files below an `s3://` path."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
    store = client(url)
    for file in files:
        store.put_file(str(file), f"{target}/{file.relative_to(folder).as_posix()}")


def contents(url: str, path: str) -> dict[str, bytes]:
    """All objects below a path by their names relative to it."""
    store, root = client(url), path.removeprefix("s3://")
    return {name.removeprefix(f"{root}/"): store.cat_file(name) for name in store.find(root)}


def objects_in(url: str, path: str) -> Callable[[], object]:
    """Gives a value that changes whenever an object appears, is replaced, or vanishes below a path."""
    store, root = client(url), path.removeprefix("s3://")

    def moves() -> object:
        found = store.find(root, detail=True)
        return {name: (info["size"], info["LastModified"]) for name, info in found.items()}

    return moves


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _answers(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), timeout=10).close()
    except OSError:
        return False
    return True


class FaultyProxy:
    """Passes requests on to a store, but for a random share of them.

    "error": status 500 or 503 at once; "reset": half of the answer, then the connection's end; "stall": nothing for
    `stall_s`; "pause": half of the answer, the rest after `stall_s`. There are `max_faults` at most. `denied` names an
    object that nobody may read. `counts` says what was done, `num_bytes` what was sent.
    """

    def __init__(
        self,
        url: str,
        shares: dict[str, float],
        *,
        seed: int,
        stall_s: float = 0,
        max_faults: float = math.inf,
        denied: str = "",
        port: int = 0,
    ) -> None:
        self.counts: Counter[str] = Counter()
        self.num_bytes = 0
        self._shares, self._rng, self._lock = shares, random.Random(seed), threading.Lock()
        self._closed, self._faults_left = threading.Event(), max_faults
        self._target, self._stall_s, self._denied = url.removeprefix("http://"), stall_s, denied
        proxy = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one(self) -> None:
                proxy._answer(self)

            do_GET = do_PUT = do_POST = do_HEAD = do_DELETE = handle_one  # noqa: N815

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"

    def __enter__(self) -> "FaultyProxy":
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed.set()  # for connections that are still open
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, request: BaseHTTPRequestHandler) -> None:
        body = request.rfile.read(int(request.headers.get("Content-Length") or 0))
        if self._closed.is_set():
            request.connection.shutdown(socket.SHUT_RDWR)
            request.close_connection = True
            return
        with self._lock:
            fault = self._draw(request.command)
            self.counts[fault] += 1
        if self._denied and self._denied in request.path and request.command in ("GET", "HEAD"):
            _send(request, 403, b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>")
            return
        if fault == "error":
            _send(request, random.choice([500, 503]), b"<Error><Code>InternalError</Code></Error>")
            return
        if fault == "stall" and self._closed.wait(self._stall_s):
            request.close_connection = True
            return
        connection = http.client.HTTPConnection(self._target, timeout=60)
        headers = {name: value for name, value in request.headers.items() if name.lower() != "connection"}
        connection.request(request.command, request.path, body, headers)
        answer = connection.getresponse()
        data = answer.read()
        connection.close()
        try:
            request.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in ("connection", "transfer-encoding", "date", "server", "content-length"):
                    request.send_header(name, value)
            length = answer.getheader("Content-Length") if request.command == "HEAD" else str(len(data))
            request.send_header("Content-Length", length or "0")
            request.end_headers()
            if fault == "reset":
                request.wfile.write(data[: len(data) // 2])
                request.wfile.flush()
                request.connection.shutdown(socket.SHUT_RDWR)
                request.close_connection = True
            elif request.command != "HEAD":
                with self._lock:  # before who asked has them, and asks how many there were
                    self.num_bytes += len(data)
                if fault == "pause":
                    request.wfile.write(data[: len(data) // 2])
                    request.wfile.flush()
                    self._closed.wait(self._stall_s)
                    request.wfile.write(data[len(data) // 2 :])
                else:
                    request.wfile.write(data)
        except OSError:
            request.close_connection = True  # who asked has given up

    def _draw(self, command: str) -> str:
        drawn = self._rng.random()
        for name, share in self._shares.items():
            if drawn < share and self._faults_left > 0 and (name != "pause" or command == "GET"):
                self._faults_left -= 1
                return name
            drawn -= share
        return "passed"


def _send(request: BaseHTTPRequestHandler, status: int, data: bytes) -> None:
    request.send_response(status)
    request.send_header("Content-Length", str(len(data)))
    request.end_headers()
    if request.command != "HEAD":
        request.wfile.write(data)
