"""download.py: what happens to one file when the hub, the network or the disk fails."""

import errno
import fcntl
import hashlib
import itertools
import shutil
import socket
import ssl
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from numpy_gpt2 import download as download_module
from numpy_gpt2.download import ATTEMPTS, download_file, locked, why_unreachable
from numpy_gpt2.weights import FILE

from .fake_hub import (
    ALL_FILES,
    MODEL,
    Hub,
    all_of_it,
    bare_416,
    chunked,
    closed_port,
    deep,
    endless,
    first,
    gzipped,
    hang_up,
    page,
    reset,
    stall,
    stored,
    without_length,
)

ZEROS = "0" * 64  # a wrong sha256


def download(server: Hub, folder: Path, file: str = FILE, *, pause: float = 0, **options) -> None:
    download_file(server.url(file), folder / file, pause=pause, **options)


def failure(server: Hub, folder: Path, file: str = FILE, **options) -> str:
    """The message of the OSError with which a download fails: one line."""
    with pytest.raises(OSError) as caught:  # noqa: PT011
        download(server, folder, file, **options)
    assert "\n" not in str(caught.value)
    assert not (folder / file).exists()
    return str(caught.value)


# Without faults


@pytest.mark.parametrize("file", ALL_FILES)
def test_a_file_is_downloaded_once(server, folder, file):
    download(server, folder, file)
    assert stored(folder) == {file: server.files[file]}
    assert [request.file for request in server.requests] == [file] * (2 if file == FILE else 1)  # one is the redirect
    assert all(request.headers["accept-encoding"] == "identity" for request in server.requests)
    server.requests.clear()
    download(server, folder, file)
    assert server.requests == []


@pytest.mark.parametrize("repository", [MODEL, "gpt2"])
def test_the_token_is_sent_to_the_hub_only(server, folder, monkeypatch, repository):
    monkeypatch.setenv("HF_TOKEN", "hf_secret\n")
    download_file(server.url(FILE, repository), folder / FILE)
    tokens = {
        place: {r.headers.get("authorization") for r in server.requests if r.place == place} for place in server.servers
    }
    assert tokens == {"hub": {"Bearer hf_secret"}, "store": {None}}


def test_a_mirror_without_a_file_store_works(server, folder):
    """Such a mirror does not send the sha256 of large files."""
    server.has_store = False
    server.faults["hub", FILE] = iter([first(40_000)])
    download(server, folder)
    assert server.ranges(FILE) == [None, "bytes=32768-"]
    assert stored(folder) == {FILE: server.files[FILE]}


# Temporary faults


@pytest.mark.parametrize(
    ("faults", "n_requests"),
    [
        pytest.param([503, 503, 503, 503], 5, id="unavailable"),
        pytest.param([429], 2, id="too many requests"),
        pytest.param([reset, reset], 3, id="reset"),
        pytest.param([hang_up], 2, id="closed"),
        pytest.param([stall], 2, id="silence"),
        pytest.param([first(60_000)], 2, id="cut"),
        pytest.param([first(20_000)] * 6, 7, id="cut more often than ATTEMPTS, but each time with new data"),
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
def test_a_download_survives_temporary_faults(server, folder, file, faults, n_requests):
    server.files["vocab.json"] += b" " * len(server.files[FILE])  # long enough to be cut
    server.faults[server.home(file), file] = iter(faults)
    download(server, folder, file, timeout=0.3)
    assert stored(folder) == {file: server.files[file]}
    assert len(server.ranges(file)) == n_requests


def test_a_fault_before_the_redirect_is_retried(server, folder):
    server.faults["hub", FILE] = iter([503, reset])
    download(server, folder)
    assert [request.place for request in server.requests] == ["hub"] * 3 + ["store"]
    assert stored(folder) == {FILE: server.files[FILE]}


def test_an_exception_that_the_caller_handles_does_not_end_the_retries(server, folder):
    """It is the __context__ of the download's exceptions, but not their cause."""
    server.faults["hub", "config.json"] = iter([reset])
    try:
        raise ConnectionRefusedError("another server, earlier")
    except OSError:
        download(server, folder, "config.json")
    assert stored(folder) == {"config.json": server.files["config.json"]}


@pytest.fixture
def pauses(monkeypatch) -> list[float]:
    """The arguments of all calls of time.sleep, which returns at once."""
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    return slept


def test_pauses_double_until_new_data_arrives(server, folder, pauses):
    server.faults["hub", "vocab.json"] = iter([503, 503])
    server.faults["store", FILE] = iter([503, first(40_000), 503])
    download(server, folder, "config.json", pause=0.5)
    assert pauses == []
    download(server, folder, "vocab.json", pause=0.5)
    assert pauses == [1, 2]
    download(server, folder, FILE, pause=0.5)
    assert pauses == [1, 2, 1, 0.5, 1]


# Permanent faults


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
def test_a_download_ends_after_failures_without_new_data(server, folder, file, fault, message):
    folder.mkdir(parents=True)
    (folder / f"{file}.part").write_bytes(server.files[file][:20])  # data of an earlier run is not new
    server.faults[server.home(file), file] = itertools.repeat(fault)
    assert message in failure(server, folder, file, timeout=0.1 if fault is stall else 10)
    assert len(server.ranges(file)) == ATTEMPTS


@pytest.mark.parametrize("status", [400, 401, 403, 404, 410, 451])
def test_a_refusal_is_final(server, folder, status):
    server.faults["hub", "config.json"] = itertools.repeat(status)
    text = failure(server, folder, "config.json")
    assert len(server.requests) == 1
    assert ("HF_TOKEN" if status in (401, 403) else "there is no" if status == 404 else str(status)) in text
    assert not folder.exists()


def test_an_answer_without_the_file_is_an_error(server, folder):
    server.faults["hub", "vocab.json"] = iter([204])
    assert "answers 204" in failure(server, folder, "vocab.json")
    assert stored(folder) == {}


@pytest.mark.parametrize(
    ("redirect", "n_requests", "message"),
    [
        ({"X-Linked-Etag": f'"{ZEROS}"'}, 1, "sha256 {sha256}; the hub says {size} bytes, sha256 " + ZEROS),
        ({"X-Linked-Size": "100"}, 1, "is damaged: it has more than 100 bytes, the announced size"),
        ({"X-Linked-Size": "200000"}, 6, "was cut off at {size:,} of 200,000 bytes"),
    ],
)
def test_a_wrong_size_or_sha256_is_an_error(server, folder, redirect, n_requests, message):
    server.redirect = redirect
    body = server.files[FILE]
    assert message.format(size=len(body), sha256=hashlib.sha256(body).hexdigest()) in failure(server, folder)
    assert len(server.ranges(FILE)) == n_requests


def test_a_wrong_sha256_is_an_error_if_the_size_is_unknown(server, folder):
    server.redirect = {"X-Linked-Etag": f'"{ZEROS}"', "X-Linked-Size": ""}
    server.faults["store", FILE] = iter([chunked()])
    assert f"the hub says None bytes, sha256 {ZEROS}" in failure(server, folder)
    assert stored(folder) == {}


def test_the_content_length_of_a_redirect_is_not_the_size_of_the_file(server, folder):
    server.redirect = {"X-Linked-Size": ""}
    server.faults["store", FILE] = iter([chunked()])
    download(server, folder)
    assert stored(folder) == {FILE: server.files[FILE]}


def test_a_file_that_fails_its_check_is_deleted(server, folder):
    def check(part: Path) -> None:
        raise ValueError(f"{part} is wrong")

    with pytest.raises(ValueError, match=f"^{server.url('config.json')} is wrong$"):
        download(server, folder, "config.json", check=check)
    assert stored(folder) == {}


@pytest.mark.parametrize("size", [None, "50000"])
@pytest.mark.parametrize("part", [b"", b"left"])
def test_an_endless_body_is_refused_at_its_bound(server, folder, size, part):
    """The bound is the size that the hub announces, else the caller's limit."""
    server.redirect = {"X-Linked-Size": size or ""}
    server.faults["store", FILE] = itertools.repeat(endless)
    folder.mkdir(parents=True)
    if part:
        (folder / f"{FILE}.part").write_bytes(part)
    assert f"more than {int(size or 80_000):,} bytes" in failure(server, folder, limit=80_000)
    assert stored(folder) == {}
    assert len(server.requests) == 2


@pytest.mark.parametrize("file", ["config.json", FILE])
def test_an_announced_size_above_the_limit_is_refused(server, folder, file):
    size = len(server.files[file])
    assert f"has {size:,} bytes; it must have at most 99" in failure(server, folder, file, limit=99)
    assert stored(folder) == {}


def test_the_body_of_a_redirect_is_not_read(server, folder):
    def redirect(handler, body) -> None:
        handler.start_endless(302, Location=server.address("store") + handler.path)

    server.faults["hub", FILE] = iter([redirect])
    download(server, folder)
    assert stored(folder) == {FILE: server.files[FILE]}


# No connection


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
def test_a_hub_that_cannot_be_reached_is_not_retried(server, folder, monkeypatch, pauses, endpoint, proxy, message):
    names = {"closed": closed_port(), "hub": server.address()}
    monkeypatch.setattr(socket, "getaddrinfo", only_loopback)
    monkeypatch.setenv("https_proxy", proxy.format(**names))
    monkeypatch.setenv("no_proxy", "" if proxy else "*")
    url = f"{endpoint.format(**names)}/config.json"
    with pytest.raises(OSError, match=message.format(**names)):
        download_file(url, folder / "config.json")
    assert message.format(**names) in (why_unreachable(url, 5) or "")
    assert pauses == []
    assert not folder.exists()


def only_loopback(host: str, *arguments, getaddrinfo=socket.getaddrinfo):
    """Resolve host names as a machine without a network does."""
    if host != "127.0.0.1":
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
    return getaddrinfo(host, *arguments)


@pytest.mark.parametrize(
    ("error", "n_attempts"),
    [
        (ssl.SSLCertVerificationError(1, "certificate verify failed"), 1),
        (ssl.SSLEOFError(8, "EOF occurred in violation of protocol"), ATTEMPTS),
    ],
)
def test_a_wrong_certificate_is_not_retried(server, folder, monkeypatch, pauses, error, n_attempts):
    def wrap_socket(*_, **__) -> None:
        raise error

    monkeypatch.setattr(ssl.SSLContext, "wrap_socket", wrap_socket)
    with pytest.raises(OSError, match=f"{server.address()[7:]}: {error.strerror}"):
        download_file(server.url("config.json").replace("http:", "https:"), folder / "config.json")
    assert len(pauses) == n_attempts - 1


def test_a_file_store_that_cannot_be_reached_is_not_retried(server, folder, pauses):
    address = f"127.0.0.1:{closed_port()}"
    server.redirect = {"Location": f"http://{address}/{FILE}"}
    assert f"{address}: Connection refused" in failure(server, folder)
    assert pauses == []


@pytest.mark.parametrize(
    ("faults", "problem"),
    [
        ([], None),
        ([503], None),
        ([reset], None),
        ([403], "403"),
        ([404], "404"),
        ([page], "Expecting value"),
        ([deep], "recursion"),
        ([endless], "more than 300,000 bytes"),
        (itertools.repeat(reset), "Connection reset by peer"),
        (itertools.repeat(stall), "no answer within 0.6 seconds"),
    ],
)
def test_why_unreachable_names_the_problem(server, monkeypatch, faults, problem):
    server.faults["hub", "config.json"] = iter(faults)
    monkeypatch.setattr(download_module, "LIMIT", 300_000)
    answer = why_unreachable(server.url("config.json"), 0.6)
    assert problem in (answer or "") if problem else answer is None


# Parts of an earlier run


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
        ("whole", "vocab.json", [bare_416], ["bytes={size}-", None]),  # the answer does not confirm the size
        ("longer", FILE, [], ["bytes={size}-", None]),
        ("longer", "vocab.json", [], ["bytes={size}-", None]),
        ("other prefix", FILE, [], ["bytes=100-", None]),
        ("other prefix", FILE, [all_of_it], ["bytes=100-"]),
        ("other whole", FILE, [], ["bytes={size}-", None]),
    ],
)
def test_a_download_continues_from_a_part_or_replaces_it(server, folder, part, file, faults, ranges):
    left = PARTS[part](server.files[file])
    folder.mkdir(parents=True)
    (folder / f"{file}.part").write_bytes(left)
    server.faults[server.home(file), file] = iter(faults)
    download(server, folder, file)
    assert server.ranges(file) == [range_ and range_.format(size=len(left)) for range_ in ranges]
    assert stored(folder) == {file: server.files[file]}


# The disk


def test_too_little_space_is_an_error_before_the_download(server, folder, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=10_000))
    message = f"{folder} has 10,000 bytes free; the download needs {len(server.files[FILE]):,}"
    assert message in failure(server, folder)
    assert stored(folder) == {}


def test_a_full_disk_is_an_error(server, folder):
    folder.mkdir(parents=True)
    (folder / f"{FILE}.part").symlink_to("/dev/full")
    assert "No space left on device" in failure(server, folder)
    assert len(server.ranges(FILE)) == 1


def test_a_file_system_without_locks_does_not_wait(tmp_path, monkeypatch):
    def flock(*_) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr(fcntl, "flock", flock)
    monkeypatch.setattr(time, "sleep", lambda _: pytest.fail("it waits"))
    with locked(tmp_path), locked(tmp_path):
        pass
