"""Files: all-or-nothing writes, locks between processes, text in UTF-8, and JSON."""

from __future__ import annotations

import json
import os
import shutil
import sys
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

STAGING = ".unfinished-"  # the names of staging folders begin with this
LOCK = ".lock"


@contextmanager
def staged_writes(folder: Path, replaced: Iterable[str] = ()) -> Iterator[Path]:
    """A temporary folder to write files into. They are moved into `folder` at the end of the `with` block, by name,
    and those of its subfolders into subfolders of `folder`.
    Files in `folder` whose names are in `replaced` are removed then, unless there is a new one.

    If the block raises an exception, nothing in `folder` changes. A killed process leaves its temporary folder; the
    next `staged_writes` into `folder` removes it. Raises OSError if a file cannot be written or moved.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        remove_abandoned(folder)
        with ExitStack() as stack:
            locked: bool | None = False
            while locked is False:  # another process may have removed the new folder before it was locked
                staging = Path(stack.enter_context(tempfile.TemporaryDirectory(dir=folder, prefix=STAGING)))
                locked = stack.enter_context(try_lock(staging))
            yield staging
            paths = sorted(path for path in staging.rglob("*") if path.is_file() and path.name != LOCK)
            written = [str(path.relative_to(staging)) for path in paths]
            for name in written:
                (folder / name).parent.mkdir(exist_ok=True)
                (staging / name).replace(folder / name)
            for name in {*replaced}.difference(written):
                (folder / name).unlink(missing_ok=True)
    except OSError as error:
        problem = error.strerror or str(error)
        raise OSError(f"cannot write into {folder}: {problem}; the files in it are unchanged") from None


def remove_abandoned(folder: Path) -> None:
    """Remove the staging folders in `folder` that no process holds. Errors are ignored."""
    for staging in folder.glob(f"{STAGING}*"):
        with suppress(OSError):
            with try_lock(staging) as locked:
                if locked:
                    shutil.rmtree(staging, ignore_errors=True)
            if locked:  # Windows removes no open file, such as the lock's: the folder is still there
                shutil.rmtree(staging, ignore_errors=True)


def files_of(folder: Path) -> dict[str, Path]:
    """The files in a folder: name -> path. There are none if there is no folder. A broken link is not a file."""
    try:
        return {path.name: path for path in folder.iterdir() if path.is_file()}
    except OSError:
        return {}


def link_or_copy(source: Path, path: Path) -> None:
    """Make `path` a link to a file, or a copy of the file on a system or a file system that has no links."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)  # a link to a file that is gone
    try:
        path.symlink_to(source.resolve())
    except OSError:
        part = path.with_name(f"{path.name}.part")
        shutil.copy2(source, part)
        part.replace(path)


@contextmanager
def try_lock(folder: Path) -> Iterator[bool | None]:
    """Lock a folder until the end of the `with` block. The lock ends with the process, even if it is killed.

    Yields True, or False if another process has the lock or has removed the folder. Yields None on a file system
    without locks: callers then go on without one.
    """
    windows = sys.platform == "win32"  # Windows can lock files only
    try:
        descriptor = os.open(folder / LOCK, os.O_RDWR | os.O_CREAT) if windows else os.open(folder, os.O_RDONLY)
    except FileNotFoundError:
        yield False
        return
    try:
        locked = lock(descriptor)
        yield locked if folder.exists() else False
    finally:
        os.close(descriptor)


def lock(descriptor: int) -> bool | None:
    """Take a lock without waiting. Returns False if another process has it, and None if there are no locks."""
    try:
        if sys.platform == "win32":
            import msvcrt

            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)
        else:
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):  # PermissionError: on Windows
        return False
    except OSError:
        return None
    return True


def read_utf8(path: str | Path) -> str:
    """The text of a file, or of standard input if `path` is "-". Raises OSError, or ValueError if it is not UTF-8."""
    if str(path) != "-":
        data = Path(path).read_bytes()
    elif sys.stdin is None:
        raise ValueError("standard input is closed; give the name of a file instead of -")
    else:
        path, data = "standard input", sys.stdin.buffer.read()
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(f"{path} is not UTF-8 (line {line}: {error}); convert it first") from None


def replace_surrogates(text: str) -> str:
    """The text with U+FFFD for each half of a surrogate pair. Such a half cannot be written as UTF-8.

    >>> replace_surrogates("a\\ud800b")
    'a\ufffdb'
    """
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def read_json(path: str | Path) -> Any:
    """Read a JSON file. Raises FileNotFoundError for a missing file, and ValueError if it is not JSON."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON ({error}); download it again") from None
