"""The files that a model consists of, and which of them are missing."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from enum import Flag, auto
from pathlib import Path

from .tokenizer import TOKENIZER_JSON, VOCAB_AND_MERGES
from .weights import FILE, WEIGHT_FILES, shard_names

GENERATION_CONFIG = "generation_config.json"
MODEL_FILES = ("config.json", *VOCAB_AND_MERGES)  # of a model folder, beside the weights


class Parts(Flag):
    """The parts of a model that a command needs."""

    CONFIG = auto()
    TOKENIZER = auto()
    WEIGHTS = auto()
    ALL = CONFIG | TOKENIZER | WEIGHTS


def files_of(folder: Path) -> dict[str, Path]:
    """The files in a folder: name -> path. There are none if there is no folder. A broken link is not a file."""
    try:
        return {path.name: path for path in folder.iterdir() if path.is_file()}
    except OSError:
        return {}


def missing_files(files: Mapping[str, Path], parts: Parts = Parts.ALL) -> list[str]:
    """The files that a model needs besides these. The same names as in `load_tokenizer` and `load_weights` count.

    Raises ValueError for a shard index that is damaged.
    """
    needed = ["config.json"] if Parts.CONFIG in parts else []
    if Parts.TOKENIZER in parts and TOKENIZER_JSON not in files:
        needed += VOCAB_AND_MERGES
    if Parts.WEIGHTS in parts:
        needed += weight_names(files)
    return [name for name in needed if name not in files]


def weight_names(files: Mapping[str, Path]) -> list[str]:
    """The files with the weights of a model that has these files: the first of `WEIGHT_FILES`, and all its shards."""
    first = next((name for name in WEIGHT_FILES if name in files), FILE)
    return [first, *shard_names(files[first])] if first.endswith(".json") else [first]


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
        words.append(f"{FILE} (or {WEIGHT_FILES[2]})")
    return ", ".join(words)
