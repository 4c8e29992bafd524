"""Complete the folder of a model: link files of the Hugging Face cache, download the others from the hub."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from . import hf_cache
from .config import GPT2Config
from .credentials import endpoint, file_url, page
from .download import LIMIT, download_file, file_names, probe
from .files import files_of, link_or_copy, read_json
from .model_files import GENERATION_CONFIG, Parts, missing_files
from .tokenizer import (
    ADDED_TOKENS,
    TOKENIZER_CONFIG,
    TOKENIZER_JSON,
    VOCAB_AND_MERGES,
    has_tokenizer,
    load_tokenizer,
)
from .unsupported import OTHER_TOKENIZERS, OTHER_WEIGHTS, check_tokenizer_config, found_instead, no_tokenizer
from .weights import WEIGHT_FILES, check_start, no_weights, shard_names, weight_files, weight_names

TOKENIZER_FILES = (*VOCAB_AND_MERGES, ADDED_TOKENS, TOKENIZER_JSON, TOKENIZER_CONFIG)


class Target(NamedTuple):
    """A model on the hub, the folder for its files, and the revision that they come from: a commit, or main."""

    repository: str
    folder: Path
    revision: str


def link_files(snapshot: Path, folder: Path, parts: Parts) -> None:
    """Link files of a snapshot in the cache that a folder does not have. Damaged files are left out."""
    cached, own = files_of(snapshot), files_of(folder)
    names = ["config.json"]
    if Parts.TOKENIZER in parts and missing_files(own, Parts.TOKENIZER):
        names += TOKENIZER_FILES
    if Parts.WEIGHTS in parts and missing_files(own, Parts.WEIGHTS):
        names += [GENERATION_CONFIG, *weight_names(cached | own)]
    for name in names:
        if name in cached and name not in own and hf_cache.is_intact(cached[name]):
            link_or_copy(cached[name], folder / name)


def linked_files(snapshot: Path, folder: Path) -> list[Path]:
    """The files of a folder that `link_files` has linked or copied from a snapshot: size and time are the same."""
    cached, own = files_of(snapshot), files_of(folder)

    def key(path: Path) -> tuple[int, int]:
        return path.stat().st_size, path.stat().st_mtime_ns

    return [path for name, path in own.items() if name in cached and key(path) == key(cached[name])]


def revision_to_use(repository: str, folder: Path, snapshot: Path | None) -> str:
    """Where to download the other files of a folder: at the commit that linked files come from, or on main.

    Files of two commits are never mixed: if the hub no longer has the commit, the links are removed. A mirror may not
    have commits at all.
    """
    if not snapshot or not (linked := linked_files(snapshot, folder)):
        return "main"
    status, code = 0, ""
    with suppress(OSError):  # the next request says what is wrong
        status, code = probe(file_url(repository, "config.json", snapshot.name))
    if code == "RevisionNotFound":
        for path in linked:
            path.unlink()
    return "main" if status == 404 else snapshot.name


def fetch_model(repository: str, folder: Path, snapshot: Path | None, parts: Parts) -> None:
    """Download the missing files of a model. Small files that can show that it cannot be read come first."""
    target = Target(repository, folder, revision_to_use(repository, folder, snapshot))
    try:
        fetch(target, "config.json", GPT2Config.from_json)
    except FileNotFoundError as error:
        other = found_instead(names_on_hub(repository, OTHER_WEIGHTS), OTHER_WEIGHTS)
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
        return [name for name in kinds if not name.startswith(".") and probe(file_url(repository, name))[0] == 200]
    return []


def fetch(
    target: Target,
    file: str,
    check: Callable[[Path], object] | None = None,
    check_start: Callable[[Path], bool] | None = None,
    limit: int = LIMIT,
) -> None:
    """Download one file of a model, unless it is there. Raises what `download_file` raises."""
    url = file_url(target.repository, file, target.revision)
    download_file(url, target.folder / file, check, check_start, limit=limit)


def fetch_tokenizer(target: Target) -> None:
    """Download the tokenizer: vocab.json and merges.txt, tokenizer.json, added_tokens.json, tokenizer_config.json.

    If it is damaged or of another kind than GPT-2's, the files that came from the hub or the cache are deleted. Files
    that the user has put there stay, and the error names the folder.
    """
    folder = target.folder
    own = {name for name, path in files_of(folder).items() if name in TOKENIZER_FILES and not path.is_symlink()}
    try:
        if not has_tokenizer(folder):
            with suppress(FileNotFoundError):  # not every repository has one
                fetch(target, TOKENIZER_CONFIG, read_json)
            check_tokenizer_config(folder)
            fetch_tokenizer_files(target)
        load_tokenizer(folder)
    except ValueError as error:
        for file in {*TOKENIZER_FILES} - own:
            (folder / file).unlink(missing_ok=True)
        raise ValueError(str(error) if own else str(error).replace(str(folder), page(target.repository))) from None


def fetch_tokenizer_files(target: Target) -> None:
    """Download the files that `load_tokenizer` reads. Which of them a repository has depends on who saved it.

    vocab.json and merges.txt come last: with them, the tokenizer is complete, and a later call fetches nothing.
    """
    for file in (ADDED_TOKENS, TOKENIZER_JSON):
        with suppress(FileNotFoundError):
            fetch(target, file)
    try:
        for file in VOCAB_AND_MERGES:
            fetch(target, file)
    except FileNotFoundError:
        if not has_tokenizer(target.folder):
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
