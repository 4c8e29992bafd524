"""The files that a model consists of, and which of them are missing."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from enum import Flag, auto
from pathlib import Path

from .files import files_of
from .tokenizer import TOKENIZER_JSON, VOCAB_AND_MERGES
from .weights import FILE, PICKLED_FILE, weight_names

GENERATION_CONFIG = "generation_config.json"
MODEL_FILES = ("config.json", *VOCAB_AND_MERGES)  # of a model folder, beside the weights


class Parts(Flag):
    """The parts of a model that a command needs."""

    CONFIG = auto()
    TOKENIZER = auto()
    WEIGHTS = auto()
    ALL = CONFIG | TOKENIZER | WEIGHTS


def missing_files(files: Mapping[str, Path], parts: Parts = Parts.ALL) -> list[str]:
    """The files that a model needs besides these. The same names as in `load_tokenizer` and `load_weights` count.

    Raises ValueError for a shard index that is damaged.
    """
    needed = ["config.json"] if Parts.CONFIG in parts else []
    if Parts.TOKENIZER in parts and TOKENIZER_JSON not in files:
        needed += VOCAB_AND_MERGES
    if Parts.WEIGHTS in parts:
        needed += weight_names(files) or [FILE]
    return [name for name in needed if name not in files]


def is_complete(folder: Path, parts: Parts = Parts.ALL) -> bool:
    """Whether a folder holds all files of a model. An unfinished download has another name, so it does not count."""
    return not missing_files(files_of(folder), parts)


def in_words(missing: Collection[str]) -> str:
    """A list of missing files in words. Where other files would do, they follow in parentheses.

    >>> in_words(["config.json", "vocab.json", "merges.txt", "model.safetensors"])
    'config.json, vocab.json and merges.txt (or tokenizer.json), model.safetensors (or pytorch_model.bin)'
    """
    words = [name for name in missing if name not in (*VOCAB_AND_MERGES, FILE)]
    if tokenizer := [name for name in VOCAB_AND_MERGES if name in missing]:
        words.append(f"{' and '.join(tokenizer)} (or {TOKENIZER_JSON})")
    if FILE in missing:
        words.append(f"{FILE} (or {PICKLED_FILE})")
    return ", ".join(words)
