"""Input files of the measurements: a checkpoint, a tokenizer and a text.

The repository does not contain GPT-2's tokenizer and tinyshakespeare. The environment variable NUMPY_GPT2_DATA names a
folder with `gpt2-tokenizer/` and `data/tinyshakespeare.txt`. A note says what is missing.
"""

from __future__ import annotations

import os
from itertools import product
from pathlib import Path

import numpy as np
import tiktoken

import numpy_gpt2 as gpt2
from numpy_gpt2 import hub
from numpy_gpt2.tokenizer import ENDOFTEXT, PIECE_PATTERN, token_ranks


def data_path(name: str) -> Path | None:
    """A file or folder in the folder that NUMPY_GPT2_DATA names, or None."""
    folder = os.environ.get("NUMPY_GPT2_DATA")
    path = Path(folder or "", name)
    return path if folder and path.exists() else None


def make_checkpoint(folder: Path, notes: list[str], name: str = "gpt2") -> None:
    """Save a model of this size with random weights, and GPT-2's tokenizer if there is one."""
    notes.append(f"The checkpoint has {name}'s size and random weights.")
    downloaded = hub.weights_folder() / "gpt2"
    tokenizer = downloaded if (downloaded / "merges.txt").exists() else data_path("gpt2-tokenizer")
    if tokenizer is None:
        notes.append(
            "GPT-2's tokenizer was not found. The bundled model's is used, with pairs of bytes as further tokens. Put"
            " GPT-2's into weights/gpt2, or into gpt2-tokenizer in the folder that NUMPY_GPT2_DATA names."
        )
    loaded = gpt2.load_tokenizer(tokenizer or hub.bundled_folder())
    config = gpt2.GPT2Config.preset(name)
    weights = gpt2.init_weights(config, np.random.default_rng(0))
    gpt2.save_model(folder, weights, config, loaded if tokenizer else padded(loaded, config.vocab_size))


def padded(tokenizer: tiktoken.Encoding, n_vocab: int) -> tiktoken.Encoding:
    """The tokenizer with pairs of bytes as further tokens: peers want a token for each row of the embedding."""
    ranks = token_ranks(tokenizer)
    pairs = [pair for pair in map(bytes, product(range(256), repeat=2)) if pair not in ranks]
    new = pairs[: n_vocab - 1 - len(ranks)]
    ranks |= {pair: rank for rank, pair in enumerate(new, len(ranks))}
    return tiktoken.Encoding(
        "padded", pat_str=PIECE_PATTERN, mergeable_ranks=ranks, special_tokens={ENDOFTEXT: n_vocab - 1}
    )
