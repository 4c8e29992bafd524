"""Files: all-or-nothing writes, text in UTF-8, and JSON."""

from __future__ import annotations

import json
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


def from_utf8(data: bytes, source: object) -> str:
    """Decode UTF-8. Raises ValueError, which mentions `source`, for bytes in another encoding."""
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise ValueError(f"{source} is not UTF-8 ({error}); convert it first") from None


def read_json(path: str | Path) -> Any:
    """Read a JSON file. Raises FileNotFoundError for a missing file, and ValueError if it is not JSON."""
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not JSON ({error}); download it again") from None
