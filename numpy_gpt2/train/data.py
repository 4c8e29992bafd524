"""The texts of a run: files and folders -> documents -> tokens, and the file that keeps the tokens beside the run."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tiktoken
from safetensors import SafetensorError, safe_open

from ..files import read_utf8, replace_surrogates
from ..tokenizer import ENDOFTEXT
from ..weights import save_tensors
from ..windows import encode, read_text
from .config import TrainConfig

TOKENS = "tokens.safetensors"
SUFFIXES = (".md", ".txt")  # of the files that are read from a folder
LARGE = 1 << 22  # characters; encoding them takes about two seconds


class Texts(NamedTuple):
    """The texts of a run, and the SHA-256 of both: a resumed run needs the same texts."""

    training: str
    held_out: str
    sha256: str


class Tokens(NamedTuple):
    """The token ids of both texts, (n,) int64."""

    training: np.ndarray
    held_out: np.ndarray


def read_texts(paths: Iterable[str], options: TrainConfig) -> Texts:
    """Read all documents. The held-out text is `val_file`, or the end of the documents.

    Raises OSError, or ValueError for a text that cannot be used.
    """
    text = joined(paths)
    if options.val_file is None:
        sha256 = hashlib.sha256(text.encode()).hexdigest()
        return Texts(*split(text, options.val_fraction), sha256)
    held_out = joined([options.val_file])
    return Texts(text, held_out, hashlib.sha256(f"{text}\0{held_out}".encode()).hexdigest())


def joined(paths: Iterable[str]) -> str:
    """All documents of these files and folders, with `<|endoftext|>` between them."""
    return ENDOFTEXT.join(document for path in paths for document in documents(path))


def documents(path: str) -> list[str]:
    """The documents in a file or a folder. A JSON-lines file has one in each line; any other file is one document.

    In a folder, these are its files *.txt and *.md, also in its subfolders, in the order of their names. Raises
    OSError, or ValueError with the line for a file that is not UTF-8 or not JSON.
    """
    if path != "-" and Path(path).is_dir():
        files = sorted(file for file in Path(path).rglob("*") if is_text(file.relative_to(path)) and file.is_file())
        if found := [text for text in map(read_utf8, files) if text]:
            return found
        raise ValueError(f"{path} has no text in files *.txt or *.md; it must have at least one")
    return json_lines(path) if path.lower().endswith(".jsonl") else [read_text(path)]


def is_text(file: Path) -> bool:
    """Whether a file of a folder is read. Hidden files and folders are not, and neither is the file of a tokenizer.

    >>> [is_text(Path(name)) for name in ("a/b.md", "c.TXT", "d.py", ".git/e.txt", "model/merges.txt")]
    [True, True, False, False, False]
    """
    is_hidden = any(part.startswith(".") for part in file.parts)
    return file.suffix.lower() in SUFFIXES and not is_hidden and file.name != "merges.txt"


def json_lines(path: str) -> list[str]:
    """The field `text` of each line of a JSON-lines file. Empty lines and empty texts are left out."""
    texts = []
    lines = read_text(path).removeprefix("\ufeff").split("\n")  # some programs begin a UTF-8 file with this mark
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise ValueError(f"{path}, line {number} is not JSON ({error})") from None
        if not isinstance(record, dict) or not isinstance(record.get("text"), str):
            raise ValueError(f'{path}, line {number} has no text; it must be an object such as {{"text": "Once upon"}}')
        texts.append(replace_surrogates(record["text"]))
    if found := [text for text in texts if text]:
        return found
    raise ValueError(f"{path} has no text in any line; it must have at least one")


def split(text: str, val_fraction: float) -> tuple[str, str]:
    """Return the training part of a text, and its end, which is held out. A separator of documents stays whole.

    >>> split("abcdefghij", val_fraction=0.2)
    ('abcdefgh', 'ij')
    >>> split("abcdefgh<|endoftext|>ijk", val_fraction=0.2)
    ('abcdefgh', '<|endoftext|>ijk')
    """
    end = int(len(text) * (1 - val_fraction))
    n = len(ENDOFTEXT) - 1
    separator = text.find(ENDOFTEXT, max(0, end - n), end + n)  # one that begins before `end` and ends after it
    if separator >= 0:
        end = separator
    return text[:end], text[end:]


def encode_documents(text: str, tokenizer: tiktoken.Encoding) -> np.ndarray:
    """Return the token ids, (n,). A tokenizer without `<|endoftext|>` has a line end between documents instead."""
    if ENDOFTEXT not in tokenizer.special_tokens_set:
        text = text.replace(ENDOFTEXT, "\n")
    return encode(text, tokenizer)


def save_tokens(path: Path, tokens: Tokens, sha256: str) -> None:
    """Write the tokens to one file, in two bytes each if the ids allow it. `sha256` is that of the texts."""
    largest = max(int(array.max(initial=0)) for array in tokens)
    dtype = np.uint16 if largest < 1 << 16 else np.uint32
    save_tensors(path, {name: array.astype(dtype) for name, array in tokens._asdict().items()}, {"sha256": sha256})


def load_tokens(folder: Path, sha256: str) -> Tokens | None:
    """The tokens that a run in this folder has saved, or None if there are none of these texts."""
    try:
        with safe_open(folder / TOKENS, framework="np") as file:
            if (file.metadata() or {}).get("sha256") == sha256:
                return Tokens(*(file.get_tensor(name).astype(np.int64) for name in Tokens._fields))
    except (OSError, SafetensorError):
        pass
    return None
