"""A fake Hugging Face hub on this machine that fails on demand, for test_hub.py and test_download.py."""

import gzip
import hashlib
import json
import os
import re
import socket
import struct
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import NamedTuple

import pytest

from numpy_gpt2 import hub
from numpy_gpt2.model_files import GENERATION_CONFIG, MODEL_FILES
from numpy_gpt2.tokenizer import ADDED_TOKENS, TOKENIZER_CONFIG, TOKENIZER_JSON
from numpy_gpt2.weights import FILE

MODEL = "someone/tiny"
ALL_FILES = (*MODEL_FILES, FILE)
# Requests for these are recorded if the hub has them.
OPTIONAL = (GENERATION_CONFIG, ADDED_TOKENS, TOKENIZER_JSON, TOKENIZER_CONFIG)


class Request(NamedTuple):
    """One request that a server received."""

    place: str  # "hub" or "store"
    path: str
    headers: dict[str, str]
    method: str

    @property
    def file(self) -> str:
        return self.path.rpartition("/")[2]


class Hub:
    """Two servers: the hub, which redirects renamed repositories and large files, and its file store on another port.

    `faults[place, file]` yields one fault for each request. A fault is a status to answer, or a function of the handler
    and the file's bytes. When no faults are left, the server answers correctly.
    """

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files
        self.redirect: dict[str, str] = {}  # wrong headers of the redirect to the store
        self.has_store = True
        self.has_api = False
        self.has_commits = True  # some mirrors only have the files of main
        self.revisions = {"main"}
        self.requests: list[Request] = []
        self.faults: defaultdict[tuple[str, str], Iterator] = defaultdict(lambda: iter(()))
        self.closing = threading.Event()
        self.servers = {}
        for place in ("hub", "store"):
            handler = type("Handler", (Handler,), {"hub": self, "place": place})
            self.servers[place] = ThreadingHTTPServer(("127.0.0.1", 0), handler)
            self.servers[place].handle_error = lambda *_: None  # no tracebacks when clients hang up
            threading.Thread(target=self.servers[place].serve_forever, args=(0.01,)).start()

    def address(self, place: str = "hub") -> str:
        return f"http://127.0.0.1:{self.servers[place].server_port}"

    def url(self, file: str, repository: str = MODEL) -> str:
        """The address of a file on the hub."""
        return f"{self.address()}/{repository}/resolve/main/{file}"

    def home(self, file: str) -> str:
        """The name of the server that has the file."""
        return "store" if self.has_store and file.endswith(".safetensors") else "hub"

    def ranges(self, file: str) -> list[str | None]:
        """The range of each request for a file to the server that has it; None for the whole file."""
        return [r.headers.get("range") for r in self.requests if (r.place, r.file) == (self.home(file), file)]

    def close(self) -> None:
        self.closing.set()
        for server in self.servers.values():
            server.shutdown()
            server.server_close()


class Handler(BaseHTTPRequestHandler):
    """One request to one of the two servers."""

    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    hub: Hub
    place: str
    limit: int | None = None  # send at most this many bytes of a body

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        found = re.fullmatch(r"/(.+)/resolve/([^/]+)/(.+)", self.path)
        repository, revision, file = found.groups() if found else ("", "", self.path)
        body = self.hub.files.get(file) if revision in self.hub.revisions else None
        if file not in OPTIONAL or body is not None:
            self.hub.requests.append(Request(self.place, self.path, headers, self.command))
        if fault := next(self.hub.faults[self.place, file], None):
            self.answer(fault) if isinstance(fault, int) else fault(self, body)
        elif self.path == f"/api/models/{MODEL}" and self.hub.has_api:
            self.answer(200, json.dumps({"siblings": [{"rfilename": name} for name in self.hub.files]}).encode())
        elif repository == "gpt2":
            self.answer(307, b"Temporary Redirect", Location=f"/{MODEL}/resolve/{revision}/{file}")
        elif repository != MODEL or body is None:
            gone = self.hub.has_commits and revision not in self.hub.revisions
            self.answer(404, X_Error_Code="RevisionNotFound" if gone else "")
        elif self.place == "hub" and self.hub.has_store and file.endswith(".safetensors"):
            file_is = {"X-Linked-Etag": f'"{hashlib.sha256(body).hexdigest()}"', "X-Linked-Size": str(len(body))}
            where = {"Location": self.hub.address("store") + self.path}
            self.answer(302, b"Found", **(where | file_is | self.hub.redirect))
        else:
            self.serve(body)

    def serve(self, body: bytes) -> None:
        """Send the file, or the range that the client requests."""
        start = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        if not start:
            self.answer(200, body)
        elif (first := int(start[1])) < len(body):
            self.answer(206, body[first:], Content_Range=f"bytes {first}-{len(body) - 1}/{len(body)}")
        else:
            self.answer(416, Content_Range=f"bytes */{len(body)}")

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        headers = {name.replace("_", "-"): value for name, value in headers.items()}
        self.send_response(status)
        for name, value in ({"Content-Length": str(len(body))} | headers).items():
            if value:
                self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body[: self.limit])

    def start_endless(self, status: int, **headers: str) -> None:
        """Send chunks until the client hangs up."""
        self.answer(status, b"", Content_Length="", Transfer_Encoding="chunked", **headers)
        self.close_connection = True
        with suppress(OSError):
            while not self.hub.closing.is_set():
                self.wfile.write(b"10000\r\n%b\r\n" % bytes(1 << 16))

    def log_message(self, *_) -> None: ...


# Faults


def reset(handler: Handler, body: bytes) -> None:
    """Reset the connection (RST) instead of an answer."""
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    os.close(handler.connection.detach())
    handler.close_connection = True


def hang_up(handler: Handler, body: bytes) -> None:
    """Close the connection without an answer."""
    handler.close_connection = True


def stall(handler: Handler, body: bytes) -> None:
    """Stay silent until the end of the test."""
    handler.hub.closing.wait()
    handler.close_connection = True


def first(n: int, then=hang_up):
    """Send correct headers but only n bytes, then do `then`."""

    def fault(handler: Handler, body: bytes) -> None:
        handler.limit = n
        handler.serve(body)
        then(handler, body)

    return fault


def all_of_it(handler: Handler, body: bytes) -> None:
    """Ignore the range and send the whole file."""
    handler.answer(200, body)


def chunked(n: int | None = None):
    """Send chunks without a Content-Length; close the connection after n bytes."""

    def fault(handler: Handler, body: bytes) -> None:
        handler.answer(200, b"", Content_Length="", Transfer_Encoding="chunked")
        handler.wfile.write(b"%x\r\n%b\r\n" % (len(body), body[:n]) + (b"0\r\n\r\n" if n is None else b""))
        handler.close_connection = True

    return fault


def endless(handler: Handler, body: bytes) -> None:
    """Send a body without an end."""
    handler.start_endless(200)


def deep(handler: Handler, body: bytes) -> None:
    """Send JSON that is nested too deeply."""
    handler.answer(200, b"[" * 100_000)


def gzipped(handler: Handler, body: bytes) -> None:
    """Send the file compressed."""
    handler.answer(200, gzip.compress(body), Content_Encoding="gzip")


def without_length(handler: Handler, body: bytes) -> None:
    """Send no Content-Length: the end of the connection is the end of the file, as in HTTP/1.0."""
    handler.answer(200, body, Content_Length="")
    handler.close_connection = True


def bare_416(handler: Handler, body: bytes) -> None:
    """Answer 416 without the size of the file."""
    handler.answer(416)


def page(handler: Handler, body: bytes) -> None:
    """Answer with the login page of a network."""
    handler.answer(200, b"<html>Please sign in</html>", Content_Type="text/html")


# Helpers


def serve(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    """Run a hub with one tiny model. The environment points to it, and to tmp_path / "weights"."""
    server = Hub({name: (tiny / name).read_bytes() for name in ALL_FILES})
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_ENDPOINT", server.address())
    monkeypatch.setenv("NUMPY_GPT2_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setenv("no_proxy", "*")
    yield server
    server.close()


def stored(folder: Path) -> dict[str, bytes]:
    """All files of a folder: name -> content. Empty if there is no folder."""
    return {path.name: path.read_bytes() for path in folder.iterdir()} if folder.exists() else {}


def failure(error: type[Exception] = OSError, name: str = MODEL, folder_of=hub.model_folder) -> str:
    """The message with which a download fails: one line."""
    with pytest.raises(error) as caught:
        folder_of(name)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]
