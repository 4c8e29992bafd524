"""A model's name -> a local folder, downloading it the first time."""

from __future__ import annotations

import errno
import hashlib
import os
import re
import shutil
import socket
import ssl
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING

from .config import RELEASED_SIZES, GPT2Config
from .weights import FILE, INDEX, shard_names

if TYPE_CHECKING:
    import requests

NAMES = (*RELEASED_SIZES, "distilgpt2")
REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
BUNDLED = "shakespeare"

TIMEOUT = 10  # seconds without an answer
ATTEMPTS = 5  # without a byte gained
PAUSE = 0.5  # seconds before the second attempt; doubled before each further one
CHUNK = 1 << 14  # bytes: as much as a cut connection can lose


def weights_folder() -> Path:
    """Where models are kept: `NUMPY_GPT2_WEIGHTS`, else `weights/` of the checkout, else the user's cache folder."""
    if folder := os.environ.get("NUMPY_GPT2_WEIGHTS"):
        return Path(folder)
    checkout = Path(__file__).parent.parent
    if (checkout / "pyproject.toml").exists() and (checkout / "weights").is_dir():
        return checkout / "weights"
    if sys.platform == "win32":
        cache = os.environ.get("LOCALAPPDATA") or Path.home() / "AppData" / "Local"
    elif sys.platform == "darwin":
        cache = Path.home() / "Library" / "Caches"
    else:
        cache = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(cache) / "numpy_gpt2"


def bundled_folder() -> Path:
    """The model that comes with the project: inside the package of a wheel, in `weights/` of a checkout."""
    package = Path(__file__).parent
    inside = package / "weights" / BUNDLED
    return inside if inside.is_dir() else package.parent / "weights" / BUNDLED


def model_folder(name: str | Path) -> Path:
    """The folder of a model: an existing one, one under `weights/`, one of the five names, or `owner/name` on the hub.

    What is on the hub and not here yet is downloaded. Raises OSError when that fails or when nothing has this name.
    """
    name = os.fspath(name)
    if Path(name).is_dir():
        return Path(name)
    folder = weights_folder() / name
    if is_complete(folder):
        return folder
    if name in NAMES or REPOSITORY.fullmatch(name):
        return download(name, folder)
    if folder.is_dir():
        return folder
    if name == BUNDLED:
        return bundled_folder()
    raise FileNotFoundError(
        f"there is no model {name!r}: no such folder, none under {weights_folder()}, and on the hub it would be"
        f" owner/name or one of {', '.join(NAMES)}"
    )


def is_complete(folder: Path) -> bool:
    """Whether nothing is left to download. Files get their names only when they are whole."""
    sharded = (folder / INDEX).exists() and not (folder / FILE).exists()
    weights = shard_names(folder / INDEX) if sharded else [FILE]
    return all((folder / name).exists() for name in ("config.json", "vocab.json", "merges.txt", *weights))


def endpoint() -> str:
    """The hub's address: `HF_ENDPOINT`, or Hugging Face's."""
    return (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")


def is_offline() -> bool:
    """Whether `HF_HUB_OFFLINE` forbids asking the hub."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}


def why_unreachable(seconds: float = 2.0) -> str | None:
    """Why the hub cannot be reached, or None when it answers in time, whatever it says.

    It is asked in a thread of its own because looking up a host's name knows no time-out.
    """
    if is_offline():
        return "HF_HUB_OFFLINE is set"
    import requests

    problem: str | None = f"no answer within {seconds:g} seconds"

    def ask() -> None:
        nonlocal problem
        try:
            requests.head(endpoint(), timeout=seconds, allow_redirects=False)
            problem = None
        except requests.RequestException as error:
            problem = describe(error)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(seconds)
    return problem


def by_hand(repository: str, folder: Path) -> str:
    """What a person can do where the program cannot."""
    files = f"config.json, vocab.json, merges.txt and {FILE}"
    return f"to do it by hand, put {files} from {endpoint()}/{repository}/tree/main into {folder}"


def download(repository: str, folder: Path) -> Path:
    """Fetch what is missing of a model. Several processes may do so at once: one downloads, the others wait for it."""
    try:
        if is_offline():
            raise ConnectionError("HF_HUB_OFFLINE is set")
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder / ".lock"):
            fetch(repository, "config.json", folder)
            GPT2Config.from_json(folder / "config.json")  # before half a gigabyte of something else
            fetch(repository, "vocab.json", folder)
            fetch(repository, "merges.txt", folder)
            with suppress(FileNotFoundError):
                fetch(repository, FILE, folder)
                return folder
            fetch(repository, INDEX, folder)
            for shard in shard_names(folder / INDEX):
                fetch(repository, shard, folder)
    except OSError as error:
        raise OSError(f"cannot download {repository}: {describe(error)}; {by_hand(repository, folder)}") from None
    return folder


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold a lock that other processes wait for. The system frees it when the process ends, however it ends."""
    with open(path, "a") as file:
        if not try_lock(file.fileno()):
            print(f"waiting for another process that is downloading into {path.parent}", file=sys.stderr)
            while not try_lock(file.fileno()):
                time.sleep(0.1)
        yield


def try_lock(descriptor: int) -> bool:
    """Lock an open file, unless another process has."""
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def fetch(repository: str, file: str, folder: Path) -> None:
    """Download one file, unless it is there: into `file.part`, resumed where that ends, checked, and then renamed.

    What may pass (5xx, resets, time-outs) is tried again with growing pauses, as long as bytes keep coming in. Raises
    FileNotFoundError when the repository has no such file, and OSError for everything else.
    """
    import requests

    if (folder / file).exists():
        return
    part = folder / f"{file}.part"
    failures, most = 0, 0
    while True:
        try:
            receive(f"{endpoint()}/{repository}/resolve/main/{file}", part)
            break
        except requests.RequestException as error:
            size = part.stat().st_size if part.exists() else 0
            failures, most = (0, size) if size > most else (failures + 1, most)
            if failures == ATTEMPTS or not may_pass(error):
                raise
        time.sleep(PAUSE * 2**failures)
    part.replace(folder / file)


def receive(url: str, part: Path) -> None:
    """One attempt at downloading what is missing of `part`; returns when it is whole, of the right size and sha256.

    The hub answers the address of a large file with a redirect to its file store, and names size and sha256 in the
    headers of that redirect. A part that cannot be right is deleted.
    """
    import requests
    from tqdm import tqdm

    start = part.stat().st_size if part.exists() else 0
    headers = {"Accept-Encoding": "identity"}  # compressed, neither size nor ranges would be the file's
    if start:
        headers["Range"] = f"bytes={start}-"
    if token := os.environ.get("HF_TOKEN"):
        headers["Authorization"] = f"Bearer {token}"

    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response:
        if response.status_code == 404:
            raise FileNotFoundError(f"there is no {url}")
        if response.status_code in (401, 403):
            raise PermissionError(
                f"{url} answers {response.status_code}: no such model, or HF_TOKEN must be set to see it"
            )
        if (
            response.status_code != 416
        ):  # "nothing there to send": the part was whole already, or is no part of this file
            response.raise_for_status()
        resumed = response.status_code == 206
        size, sha256 = expected_size_and_sha256(response)
        if response.status_code != 416:
            start = start if resumed else 0
            if size and shutil.disk_usage(part.parent).free < size - start:
                raise OSError(errno.ENOSPC, f"no space for {size - start:,} bytes", str(part.parent))
            with (
                open(part, "ab" if resumed else "wb") as file,
                tqdm(desc=part.stem, initial=start, total=size, unit="B", unit_scale=True) as progress,
            ):
                for data in response.iter_content(CHUNK):
                    file.write(data)
                    progress.update(len(data))

    received = part.stat().st_size
    if size and received < size:
        raise requests.ConnectionError(f"{url} was cut off at {received:,} of {size:,} bytes")
    with open(part, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if (size and received > size) or (sha256 and digest != sha256):
        part.unlink()
        message = f"{url} is damaged: {received:,} bytes, sha256 {digest}; the hub says {size:,} bytes, {sha256}"
        raise requests.ConnectionError(message) if start else OSError(message)  # the older part may be to blame


def expected_size_and_sha256(response: requests.Response) -> tuple[int | None, str | None]:
    """What an answer and the redirects before it say about the whole file."""
    headers = {name.lower(): value for hop in (*response.history, response) for name, value in hop.headers.items()}
    size = headers.get("x-linked-size")
    if size is None and response.status_code == 200:
        size = headers.get("content-length")
    if size is None:
        size = headers.get("content-range", "").rpartition("/")[2]
    sha256 = headers.get("x-linked-etag", "").strip('"')
    return int(size) if size.isdecimal() else None, sha256 if re.fullmatch("[0-9a-f]{64}", sha256) else None


def may_pass(error: requests.RequestException) -> bool:
    """Whether trying again makes sense: after 5xx, resets and time-outs, not when the hub is not there or says no."""
    import requests

    if error.response is not None:
        return error.response.status_code >= 500 or error.response.status_code == 429
    cause = root_cause(error)
    if isinstance(cause, (ConnectionRefusedError, socket.gaierror, ssl.SSLError)):
        return False
    if isinstance(cause, OSError) and cause.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH):
        return False
    return isinstance(error, (requests.ConnectionError, requests.Timeout, requests.exceptions.ChunkedEncodingError))


def root_cause(error: BaseException) -> BaseException:
    """What lies at the bottom of an exception that libraries have wrapped."""
    while inner := error.__cause__ or error.__context__:
        error = inner
    return error


def describe(error: OSError) -> str:
    """An error in one line, without the wrapping."""
    cause = root_cause(error)
    return str(error) if cause is error else f"{endpoint()}: {getattr(cause, 'strerror', None) or cause}"
