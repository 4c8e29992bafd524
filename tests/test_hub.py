"""Downloading, against a stand-in for Hugging Face's hub on loopback that misbehaves on demand."""

import errno
import fcntl
import gzip
import hashlib
import itertools
import json
import os
import re
import shutil
import signal
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import NamedTuple

import pytest

from numpy_gpt2 import hub, load, load_tokenizer
from numpy_gpt2.weights import FILE, INDEX

from .conftest import ROOT, run_cli

MODEL = "someone/tiny"
SMALL = ("config.json", "vocab.json", "merges.txt")
ZEROS = "0" * 64  # nobody's sha256


class Request(NamedTuple):
    """What a server was asked."""

    place: str  # "hub" or "store"
    path: str
    headers: dict[str, str]

    @property
    def file(self) -> str:
        return self.path.rpartition("/")[2]


class Hub:
    """Two servers: the hub, which redirects renamed repositories and large files, and its file store on another port.

    `faults[place, file]` lists what happens instead, one fault a request: a status, or a function of the handler and
    the file's bytes.
    """

    def __init__(self, files: dict[str, bytes]) -> None:
        self.files = files
        self.redirect: dict[str, str] = {}  # headers of the redirect to the store that differ from the true ones
        self.has_store = True
        self.requests: list[Request] = []
        self.faults: defaultdict[tuple[str, str], Iterator] = defaultdict(lambda: iter(()))
        self.closing = threading.Event()
        self.servers = {}
        for place in ("hub", "store"):
            handler = type("Handler", (Handler,), {"hub": self, "place": place})
            self.servers[place] = ThreadingHTTPServer(("127.0.0.1", 0), handler)
            self.servers[place].handle_error = lambda *_: None  # clients that hang up
            threading.Thread(target=self.servers[place].serve_forever, args=(0.01,)).start()

    def address(self, place: str = "hub") -> str:
        return f"http://127.0.0.1:{self.servers[place].server_port}"

    def home(self, file: str) -> str:
        """The server that has the file."""
        return "store" if self.has_store and file.endswith(".safetensors") else "hub"

    def ranges(self, file: str) -> list[str | None]:
        """What was asked of a file, where it is: a range, or None for all of it; one entry a request."""
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
    limit: int | None = None  # bytes of a body that are sent

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        headers = {name.lower(): value for name, value in self.headers.items()}
        self.hub.requests.append(Request(self.place, self.path, headers))
        repository, _, file = self.path.lstrip("/").partition("/resolve/main/")
        body = self.hub.files.get(file)
        if fault := next(self.hub.faults[self.place, file], None):
            self.answer(fault) if isinstance(fault, int) else fault(self, body)
        elif repository == "gpt2":
            self.answer(307, b"Temporary Redirect", Location=f"/{MODEL}/resolve/main/{file}")
        elif repository != MODEL or body is None:
            self.answer(404)
        elif self.place == "hub" and self.hub.has_store and file.endswith(".safetensors"):
            file_is = {"X-Linked-Etag": f'"{hashlib.sha256(body).hexdigest()}"', "X-Linked-Size": str(len(body))}
            where = {"Location": self.hub.address("store") + self.path}
            self.answer(302, b"Found", **(where | file_is | self.hub.redirect))
        else:
            self.serve(body)

    def serve(self, body: bytes) -> None:
        """The file, or the part of it that is asked for."""
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

    def log_message(self, *_) -> None: ...


# Faults


def reset(handler: Handler, body: bytes) -> None:
    """RST in place of an answer."""
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    os.close(handler.connection.detach())
    handler.close_connection = True


def hang_up(handler: Handler, body: bytes) -> None:
    handler.close_connection = True


def stall(handler: Handler, body: bytes) -> None:
    handler.hub.closing.wait()
    handler.close_connection = True


def first(n: int, then=hang_up):
    """A fault after n bytes of what was asked for, with the headers of all of it."""

    def fault(handler: Handler, body: bytes) -> None:
        handler.limit = n
        handler.serve(body)
        then(handler, body)

    return fault


def all_of_it(handler: Handler, body: bytes) -> None:
    """No idea of ranges."""
    handler.answer(200, body)


def chunked(n: int | None = None):
    """No Content-Length; the connection is cut after n bytes."""

    def fault(handler: Handler, body: bytes) -> None:
        handler.answer(200, b"", Content_Length="", Transfer_Encoding="chunked")
        handler.wfile.write(b"%x\r\n%b\r\n" % (len(body), body[:n]) + (b"0\r\n\r\n" if n is None else b""))
        handler.close_connection = True

    return fault


def gzipped(handler: Handler, body: bytes) -> None:
    handler.answer(200, gzip.compress(body), Content_Encoding="gzip")


def without_length(handler: Handler, body: bytes) -> None:
    """As HTTP/1.0 did it: the end of the connection is the end of the file."""
    handler.answer(200, body, Content_Length="")
    handler.close_connection = True


def bare_416(handler: Handler, body: bytes) -> None:
    """416 that does not tell the size."""
    handler.answer(416)


def page(handler: Handler, body: bytes) -> None:
    """What a captive portal answers to everything."""
    handler.answer(200, b"<html>Please sign in</html>", Content_Type="text/html")


# Fixtures and helpers


@pytest.fixture
def server(tiny, tmp_path, monkeypatch) -> Iterator[Hub]:
    """The stand-in hub, with one tiny model; the environment points to it."""
    server = Hub({path.name: path.read_bytes() for path in tiny.iterdir()})
    for name in ("HF_TOKEN", "HF_HUB_OFFLINE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_ENDPOINT", server.address())
    monkeypatch.setenv("NUMPY_GPT2_WEIGHTS", str(tmp_path / "weights"))
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(hub, "PAUSE", 0)
    yield server
    server.close()


@pytest.fixture
def folder(tmp_path) -> Path:
    """Where the model goes."""
    return tmp_path / "weights" / MODEL


def split(server: Hub) -> list[str]:
    """Make the server's model a sharded one, and return the shards' names. Nothing here cares where tensors end."""
    whole = server.files.pop(FILE)
    shards = [f"model-0000{i}-of-00002.safetensors" for i in (1, 2)]
    server.files |= {shards[0]: whole[:50_000], shards[1]: whole[50_000:]}
    server.files[INDEX] = json.dumps({"weight_map": {"wte.weight": shards[0], "wpe.weight": shards[1]}}).encode()
    return shards


def stored(folder: Path) -> dict[str, bytes]:
    """All files of a model folder; none where there is no folder."""
    return {path.name: path.read_bytes() for path in folder.iterdir()} if folder.exists() else {}


def failure(error: type[Exception] = OSError, name: str = MODEL, folder_of=hub.model_folder) -> str:
    """The message with which a download fails: one line."""
    with pytest.raises(error) as caught:
        folder_of(name)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def wait_for(condition) -> None:
    deadline = time.monotonic() + 20
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


# The hub as it should be


def test_downloads_once(server, folder):
    assert hub.model_folder(MODEL) == folder
    assert stored(folder) == server.files
    assert [request.file for request in server.requests] == [*SMALL, FILE, FILE]
    assert all(request.headers["accept-encoding"] == "identity" for request in server.requests)
    assert hub.model_folder(MODEL) == folder
    assert len(server.requests) == 5  # the second run asked nothing


def test_renamed_repository(server, tmp_path):
    assert hub.model_folder("gpt2") == tmp_path / "weights" / "gpt2"
    assert stored(tmp_path / "weights" / "gpt2") == server.files


@pytest.mark.parametrize("file", [*SMALL, FILE])
def test_fetches_only_what_is_missing(server, folder, file):
    hub.model_folder(MODEL)
    server.requests.clear()
    (folder / file).unlink()
    hub.model_folder(MODEL)
    assert {request.file for request in server.requests} == {file}
    assert stored(folder) == server.files


def test_shards(server, folder):
    shards = split(server)
    server.faults["store", shards[1]] = itertools.repeat(500)
    assert "500 Server Error" in failure()
    assert not hub.is_complete(folder)
    server.requests.clear()
    server.faults.clear()
    hub.model_folder(MODEL)
    assert {request.file for request in server.requests} == {shards[1]}
    assert stored(folder) == server.files
    assert hub.is_complete(folder)


@pytest.mark.parametrize("name", [MODEL, "gpt2"])
def test_token_goes_to_the_hub_only(server, monkeypatch, name):
    monkeypatch.setenv("HF_TOKEN", "hf_secret\n")
    hub.model_folder(name)
    tokens = {
        place: {r.headers.get("authorization") for r in server.requests if r.place == place} for place in server.servers
    }
    assert tokens == {"hub": {"Bearer hf_secret"}, "store": {None}}


def test_plain_mirror(server, folder):
    """A mirror that serves large files itself says nothing about their sha256."""
    server.has_store = False
    server.faults["hub", FILE] = iter([first(40_000)])
    hub.model_folder(MODEL)
    assert server.ranges(FILE) == [None, "bytes=32768-"]
    assert stored(folder) == server.files


# Faults that pass


@pytest.mark.parametrize(
    ("faults", "n_requests"),
    [
        pytest.param([503, 503, 503, 503], 5, id="unavailable"),
        pytest.param([429], 2, id="too many requests"),
        pytest.param([reset, reset], 3, id="reset"),
        pytest.param([hang_up], 2, id="closed"),
        pytest.param([stall], 2, id="silence"),
        pytest.param([first(60_000)], 2, id="cut"),
        pytest.param([first(20_000)] * 6, 7, id="cut more often than ATTEMPTS, but each time something came"),
        pytest.param([first(60_000, then=reset)], 2, id="reset half-way"),
        pytest.param([first(60_000, then=stall)], 2, id="silence half-way"),
        pytest.param([first(60_000), all_of_it], 2, id="range ignored"),
        pytest.param([chunked(60_000)], 2, id="chunked and cut"),
        pytest.param([chunked()], 1, id="chunked"),
        pytest.param([without_length], 1, id="without length"),
        pytest.param([gzipped], 1, id="gzip"),
    ],
)
@pytest.mark.parametrize("file", ["vocab.json", FILE])
def test_gets_there(server, folder, monkeypatch, file, faults, n_requests):
    monkeypatch.setattr(hub, "TIMEOUT", 0.3)
    server.files["vocab.json"] += b" " * len(server.files[FILE])  # long enough to be cut
    server.faults[server.home(file), file] = iter(faults)
    hub.model_folder(MODEL)
    assert stored(folder) == server.files
    assert len(server.ranges(file)) == n_requests


def test_fault_of_the_hub_before_the_redirect(server, folder):
    server.faults["hub", FILE] = iter([503, reset])
    hub.model_folder(MODEL)
    assert [request.place for request in server.requests if request.file == FILE] == ["hub"] * 3 + ["store"]
    assert stored(folder) == server.files


def test_what_the_caller_is_handling_is_not_the_cause(server, folder):
    server.faults["hub", "config.json"] = iter([reset])
    try:
        raise ConnectionRefusedError("another server, earlier")
    except OSError:
        hub.model_folder(MODEL)
    assert stored(folder) == server.files


# Faults that stay


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        (503, "503 Server Error"),
        (reset, "Connection reset by peer"),
        (hang_up, "closed connection without response"),
        (stall, "timed out"),
        (first(0), "more expected"),
        (chunked(10), "more expected"),
    ],
)
@pytest.mark.parametrize("file", ["merges.txt", FILE])
def test_gives_up(server, folder, monkeypatch, file, fault, message):
    monkeypatch.setattr(hub, "TIMEOUT", 0.1 if fault is stall else 10)
    folder.mkdir(parents=True)
    (folder / f"{file}.part").write_bytes(server.files[file][:20])  # of an earlier run: nothing that this one gained
    server.faults[server.home(file), file] = itertools.repeat(fault)
    text = failure()
    assert len(server.ranges(file)) == hub.ATTEMPTS
    assert message in text
    assert text.startswith(f"cannot download {MODEL}: ")
    assert text.endswith(f"; {hub.by_hand(MODEL, folder)}")
    assert not (folder / file).exists()


def test_says_what_to_do_by_hand(server, folder):
    server.faults["hub", "config.json"] = iter([404])
    assert failure() == (
        f"cannot download {MODEL}: there is no {server.address()}/{MODEL}/resolve/main/config.json; to do it by hand,"
        f" put config.json, vocab.json, merges.txt and model.safetensors from {server.address()}/{MODEL}/tree/main"
        f" into {folder}"
    )


def test_pauses_grow_until_bytes_come_in(server, monkeypatch):
    pauses = []
    monkeypatch.setattr(hub, "PAUSE", 0.5)
    monkeypatch.setattr(hub.time, "sleep", pauses.append)
    server.faults["hub", "vocab.json"] = iter([503, 503])
    server.faults["store", FILE] = iter([503, first(40_000), 503])
    hub.model_folder(MODEL)
    assert pauses == [1, 2, 1, 0.5, 1]  # config.json needs none; vocab.json; model.safetensors


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 451])
def test_no_is_final(server, folder, status):
    server.faults["hub", "config.json"] = itertools.repeat(status)
    text = failure()
    assert len(server.requests) == 1
    assert ("HF_TOKEN" if status in (401, 403) else "there is no" if status == 404 else str(status)) in text
    assert not folder.exists()


def test_no_safetensors(server):
    del server.files[FILE]
    assert f"there is no {server.address()}/{MODEL}/resolve/main/{FILE};" in failure()


@pytest.mark.parametrize(
    ("redirect", "n_requests", "message"),
    [
        ({"X-Linked-Etag": f'"{ZEROS}"'}, 1, "sha256 {sha256}; the hub says {size} bytes, sha256 " + ZEROS),
        ({"X-Linked-Size": "100"}, 1, "is damaged: {size} bytes, sha256 {sha256}; the hub says 100 bytes"),
        ({"X-Linked-Size": "200000"}, 6, "was cut off at {size:,} of 200,000 bytes"),
    ],
)
def test_not_what_the_hub_announces(server, folder, redirect, n_requests, message):
    server.redirect = redirect
    body = server.files[FILE]
    assert message.format(size=len(body), sha256=hashlib.sha256(body).hexdigest()) in failure()
    assert len(server.ranges(FILE)) == n_requests
    assert not (folder / FILE).exists()


def test_size_of_the_redirect_is_not_that_of_the_file(server, folder):
    server.redirect = {"X-Linked-Size": ""}
    server.faults["store", FILE] = iter([chunked()])
    hub.model_folder(MODEL)
    assert stored(folder) == server.files


def test_wrong_hash_of_unknown_size(server, folder):
    server.redirect = {"X-Linked-Etag": f'"{ZEROS}"', "X-Linked-Size": ""}
    server.faults["store", FILE] = iter([chunked()])
    assert f"the hub says None bytes, sha256 {ZEROS}" in failure()
    assert set(stored(folder)) == set(SMALL)


@pytest.fixture
def attempts(monkeypatch) -> list[str]:
    """The addresses that were tried."""
    tried: list[str] = []
    receive = hub.receive
    monkeypatch.setattr(hub, "receive", lambda url, part: tried.append(url) or receive(url, part))
    return tried


@pytest.mark.parametrize(
    ("endpoint", "proxy", "message"),
    [
        ("http://127.0.0.1:{closed}", "", "127.0.0.1:{closed}: Connection refused"),
        ("http://hub.invalid", "", "hub.invalid: Name or service not known"),
        ("hub.invalid", "", "No scheme supplied"),
        ("https://hub.invalid", "http://127.0.0.1:{closed}", "hub.invalid: Connection refused"),
        ("https://hub.invalid", "{hub}", "hub.invalid: Tunnel connection failed: 501"),
    ],
)
def test_no_way_to_the_hub_is_final(server, folder, monkeypatch, attempts, endpoint, proxy, message):
    names = {"closed": closed_port(), "hub": server.address()}
    monkeypatch.setattr(socket, "getaddrinfo", only_loopback)
    monkeypatch.setenv("HF_ENDPOINT", endpoint.format(**names))
    monkeypatch.setenv("https_proxy", proxy.format(**names))
    monkeypatch.setenv("no_proxy", "" if proxy else "*")
    assert message.format(**names) in failure()
    assert message.format(**names) in hub.why_unreachable(MODEL, 5)
    assert len(attempts) == 1
    assert not folder.exists()


def only_loopback(host: str, *arguments, getaddrinfo=socket.getaddrinfo):
    """The look-up of host names on a machine without a network."""
    if host != "127.0.0.1":
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    return getaddrinfo(host, *arguments)


@pytest.mark.parametrize(
    ("error", "n_attempts"),
    [
        (ssl.SSLCertVerificationError(1, "certificate verify failed"), 1),
        (ssl.SSLEOFError(8, "EOF occurred in violation of protocol"), hub.ATTEMPTS),
    ],
)
def test_a_wrong_certificate_is_final(server, monkeypatch, attempts, error, n_attempts):
    def wrap_socket(*_, **__) -> None:
        raise error

    monkeypatch.setattr(ssl.SSLContext, "wrap_socket", wrap_socket)
    monkeypatch.setenv("HF_ENDPOINT", server.address().replace("http:", "https:"))
    assert f"{server.address()[7:]}: {error.strerror}" in failure()
    assert len(attempts) == n_attempts


def test_no_way_to_the_store_is_final(server, attempts):
    address = f"127.0.0.1:{closed_port()}"
    server.redirect = {"Location": f"http://{address}/{FILE}"}
    assert f"{address}: Connection refused" in failure()
    assert len(attempts) == len(SMALL) + 1


@pytest.mark.parametrize("value", ["1", "ON", "yes", "true"])
def test_offline(server, folder, monkeypatch, value):
    monkeypatch.setenv("HF_HUB_OFFLINE", value)
    assert failure() == f"cannot download {MODEL}: HF_HUB_OFFLINE is set; {hub.by_hand(MODEL, folder)}"
    assert hub.why_unreachable(MODEL) == "HF_HUB_OFFLINE is set"
    assert server.requests == []
    assert not folder.exists()
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    assert hub.model_folder(MODEL) == folder
    monkeypatch.setenv("HF_HUB_OFFLINE", value)
    assert hub.model_folder(MODEL) == folder  # what is there needs no network


@pytest.mark.parametrize(
    ("faults", "problem"),
    [
        ([], None),
        ([503], None),
        ([reset], None),
        ([403], "403"),
        ([404], "404"),
        ([lambda handler, body: handler.answer(200, b"<html>Please log in</html>")], "Expecting value"),
        (itertools.repeat(reset), "Connection reset by peer"),
        (itertools.repeat(stall), "no answer within 0.6 seconds"),
    ],
)
def test_why_unreachable(server, faults, problem):
    server.faults["hub", "config.json"] = iter(faults)
    answer = hub.why_unreachable(MODEL, 0.6)
    assert problem in answer if problem else answer is None


def test_a_damaged_tokenizer_is_not_kept(server, folder):
    good = server.files["merges.txt"]
    server.files["merges.txt"] = good[: len(good) // 2]
    assert "no GPT-2 tokenizer" in failure(ValueError)
    assert set(stored(folder)) == {"config.json"}
    server.files["merges.txt"] = good
    assert hub.model_folder(MODEL) == folder
    assert stored(folder)["merges.txt"] == good


def test_answers_without_the_file_are_refused(server, folder):
    server.faults["hub", "vocab.json"] = iter([204])
    assert "answers 204" in failure()
    assert set(stored(folder)) == {"config.json"}


# Parts that an earlier run has left


PARTS = {
    "prefix": lambda body: body[:100],
    "whole": lambda body: body,
    "longer": lambda body: body + b"?",
    "other prefix": lambda body: b"?" * 100,
    "other whole": lambda body: b"?" * len(body),
}


@pytest.mark.parametrize(
    ("part", "file", "faults", "ranges"),
    [
        ("prefix", FILE, [], ["bytes=100-"]),
        ("prefix", "vocab.json", [], ["bytes=100-"]),
        ("prefix", FILE, [503, first(40_000)], ["bytes=100-", "bytes=100-", "bytes=32868-"]),
        ("whole", FILE, [], ["bytes={size}-"]),
        ("whole", "vocab.json", [], ["bytes={size}-"]),
        ("whole", "vocab.json", [bare_416], ["bytes={size}-", None]),  # nothing says that it is whole
        ("longer", FILE, [], ["bytes={size}-", None]),
        ("longer", "vocab.json", [], ["bytes={size}-", None]),
        ("other prefix", FILE, [], ["bytes=100-", None]),
        ("other prefix", FILE, [all_of_it], ["bytes=100-"]),
        ("other whole", FILE, [], ["bytes={size}-", None]),
    ],
)
def test_goes_on_from_a_part(server, folder, part, file, faults, ranges):
    left = PARTS[part](server.files[file])
    folder.mkdir(parents=True)
    (folder / f"{file}.part").write_bytes(left)
    server.faults[server.home(file), file] = iter(faults)
    hub.model_folder(MODEL)
    assert server.ranges(file) == [range_ and range_.format(size=len(left)) for range_ in ranges]
    assert stored(folder) == server.files


# Files that are not what they should be


def test_foreign_model(server, folder):
    server.files["config.json"] = b'{"model_type": "llama"}'
    url = f"{server.address()}/{MODEL}/resolve/main/config.json"
    assert failure(ValueError) == f"{url} describes no GPT-2: its model_type is 'llama', not 'gpt2'"
    assert [request.file for request in server.requests] == ["config.json"]
    assert stored(folder) == {}


@pytest.mark.parametrize("file", ["config.json", INDEX])
def test_page_instead_of_json(server, folder, file):
    split(server)
    server.faults["hub", file] = iter([page])
    assert file in failure(ValueError)
    assert file not in stored(folder)
    assert f"{file}.part" not in stored(folder)
    hub.model_folder(MODEL)  # the next run is not stuck with it
    assert stored(folder) == server.files


@pytest.mark.parametrize("shard", ["../evil.safetensors", "/tmp/evil.safetensors", "sub/evil.safetensors", "evil.bin"])
def test_index_that_points_elsewhere(server, folder, shard):
    split(server)
    server.files[INDEX] = json.dumps({"weight_map": {"wte.weight": shard}}).encode()
    assert shard in failure(ValueError)
    assert not any("evil" in request.path for request in server.requests)
    assert set(stored(folder)) == set(SMALL)


# The disk


def test_no_space_for_it(server, folder, monkeypatch):
    monkeypatch.setattr(hub.shutil, "disk_usage", lambda _: SimpleNamespace(free=10_000))
    assert f"{folder} has no space for {len(server.files[FILE]):,} bytes, only for 10,000;" in failure()
    assert set(stored(folder)) == set(SMALL)


def test_disk_full(server, folder):
    folder.mkdir(parents=True)
    (folder / f"{FILE}.part").symlink_to("/dev/full")
    assert f"No space left on device; {hub.by_hand(MODEL, folder)}" in failure()
    assert len(server.ranges(FILE)) == 1
    assert not (folder / FILE).exists()


def test_folder_that_cannot_be(server, tmp_path, folder):
    (tmp_path / "weights").write_text("in the way")
    text = failure()
    assert "File exists" in text
    assert text.endswith(hub.by_hand(MODEL, folder))
    assert server.requests == []


def test_disk_without_locks(server, monkeypatch):
    """Not a reason to wait for ever."""

    def flock(*_) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    monkeypatch.setattr(hub.time, "sleep", lambda _: pytest.fail("it waits"))
    assert "No locks available" in failure()


# Several processes


def test_three_processes_at_once(server, folder, tmp_path):
    go_on = threading.Event()
    server.faults["store", FILE] = iter([lambda handler, body: (go_on.wait(20), handler.serve(body))])
    command = [sys.executable, "-c", f"from numpy_gpt2 import hub; hub.model_folder({MODEL!r})"]
    with open(tmp_path / "stderr", "wb") as stderr:
        processes = [subprocess.Popen(command, stderr=stderr) for _ in range(3)]
    wait_for(lambda: (tmp_path / "stderr").read_text().count("waiting for another process") == 2)
    go_on.set()
    assert [process.wait(20) for process in processes] == [0, 0, 0]
    assert [request.file for request in server.requests] == [*SMALL, FILE, FILE]
    assert stored(folder) == server.files


@pytest.mark.parametrize(("signal_", "status"), [(signal.SIGINT, 130), (signal.SIGKILL, -signal.SIGKILL)])
def test_interrupted_process_leaves_its_part(server, folder, signal_, status):
    server.faults["store", FILE] = iter([first(40_000, then=stall)])
    command = [sys.executable, "-m", "numpy_gpt2", "-m", MODEL, "the"]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    wait_for(lambda: hub.size_of(folder / f"{FILE}.part") == 32_768)
    process.send_signal(signal_)
    stdout, stderr = process.communicate(timeout=20)
    assert (process.returncode, stdout) == (status, b"")
    assert b"Traceback" not in stderr
    assert set(stored(folder)) == {*SMALL, f"{FILE}.part"}

    answer = run_cli("-m", MODEL, "-n", 5, "the", env={"HF_HUB_OFFLINE": "0"})
    assert (answer.returncode, len(answer.stdout) > 1) == (0, True)
    assert server.ranges(FILE) == [None, "bytes=32768-"]
    assert stored(folder) == server.files


# Tokenizers


def test_a_tokenizer_comes_without_the_weights(server, tmp_path):
    gpt2 = tmp_path / "weights" / "gpt2"
    assert hub.tokenizer_folder("gpt2") == gpt2
    assert stored(gpt2) == {name: server.files[name] for name in SMALL}
    assert {request.file for request in server.requests} == {*SMALL}
    assert load_tokenizer(gpt2).encode_ordinary("the") == [257]
    assert not hub.is_complete(gpt2)

    server.requests.clear()
    assert hub.tokenizer_folder("gpt2") == gpt2
    assert server.requests == []

    assert load("gpt2").config.n_layer == 2  # the rest, when it is needed
    assert {request.file for request in server.requests} == {FILE}
    assert stored(gpt2) == server.files


def test_a_tokenizer_that_is_there_needs_no_hub(server, tiny, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    gpt2 = tmp_path / "weights" / "gpt2"
    gpt2.mkdir(parents=True)
    for name in ("vocab.json", "merges.txt"):
        (gpt2 / name).write_bytes(server.files[name])
    assert hub.tokenizer_folder("gpt2") == gpt2
    assert hub.tokenizer_folder(tiny) == tiny
    assert hub.tokenizer_folder(str(tiny)) == tiny
    shutil.copytree(tiny, tmp_path / "weights" / "mine")
    assert hub.tokenizer_folder("mine") == tmp_path / "weights" / "mine"
    shutil.copytree(tiny, tmp_path / "gpt2")
    monkeypatch.chdir(tmp_path)
    assert hub.tokenizer_folder("gpt2").resolve() == tmp_path / "gpt2"  # an existing folder comes first
    assert server.requests == []


@pytest.mark.parametrize("file", ["vocab.json", "merges.txt"])
def test_half_a_tokenizer_is_completed(server, tmp_path, file):
    gpt2 = hub.tokenizer_folder("gpt2")
    server.requests.clear()
    (gpt2 / file).unlink()
    assert hub.tokenizer_folder("gpt2") == gpt2
    assert {request.file for request in server.requests} == {file}
    assert set(stored(gpt2)) == {*SMALL}


def test_no_tokenizer_without_the_hub(server, tmp_path, monkeypatch):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    message = failure(name="gpt2", folder_of=hub.tokenizer_folder)
    gpt2 = tmp_path / "weights" / "gpt2"
    assert message == f"cannot download gpt2: HF_HUB_OFFLINE is set; {hub.by_hand('gpt2', gpt2)}"
    assert server.requests == []
    assert not gpt2.exists()
    monkeypatch.delenv("HF_HUB_OFFLINE")
    server.faults["hub", "merges.txt"] = iter([404])
    assert "merges.txt" in failure(name="gpt2", folder_of=hub.tokenizer_folder)
    assert "no model 'none'" in failure(name="none", folder_of=hub.tokenizer_folder)


# Names, and the command line


def test_looks_for_folders_first(server, tiny, tmp_path, monkeypatch):
    weights = tmp_path / "weights"
    assert hub.model_folder(tiny) == tiny
    for name in ("gpt2", MODEL, "mine"):
        shutil.copytree(tiny, weights / name)
        assert hub.model_folder(name) == weights / name
    assert hub.model_folder(hub.BUNDLED) == hub.bundled_folder()
    shutil.copytree(tiny, weights / hub.BUNDLED)
    assert hub.model_folder(hub.BUNDLED) == weights / hub.BUNDLED
    assert server.requests == []


@pytest.mark.parametrize(
    "name", ["gpt3", "a/b/c", "../weights", "someone/../else", "https://huggingface.co/gpt2", "a b/c"]
)
def test_unknown_name(server, tmp_path, name):
    text = failure(FileNotFoundError, name)
    assert text.startswith(f"there is no model {name!r}: no such folder, none under {tmp_path / 'weights'},")
    assert all(known in text for known in ("owner/name", *hub.NAMES))
    assert server.requests == []


def test_where_models_are_kept(monkeypatch, tmp_path):
    monkeypatch.delenv("NUMPY_GPT2_WEIGHTS", raising=False)
    assert hub.weights_folder() == ROOT / "weights"
    monkeypatch.setattr(hub, "__file__", str(tmp_path / "site-packages" / "numpy_gpt2" / "hub.py"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    assert hub.weights_folder() == tmp_path / "cache" / "numpy_gpt2"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert hub.weights_folder() == tmp_path / ".cache" / "numpy_gpt2"
    inside = tmp_path / "site-packages" / "numpy_gpt2" / "bundled" / hub.BUNDLED
    inside.mkdir(parents=True)
    assert hub.bundled_folder() == inside


def test_importing_loads_neither_requests_nor_tqdm():
    code = "import sys, numpy_gpt2, numpy_gpt2.hub; print({'requests', 'urllib3', 'tqdm'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "set()\n"


@pytest.fixture(params=["refused", "unknown host", "silent", "offline"])
def away(request, server, monkeypatch) -> Iterator[str]:
    """The ways in which the hub cannot be reached."""
    with socket.create_server(("127.0.0.1", 0)) as silent:
        endpoints = {
            "refused": f"http://127.0.0.1:{closed_port()}",
            "unknown host": "http://hub.invalid",
            "silent": f"http://127.0.0.1:{silent.getsockname()[1]}",
        }
        monkeypatch.setenv("HF_ENDPOINT", endpoints.get(request.param, server.address()))
        yield request.param


def test_bundled_model_answers_where_the_hub_is_away(away, tmp_path):
    start = time.perf_counter()
    answer = run_cli("-n", 5, "--seed", 1, "ROMEO:", env={"HF_HUB_OFFLINE": str(int(away == "offline"))})
    assert time.perf_counter() - start < 9  # it is to be 3; TIMEOUT would be 10
    notes = answer.stderr.decode().splitlines()
    assert [note[:6] for note in notes] == ["note: ", "note: "], notes
    assert hub.BUNDLED in notes[0]
    assert "by hand" in notes[1]
    assert (answer.returncode, len(answer.stdout) > 1) == (0, True)
    assert not (tmp_path / "weights").exists()


@pytest.mark.parametrize("away", ["refused", "unknown host", "offline"], indirect=True)
def test_named_model_is_never_replaced(away, tmp_path):
    answer = run_cli("-m", "gpt2", "ROMEO:", env={"HF_HUB_OFFLINE": str(int(away == "offline"))})
    assert (answer.returncode, answer.stdout) == (1, b"")
    error = answer.stderr.decode()
    assert error.startswith("error: cannot download gpt2: ")
    assert error.endswith(f" into {tmp_path / 'weights' / 'gpt2'}\n")
    assert error.count("\n") == 1
