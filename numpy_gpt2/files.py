"""All-or-nothing writes: either all files of a folder change or none."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


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
