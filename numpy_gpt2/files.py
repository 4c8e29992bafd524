"""All-or-nothing writes."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def staged_writes(folder: Path) -> Iterator[Path]:
    """A folder to write files into, which are moved into `folder` together when all are whole; or else, none is."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder) as aside:
            yield Path(aside)
            for path in Path(aside).iterdir():
                path.replace(folder / path.name)
    except OSError as error:
        problem = error.strerror or str(error)
        raise OSError(f"cannot write into {folder}: {problem}; what was there is as it was") from None
