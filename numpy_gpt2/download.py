"""Download one file from the hub: continue interrupted downloads, verify the content, retry temporary errors.

`hub.py` decides which files a model needs. It imports this module only when it needs the network, because importing
requests takes time.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import requests
from requests.auth import AuthBase
from urllib3.exceptions import NewConnectionError

from .console import print_stderr, progress_bar
from .credentials import authorization, redact
from .files import try_lock

TIMEOUT = 10.0  # seconds to wait for an answer, or for more data
ATTEMPTS = 5  # failures in a row that end a download; new data starts the count again
PAUSE = 0.5  # seconds before the next attempt, doubled with each failure in a row
CHUNK = 1 << 14  # bytes per write; a broken connection loses less than one write
LIMIT = 100_000_000  # the most bytes of a file, unless the caller says otherwise


def download_file(
    url: str,
    path: Path,
    check: Callable[[Path], object] | None = None,
    check_start: Callable[[Path], bool] | None = None,
    *,
    limit: int = LIMIT,
    timeout: float = TIMEOUT,
    attempts: int = ATTEMPTS,
    pause: float = PAUSE,
) -> None:
    """Download `url` to `path`, unless `path` exists.

    The data is written to `path` + ".part". If that file exists, the download continues at its end. The file
    is renamed to `path` when its size and sha256 are right and `check(part)` raises no ValueError. `check_start(part)`
    is called after each write until it returns True. If it raises ValueError, the rest is not downloaded.

    A file of more bytes than announced, or than `limit`, is refused as soon as that is known.

    Temporary errors (5xx, resets, timeouts) are retried with growing pauses. Raises FileNotFoundError if the server has
    no such file, ValueError if a check does, and OSError with a one-line message for everything else.
    """
    if path.exists():
        return
    part = path.with_name(f"{path.name}.part")
    failures, largest = 0, size_of(part)
    try:
        while True:
            try:
                receive(url, part, limit, timeout, check_start)
                break
            except requests.RequestException as error:
                failures, largest = (0, size_of(part)) if size_of(part) > largest else (failures + 1, largest)
                if failures == attempts or not is_temporary(error):
                    raise OSError(describe(error, url)) from None
            time.sleep(pause * 2**failures)
        if check:
            check(part)
    except ValueError as error:
        part.unlink(missing_ok=True)
        raise ValueError(redact(str(error).replace(str(part), url))) from None
    part.replace(path)


def size_of(path: Path) -> int:
    """The size of a file in bytes; 0 if it does not exist."""
    return path.stat().st_size if path.exists() else 0


class Authorization(AuthBase):
    """Sends the header "Authorization". requests then does not look for a user and a password in ~/.netrc."""

    def __init__(self, value: str) -> None:
        self.value = value

    def __call__(self, request: requests.PreparedRequest) -> requests.PreparedRequest:
        request.headers["Authorization"] = self.value
        return request


class Session(requests.Session):
    """The session of a request to the hub. Redirects to another host get no authorization; their bodies are not read.

    Proxies and certificates are those of the environment, as in requests.
    """

    def __init__(self) -> None:
        super().__init__()
        self.headers["Accept-Encoding"] = "identity"  # sizes and ranges of a compressed answer would not be the file's
        if value := authorization():
            self.auth = Authorization(value)
        self.hooks["response"] = [self.drop_body_of_redirect]

    def rebuild_auth(self, prepared_request: requests.PreparedRequest, response: requests.Response) -> None:
        if self.auth is None:
            super().rebuild_auth(prepared_request, response)  # also looks into ~/.netrc
        elif self.should_strip_auth(str(response.request.url), str(prepared_request.url)):
            prepared_request.headers.pop("Authorization", None)

    def drop_body_of_redirect(self, response: requests.Response, **_: object) -> None:
        if response.is_redirect:
            response.close()
            response.raw = io.BytesIO()


@contextmanager
def open_url(url: str, timeout: float, method: str = "GET", **headers: str) -> Iterator[requests.Response]:
    """Send a request to the hub and yield the answer. Its body is read in the `with` block."""
    with Session() as session, session.request(method, url, headers=headers, stream=True, timeout=timeout) as response:
        yield response


def receive(
    url: str, part: Path, limit: int, timeout: float, check_start: Callable[[Path], bool] | None = None
) -> None:
    """One attempt to download the missing rest of `part`. Returns when its size and sha256 are right.

    A part with a wrong size or sha256 is deleted. Raises requests.RequestException if the request fails or another
    attempt may help, FileNotFoundError for status 404, ValueError if `check_start` does, and OSError otherwise.
    """
    start, name = size_of(part), redact(url)
    headers = {"Range": f"bytes={start}-"} if start else {}
    with open_url(url, timeout, **headers) as response:
        status = response.status_code
        if status == 404:
            raise FileNotFoundError(f"there is no {name}")
        if status in (401, 403):
            raise PermissionError(f"{name} answers {status}: there is no such model, or it needs HF_TOKEN to be set")
        size, sha256 = expected_size_and_sha256(response)
        if size is not None and size > limit:
            raise OSError(f"{name} has {size:,} bytes; it must have at most {limit:,}")
        limit = limit if size is None else size
        if status != 416:  # 416: no bytes after `start`; the part is complete or of another file
            response.raise_for_status()
            if status not in (200, 206):
                raise OSError(f"{name} answers {status}; it must be 200 (the file) or 206 (the rest of it)")
            start = start if status == 206 else 0  # 200: the server ignores ranges and sends the whole file
            part.parent.mkdir(parents=True, exist_ok=True)
            if size and (free := shutil.disk_usage(part.parent).free) < size - start:
                raise OSError(f"{part.parent} has {free:,} bytes free; the download needs {size - start:,}")
            received = start
            with (
                open(part, "ab" if start else "wb") as file,
                progress_bar(desc=part.stem, initial=start, total=size, unit="B", unit_scale=True) as progress,
            ):
                for data in response.iter_content(CHUNK):
                    file.write(data)
                    file.flush()  # kept even if the process is killed
                    progress.update(len(data))
                    received += len(data)
                    if check_start and check_start(part):
                        check_start = None
                    if received > limit:
                        break

    received = size_of(part)
    if size is not None and received < size:
        raise requests.ConnectionError(f"{name} was cut off at {received:,} of {size:,} bytes")
    if received > limit:
        whose = "the limit of such a file" if size is None else "the announced size"
        message = f"{name} is damaged: it has more than {limit:,} bytes, {whose}"
    else:
        with open(part, "rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest() if sha256 else None
        if (status != 416 or received == size) and digest == sha256:
            return
        message = f"{name} is damaged: {received} bytes, sha256 {digest}; the hub says {size} bytes, sha256 {sha256}"
    part.unlink()
    raise requests.ConnectionError(message) if start else OSError(message)  # retry if the old part may be wrong


def expected_size_and_sha256(response: requests.Response) -> tuple[int | None, str | None]:
    """The size and sha256 of the whole file, from the headers of a response and its redirects; None if unknown."""
    linked = {name: value for hop in (*response.history, response) for name, value in hop.headers.lower_items()}
    size = linked.get("x-linked-size")
    if size is None and response.status_code == 200 and "Content-Encoding" not in response.headers:
        size = response.headers.get("Content-Length")
    if size is None:
        size = response.headers.get("Content-Range", "").rpartition("/")[2]  # "bytes 5-9/10"; with 416 "bytes */10"
    sha256 = linked.get("x-linked-etag", "").strip('"')
    return int(size) if re.fullmatch("[0-9]{1,18}", size) else None, sha256 if re.fullmatch(
        "[0-9a-f]{64}", sha256
    ) else None


def why_unreachable(url: str, seconds: float) -> str | None:
    """Why a JSON file cannot be downloaded now, or None if it can. Takes at most `seconds`.

    A server that responds with 5xx counts as reachable. A response with 4xx does not count, and neither does one that
    is not JSON: networks with a login page send such responses in place of the server's.
    """
    problem: str | None = f"{host(url)}: no answer within {seconds:g} seconds"

    def ask() -> None:
        nonlocal problem
        for _ in range(ATTEMPTS):
            try:
                with open_url(url, TIMEOUT) as answer:
                    if answer.status_code < 500:
                        answer.raise_for_status()
                        json.loads(read_small(answer))
                problem = None
                return
            except (OSError, ValueError, RecursionError) as error:  # ValueError: an invalid address
                problem = describe(error, url)
                if not (isinstance(error, requests.RequestException) and is_temporary(error)):
                    return
            time.sleep(0.1)

    thread = threading.Thread(target=ask, daemon=True)  # because looking up a host name has no timeout
    try:
        thread.start()
        thread.join(seconds)
    except RuntimeError:  # can't start new thread
        ask()
    return problem


def read_small(response: requests.Response) -> bytes:
    """The body of an answer. Raises OSError for more than LIMIT bytes."""
    body = bytearray()
    for data in response.iter_content(CHUNK):
        body += data
        if len(body) > LIMIT:
            raise OSError(f"{redact(response.url)} has more than {LIMIT:,} bytes, the limit of such a file")
    return bytes(body)


def file_names(api_url: str) -> list[str]:
    """The names of a repository's files, from the hub's API. Raises OSError or ValueError if there is no such API."""
    with open_url(api_url, TIMEOUT) as response:
        response.raise_for_status()
        listed = json.loads(read_small(response))
    try:
        return [str(file["rfilename"]) for file in listed["siblings"]]
    except (LookupError, TypeError) as error:
        raise ValueError(f"{redact(api_url)} is not a list of files ({error!r})") from None


def probe(url: str) -> tuple[int, str]:
    """What the hub answers for a file: the status, and its own code for an error. Raises OSError for no answer."""
    with open_url(url, TIMEOUT, method="HEAD") as response:
        return response.status_code, response.headers.get("X-Error-Code", "")


def is_temporary(error: requests.RequestException) -> bool:
    """Whether another attempt may succeed: after 429, 5xx, resets and timeouts, but not if there is no such server."""
    if error.response is not None:
        return error.response.status_code >= 500 or error.response.status_code == 429
    final = (NewConnectionError, requests.exceptions.ProxyError, ValueError)  # ValueError: invalid URL or certificate
    return not any(isinstance(cause, final) for cause in causes(error))


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An exception, the exception that it wraps, the one that this wraps, and so on.

    requests keeps a wrapped exception in `args`, urllib3 in `__cause__`. `__context__` does not count: it may be an
    exception that the caller was handling already.
    """
    while error:
        yield error
        error = error.__cause__ or next((part for part in error.args if isinstance(part, BaseException)), None)


def describe(error: Exception, url: str) -> str:
    """An error in one line, without secrets: the host and the innermost cause."""
    *_, cause = causes(error)
    if cause is error:
        return redact(str(error))
    request = getattr(error, "request", None)  # after a redirect, its host is not that of `url`
    return redact(f"{host(request.url if request else url)}: {getattr(cause, 'strerror', None) or cause}")


def host(url: str) -> str:
    """The host and port of an address.

    >>> host("https://me:pw@hub.org:8080/gpt2/resolve/main/config.json")
    'hub.org:8080'
    """
    return re.sub(r"^[^/]*//|/.*", "", redact(url))


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a lock on a folder; other processes wait for it. On a file system without locks, nobody waits."""
    folder.mkdir(parents=True, exist_ok=True)
    noted = False
    while True:
        with try_lock(folder) as ours:
            if ours is not False:
                yield
                return
        if not noted:
            print_stderr(f"note: waiting for another process that is downloading into {folder}")
            noted = True
        time.sleep(0.1)
