"""Complete the folder of a model: link files of the Hugging Face cache, download the others from the hub."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from . import hf_cache
from .config import GPT2Config
from .credentials import endpoint, redact
from .download import LIMIT, download_file, exists, file_names
from .files import link_or_copy, read_json
from .model_files import GENERATION_CONFIG, Parts, files_of, missing_files, weight_names
from .tokenizer import (
    ADDED_TOKENS,
    TOKENIZER_CONFIG,
    TOKENIZER_JSON,
    VOCAB_AND_MERGES,
    has_tokenizer,
    load_tokenizer,
)
from .unsupported import OTHER_TOKENIZERS, OTHER_WEIGHTS, check_tokenizer_class, found_instead, no_tokenizer
from .weights import WEIGHT_FILES, check_start, no_weights, shard_names, weight_files

TOKENIZER_FILES = (*VOCAB_AND_MERGES, ADDED_TOKENS, TOKENIZER_JSON, TOKENIZER_CONFIG)


class Target(NamedTuple):
    """A model on the hub, the folder for its files, and the revisions that are searched for them, in this order."""

    repository: str
    folder: Path
    revisions: tuple[str, ...]


def file_url(repository: str, file: str, revision: str = "main") -> str:
    """The address of a file on the hub."""
    return f"{endpoint()}/{repository}/resolve/{revision}/{file}"


def page(repository: str) -> str:
    """The address of a model on the hub, for messages."""
    return f"{redact(endpoint())}/{repository}"


def link_files(snapshot: Path, folder: Path, parts: Parts) -> bool:
    """Link files of a snapshot in the cache that a folder does not have. Damaged files are left out.

    Returns whether the folder has files of this snapshot now.
    """
    cached, own = files_of(snapshot), files_of(folder)
    names = ["config.json"]
    if Parts.TOKENIZER in parts and missing_files(own, Parts.TOKENIZER):
        names += TOKENIZER_FILES
    if Parts.WEIGHTS in parts and missing_files(own, Parts.WEIGHTS):
        names += [GENERATION_CONFIG, *weight_names(cached | own)]
    new = [name for name in names if name in cached and name not in own and hf_cache.is_intact(cached[name])]
    for name in new:
        link_or_copy(cached[name], folder / name)
    return bool(new) or any(name in cached and path.samefile(cached[name]) for name, path in own.items())


def fetch_model(target: Target, parts: Parts) -> None:
    """Download the missing files of a model. Small files that can show that it cannot be read come first."""
    try:
        fetch(target, "config.json", GPT2Config.from_json)
    except FileNotFoundError as error:
        other = found_instead(names_on_hub(target.repository, OTHER_WEIGHTS), OTHER_WEIGHTS)
        raise FileNotFoundError(f"{error}{other}; choose a model with config.json, a tokenizer and weights") from None
    if Parts.TOKENIZER in parts:
        fetch_tokenizer(target)
    if Parts.WEIGHTS in parts:
        with suppress(FileNotFoundError):  # not every repository has one
            fetch(target, GENERATION_CONFIG)
        fetch_weights(target)


def names_on_hub(repository: str, kinds: Iterable[str]) -> list[str]:
    """The names of a model's files. If the hub has no API, only those of `kinds`. Empty if the hub does not answer."""
    with suppress(OSError, ValueError, RecursionError):
        return file_names(f"{endpoint()}/api/models/{repository}")
    with suppress(OSError):
        return [name for name in kinds if not name.startswith(".") and exists(file_url(repository, name))]
    return []


def fetch(
    target: Target,
    file: str,
    check: Callable[[Path], object] | None = None,
    check_start: Callable[[Path], bool] | None = None,
    limit: int = LIMIT,
) -> None:
    """Download one file of a model, unless it is there. Raises what `download_file` raises."""
    repository, folder, (*others, last) = target
    for revision in others:
        with suppress(FileNotFoundError):
            return download_file(file_url(repository, file, revision), folder / file, check, check_start, limit=limit)
    download_file(file_url(repository, file, last), folder / file, check, check_start, limit=limit)


def fetch_tokenizer(target: Target) -> None:
    """Download the tokenizer: vocab.json, merges.txt and added_tokens.json, or else tokenizer.json.

    It is deleted if it is damaged or of another kind than GPT-2's.
    """
    folder = target.folder
    try:
        if not has_tokenizer(folder):
            with suppress(FileNotFoundError):  # not every repository has one
                fetch(target, TOKENIZER_CONFIG, read_json)
            check_tokenizer_class(folder)
            fetch_tokenizer_files(target)
        load_tokenizer(folder)
    except ValueError as error:
        for file in TOKENIZER_FILES:
            (folder / file).unlink(missing_ok=True)
        raise ValueError(str(error).replace(str(folder), page(target.repository))) from None


def fetch_tokenizer_files(target: Target) -> None:
    """Download the files that `load_tokenizer` reads."""
    try:
        for file in VOCAB_AND_MERGES:
            fetch(target, file)
        with suppress(FileNotFoundError):  # only a model that was fine-tuned with more tokens has it
            fetch(target, ADDED_TOKENS)
    except FileNotFoundError:
        try:
            fetch(target, TOKENIZER_JSON)
        except FileNotFoundError:
            names = names_on_hub(target.repository, OTHER_TOKENIZERS)
            raise FileNotFoundError(no_tokenizer(page(target.repository), names, target.folder)) from None


def fetch_weights(target: Target) -> None:
    """Download the first of `WEIGHT_FILES` that the repository has. If it is an index, download the shards, too."""
    limit = largest_weights(GPT2Config.from_json(target.folder / "config.json"))

    def fetch_tensors(file: str) -> None:
        fetch(target, file, check_start=check_start if file.endswith(".safetensors") else None, limit=limit)

    for file in WEIGHT_FILES:
        if not files_of(target.folder).keys() & WEIGHT_FILES:
            with suppress(FileNotFoundError):
                fetch(target, file, shard_names) if file.endswith(".json") else fetch_tensors(file)
    if not files_of(target.folder).keys() & WEIGHT_FILES:
        raise FileNotFoundError(no_weights(page(target.repository), names_on_hub(target.repository, OTHER_WEIGHTS)))
    for path in weight_files(target.folder):
        fetch_tensors(path.name)


def largest_weights(config: GPT2Config) -> int:
    """The most bytes that a file of weights may have: 8 for each number, with a head and a mask for each layer.

    1 MB is for the header. The file has the size that the hub announces, but not every hub announces one.
    """
    n_head, n_masks = config.vocab_size * config.n_embd, config.n_layer * config.n_positions**2
    return 8 * (config.num_parameters() + n_head + n_masks) + 1_000_000
