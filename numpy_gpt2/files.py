"""Files: all-or-nothing writes, text in UTF-8, and JSON."""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def staged_writes(folder: Path) -> Iterator[Path]:
    """A temporary folder to write files into. They are moved into `folder` at the end of the `with` block.

    If the block raises an exception, nothing in `folder` changes. Raises OSError if a file cannot be written or moved.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as staging:
            yield Path(staging)
            for path in Path(staging).iterdir():
                path.replace(folder / path.name)
    except OSError as error:
        problem = error.strerror or str(error)
        raise OSError(f"cannot write into {folder}: {problem}; the files in it are unchanged") from None


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
        raise ValueError(f"{path} is not UTF-8 ({error}); convert it first") from None


def read_json(path: str | Path) -> Any:
    """Read a JSON file. Raises FileNotFoundError for a missing file, and ValueError if it is not JSON."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON ({error}); download it again") from None
