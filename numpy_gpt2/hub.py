"""A model's name -> a local folder, downloading it the first time."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from .config import RELEASED_SIZES, GPT2Config
from .console import print_stderr, progress_bar
from .tokenizer import load_tokenizer
from .weights import FILE, INDEX, shard_names

if TYPE_CHECKING:
    import requests

NAMES = (*RELEASED_SIZES, "distilgpt2")
REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
DEFAULT_MODEL = "gpt2"
BUNDLED = "shakespeare"
MODEL_FILES = ("config.json", "vocab.json", "merges.txt")  # of a model folder, beside the weights

TIMEOUT = 10  # seconds without an answer
ATTEMPTS = 5  # without a byte gained
PAUSE = 0.5  # seconds before going on where bytes came in; doubled with every attempt that brought none
CHUNK = 1 << 14  # bytes: as much as a cut connection can lose


def weights_folder() -> Path:
    """Where models are kept: `NUMPY_GPT2_WEIGHTS`, else `weights/` of the checkout, else the user's cache folder."""
    if folder := os.environ.get("NUMPY_GPT2_WEIGHTS"):
        return Path(folder)
    checkout = Path(__file__).parent.parent
    if (checkout / "pyproject.toml").exists() and (checkout / "weights").is_dir():
        return checkout / "weights"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "numpy_gpt2"


def bundled_folder() -> Path:
    """The model that comes with the project: inside the package of a wheel, in `weights/` of a checkout."""
    package = Path(__file__).parent
    inside = package / "bundled" / BUNDLED
    return inside if inside.is_dir() else package.parent / "weights" / BUNDLED


def model_folder(name: str | Path) -> Path:
    """The folder of a model: an existing one, one under `weights/`, one of the five names, or `owner/name` on the hub.

    What is on the hub and not here yet is downloaded. Raises OSError when that fails or when nothing has this name,
    and ValueError when the hub's config, tokenizer or shard index is not one.
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


def choose_model(name: str | None) -> str:
    """The model that was named; else GPT-2; else, where that cannot be had, the bundled model, and a notice."""
    if name is not None:
        return name
    folder = weights_folder() / DEFAULT_MODEL
    for here in (Path(DEFAULT_MODEL), folder):
        if is_complete(here):
            return str(here)
    problem = why_unreachable(DEFAULT_MODEL)
    if problem is None:
        return str(download(DEFAULT_MODEL, folder))
    print_stderr(
        f"note: the bundled model {BUNDLED} answers: no {DEFAULT_MODEL} in {folder}, the hub is away ({problem})"
    )
    print_stderr(f"note: run this again when the hub is in reach; {by_hand(DEFAULT_MODEL, folder)}")
    return str(bundled_folder())


def tokenizer_folder(name: str | Path) -> Path:
    """The folder of a tokenizer: as `model_folder`, but of what is only on the hub just the tokenizer is downloaded."""
    name = os.fspath(name)
    folder = weights_folder() / name
    if Path(name).is_dir() or not (name in NAMES or REPOSITORY.fullmatch(name)):
        return model_folder(name)
    if not all((folder / file).exists() for file in ("vocab.json", "merges.txt")):
        download(name, folder, with_weights=False)
    return folder


def is_complete(folder: Path) -> bool:
    """Whether nothing is left to download. Files get their names only when they are whole."""
    sharded = (folder / INDEX).exists() and not (folder / FILE).exists()
    weights = shard_names(folder / INDEX) if sharded else [FILE]
    return all((folder / name).exists() for name in (*MODEL_FILES, *weights))


def endpoint() -> str:
    """The hub's address: `HF_ENDPOINT`, or Hugging Face's."""
    return (os.environ.get("HF_ENDPOINT") or "https://huggingface.co").rstrip("/")


def file_url(repository: str, file: str) -> str:
    """Where the hub has a file."""
    return f"{endpoint()}/{repository}/resolve/main/{file}"


def is_offline() -> bool:
    """Whether `HF_HUB_OFFLINE` forbids asking the hub."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}


def why_unreachable(repository: str, seconds: float = 1.5) -> str | None:
    """Why the hub cannot be reached, or None when it answers in time: with the model's config, or with 5xx.

    A 4xx, or something that is no config, comes from what stands in the hub's place. It is asked in a thread that may
    be left behind, because looking up a host's name knows no time-out.
    """
    if is_offline():
        return "HF_HUB_OFFLINE is set"
    import requests

    problem: str | None = f"{endpoint()}: no answer within {seconds:g} seconds"

    def ask() -> None:
        nonlocal problem
        for _ in range(ATTEMPTS):
            try:
                answer = requests.get(file_url(repository, "config.json"), timeout=TIMEOUT)
                if answer.status_code < 500:
                    answer.raise_for_status()
                    answer.json()
                problem = None
                return
            except (OSError, ValueError) as error:  # ValueError: an address that is none
                problem = describe(error)
                if not (isinstance(error, requests.RequestException) and may_pass(error)):
                    return
            time.sleep(0.1)

    thread = threading.Thread(target=ask, daemon=True)
    thread.start()
    thread.join(seconds)
    return problem


def by_hand(repository: str, folder: Path) -> str:
    """What a person can do where the program cannot."""
    files = f"{', '.join(MODEL_FILES)} and {FILE}"
    return f"to do it by hand, put {files} from {endpoint()}/{repository}/tree/main into {folder}"


def download(repository: str, folder: Path, with_weights: bool = True) -> Path:
    """Fetch what is missing of a model. Several processes may do so at once: one downloads, the others wait for it."""
    try:
        if is_offline():
            raise ConnectionError("HF_HUB_OFFLINE is set")
        with locked(weights_folder()):
            fetch(repository, "config.json", folder, check=GPT2Config.from_json)  # before half a gigabyte of another
            fetch_tokenizer(repository, folder)
            if with_weights:
                fetch_weights(repository, folder)
    except OSError as error:
        raise OSError(f"cannot download {repository}: {describe(error)}; {by_hand(repository, folder)}") from None
    return folder


def fetch_tokenizer(repository: str, folder: Path) -> None:
    """Download the tokenizer's two files; if they are not a tokenizer, neither stays."""
    fetch(repository, "vocab.json", folder)
    fetch(repository, "merges.txt", folder)
    try:
        load_tokenizer(folder)
    except ValueError:
        (folder / "vocab.json").unlink()
        (folder / "merges.txt").unlink()
        raise


def fetch_weights(repository: str, folder: Path) -> None:
    """Download `model.safetensors`; where a repository has a shard index in its place, that and what it lists."""
    if not (folder / INDEX).exists():
        try:
            return fetch(repository, FILE, folder)
        except FileNotFoundError as missing:
            try:
                fetch(repository, INDEX, folder, check=shard_names)
            except FileNotFoundError:
                raise missing from None
    for shard in shard_names(folder / INDEX):
        fetch(repository, shard, folder)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a lock on a folder, for which other processes wait. It ends with the process, in whatever way that ends."""
    folder.mkdir(parents=True, exist_ok=True)
    windows = sys.platform == "win32"  # where only files can be locked
    descriptor = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT) if windows else os.open(folder, os.O_RDONLY)
    try:
        if not try_lock(descriptor):
            print_stderr(f"note: waiting for another process that is downloading into {folder}")
            while not try_lock(descriptor):
                time.sleep(0.1)
        yield
    finally:
        os.close(descriptor)


def try_lock(descriptor: int) -> bool:
    """Take the lock, unless another process has it. Raises OSError where the file system knows no locks."""
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):  # the second is what Windows says
        return False
    return True


def fetch(repository: str, file: str, folder: Path, check: Callable[[Path], object] | None = None) -> None:
    """Download one file, unless it is there: into `file.part`, resumed where that ends, checked, and then renamed.

    What may pass (5xx, resets, time-outs) is tried again with growing pauses, as long as bytes keep coming in. Raises
    FileNotFoundError when the repository has no such file, ValueError when `check` does, OSError for everything else.
    """
    import requests

    if (folder / file).exists():
        return
    url, part = file_url(repository, file), folder / f"{file}.part"
    failures, most = 0, size_of(part)
    while True:
        try:
            receive(url, part)
            break
        except requests.RequestException as error:
            failures, most = (0, size_of(part)) if size_of(part) > most else (failures + 1, most)
            if failures == ATTEMPTS or not may_pass(error):
                raise
        time.sleep(PAUSE * 2**failures)
    try:
        if check:
            check(part)
    except ValueError as error:
        part.unlink()
        raise ValueError(str(error).replace(str(part), url)) from None
    part.replace(folder / file)


def size_of(path: Path) -> int:
    """The bytes of a file, 0 where there is none."""
    return path.stat().st_size if path.exists() else 0


def receive(url: str, part: Path) -> None:
    """One attempt at downloading what is missing of `part`; returns when it is whole, of the right size and sha256.

    A part that cannot be right is deleted. Raises requests.RequestException for what another attempt may mend, for
    other answers than 2xx and for addresses that are none; OSError for the rest, FileNotFoundError for 404.
    """
    import requests

    start = size_of(part)
    headers = {"Accept-Encoding": "identity"}  # compressed, neither size nor ranges would be the file's
    if start:
        headers["Range"] = f"bytes={start}-"
    if token := os.environ.get("HF_TOKEN", "").strip():
        headers["Authorization"] = f"Bearer {token}"  # requests takes it off when it is redirected to another host

    with requests.get(url, headers=headers, stream=True, timeout=TIMEOUT) as response:
        status = response.status_code
        if status == 404:
            raise FileNotFoundError(f"there is no {url}")
        if status in (401, 403):
            raise PermissionError(f"{url} answers {status}: no such model, or HF_TOKEN must be set to see it")
        size, sha256 = expected_size_and_sha256(response)
        if status != 416:  # nothing to send beyond `start`: the part is whole already, or no part of this file
            response.raise_for_status()
            if status not in (200, 206):
                raise OSError(f"{url} answers {status}, which is neither the file nor a part of it")
            start = start if status == 206 else 0  # 200: the server does not know ranges, and sends everything
            part.parent.mkdir(parents=True, exist_ok=True)
            if size and (free := shutil.disk_usage(part.parent).free) < size - start:
                raise OSError(f"{part.parent} has no space for {size - start:,} bytes, only for {free:,}")
            with (
                open(part, "ab" if start else "wb") as file,
                progress_bar(desc=part.stem, initial=start, total=size, unit="B", unit_scale=True) as progress,
            ):
                for data in response.iter_content(CHUNK):
                    file.write(data)
                    file.flush()  # what is here is not asked for again, however the process ends
                    progress.update(len(data))

    received = size_of(part)
    if size is not None and received < size:
        raise requests.ConnectionError(f"{url} was cut off at {received:,} of {size:,} bytes")
    with open(part, "rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest() if sha256 else None
    if ((size is not None or status == 416) and received != size) or digest != sha256:
        part.unlink()
        message = f"{url} is damaged: {received} bytes, sha256 {digest}; the hub says {size} bytes, sha256 {sha256}"
        raise requests.ConnectionError(message) if start else OSError(message)  # the older part may be to blame


def expected_size_and_sha256(response: requests.Response) -> tuple[int | None, str | None]:
    """What an answer says about the whole file, or the hub in the redirect to its file store; None for the unsaid."""
    linked = {name: value for hop in (*response.history, response) for name, value in hop.headers.lower_items()}
    size = linked.get("x-linked-size")
    if size is None and response.status_code == 200 and "Content-Encoding" not in response.headers:
        size = response.headers.get("Content-Length")
    if size is None:
        size = response.headers.get("Content-Range", "").rpartition("/")[2]  # "bytes 5-9/10", or "bytes */10" with 416
    sha256 = linked.get("x-linked-etag", "").strip('"')
    return int(size) if size.isdecimal() else None, sha256 if re.fullmatch("[0-9a-f]{64}", sha256) else None


def may_pass(error: requests.RequestException) -> bool:
    """Whether trying again makes sense: after 5xx, resets and time-outs, not when the hub is not there or says no."""
    import requests
    from urllib3.exceptions import NewConnectionError

    if error.response is not None:
        return error.response.status_code >= 500 or error.response.status_code == 429
    final = (NewConnectionError, requests.exceptions.ProxyError, ValueError)  # the last: no valid address, certificate
    return not any(isinstance(cause, final) for cause in causes(error))


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """An exception and, one in the other, those that it wraps: requests keeps them as arguments, urllib3 as causes.

    Not as contexts: there, whatever the caller was handling would show up too.
    """
    while error:
        yield error
        error = error.__cause__ or next((part for part in error.args if isinstance(part, BaseException)), None)


def describe(error: Exception) -> str:
    """An error in one line, without the wrapping."""
    *_, cause = causes(error)
    if cause is error:
        return str(error)
    request = getattr(error, "request", None)
    host = urlsplit(request.url if request else endpoint()).netloc
    return f"{host}: {getattr(cause, 'strerror', None) or cause}"
