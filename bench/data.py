"""Input files of the measurements: a checkpoint, a tokenizer and a text.

The repository does not contain GPT-2's tokenizer and tinyshakespeare. The environment variable NUMPY_GPT2_DATA names a
folder with `gpt2-tokenizer/` and `data/tinyshakespeare.txt`. A note says what is missing.
"""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

import numpy_gpt2 as gpt2
from numpy_gpt2 import hub


def data_path(name: str) -> Path | None:
    """A file or folder in the folder that NUMPY_GPT2_DATA names, or None."""
    folder = os.environ.get("NUMPY_GPT2_DATA")
    path = Path(folder or "", name)
    return path if folder and path.exists() else None


def make_checkpoint(folder: Path, notes: list[str]) -> None:
    """Save a model of gpt2's size with random weights, and GPT-2's tokenizer if there is one."""
    notes.append("The checkpoint has gpt2's size and random weights.")
    downloaded = hub.weights_folder() / "gpt2"
    tokenizer = downloaded if (downloaded / "merges.txt").exists() else data_path("gpt2-tokenizer")
    if tokenizer is None:
        notes.append(
            "GPT-2's tokenizer was not found, so the bundled model's is used. Put GPT-2's into weights/gpt2, or into"
            " gpt2-tokenizer in the folder that NUMPY_GPT2_DATA names."
        )
    config = gpt2.GPT2Config.preset("gpt2")
    weights = gpt2.init_weights(config, np.random.default_rng(0))
    gpt2.save_model(folder, weights, config, gpt2.load_tokenizer(tokenizer or hub.bundled_folder()))
