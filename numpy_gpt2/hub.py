"""A model's name -> a local folder. A model that is not there yet is downloaded from the Hugging Face hub."""

from __future__ import annotations

import os
import re
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

from .config import RELEASED_SIZES, GPT2Config
from .console import print_stderr
from .credentials import endpoint, redact
from .tokenizer import ADDED_TOKENS, TOKENIZER_JSON, VOCAB_AND_MERGES, has_tokenizer, load_tokenizer
from .weights import FILE, WEIGHT_FILES, shard_names, weight_files

NAMES = (*RELEASED_SIZES, "distilgpt2")
REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
DEFAULT_MODEL = "gpt2"
BUNDLED = "shakespeare"
GENERATION_CONFIG = "generation_config.json"
MODEL_FILES = ("config.json", *VOCAB_AND_MERGES)  # of a model folder, beside the weights


def weights_folder() -> Path:
    """Where models are kept: `NUMPY_GPT2_WEIGHTS`, else `weights/` of the checkout, else the user's cache folder.

    Raises OSError if the user has no home folder.
    """
    if folder := os.environ.get("NUMPY_GPT2_WEIGHTS"):
        return Path(folder)
    checkout = Path(__file__).parent.parent
    if (checkout / "pyproject.toml").exists() and (checkout / "weights").is_dir():
        return checkout / "weights"
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "numpy_gpt2"
    except RuntimeError:  # HOME is not set, and the system does not know the user
        raise OSError("there is no home folder to keep models in; set NUMPY_GPT2_WEIGHTS to a folder") from None


def bundled_folder() -> Path:
    """The folder of the bundled model: in the installed package, or in `weights/` of a checkout."""
    package = Path(__file__).parent
    inside = package / "bundled" / BUNDLED
    return inside if inside.is_dir() else package.parent / "weights" / BUNDLED


def model_folder(name: str | Path) -> Path:
    """The folder of a model: any folder, a folder under `weights/`, one of `NAMES`, or `owner/name` on the hub.

    They are tried in this order. `shakespeare`, the bundled model, comes last. Files that are only on the hub are
    downloaded.

    Raises OSError if the download fails or no model has this name. Raises ValueError if a downloaded config, tokenizer
    or shard index is not valid.
    """
    name = os.fspath(name)
    if local := local_folder(name):
        return local
    folder = weights_folder() / name
    if is_on_hub(name):
        return download_model(name, folder)
    if folder.is_dir():
        return folder
    if name == BUNDLED:
        return bundled_folder()
    raise FileNotFoundError(
        f"there is no model {redact(name)!r}; it must be a folder, a folder in {weights_folder()}, one of"
        f" {', '.join(NAMES)}, or owner/name on the hub"
    )


def local_folder(name: str) -> Path | None:
    """The folder of a model that needs no download: any folder, or a complete one under `weights/`. None otherwise."""
    if Path(name).is_dir():
        return Path(name)
    folder = weights_folder() / name
    return folder if is_complete(folder) else None


def choose_model(name: str | None) -> str:
    """The model to run: `name`, or GPT-2 if there is no name.

    If GPT-2 cannot be downloaded, this is the bundled model, and a note on stderr says so.
    """
    if name is not None:
        return name
    folder = weights_folder() / DEFAULT_MODEL
    for present in (Path(DEFAULT_MODEL), folder):
        if is_complete(present):
            return str(present)
    problem = why_unreachable(DEFAULT_MODEL)
    if problem is None:
        return str(download_model(DEFAULT_MODEL, folder))
    print_stderr(
        f"note: using the bundled model {BUNDLED}: {DEFAULT_MODEL} is not in {folder}, and the hub cannot be reached"
        f" ({problem})"
    )
    print_stderr(f"note: {DEFAULT_MODEL} is downloaded when the hub can be reached; {by_hand(DEFAULT_MODEL, folder)}")
    return str(bundled_folder())


def tokenizer_folder(name: str | Path) -> Path:
    """The folder of a model's tokenizer. Like `model_folder`, but the weights are not downloaded."""
    name = os.fspath(name)
    if Path(name).is_dir() or not is_on_hub(name):
        return model_folder(name)
    folder = weights_folder() / name
    if not has_tokenizer(folder):
        download_model(name, folder, with_weights=False)
    return folder


def is_on_hub(name: str) -> bool:
    """Whether a name has the form of a model on the hub."""
    return name in NAMES or REPOSITORY.fullmatch(name) is not None


def is_complete(folder: Path) -> bool:
    """Whether a folder holds all files of a model. An unfinished download has another name, so it does not count."""
    try:
        paths = [folder / "config.json", *weight_files(folder)]
    except FileNotFoundError:
        return False
    return has_tokenizer(folder) and all(path.exists() for path in paths)


def file_url(repository: str, file: str) -> str:
    """The address of a file on the hub."""
    return f"{endpoint()}/{repository}/resolve/main/{file}"


def is_offline() -> bool:
    """Whether `HF_HUB_OFFLINE` forbids downloads."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}


def why_unreachable(repository: str, seconds: float = 1.5) -> str | None:
    """Why a model cannot be downloaded from the hub now, or None if it can. Takes at most `seconds`."""
    if is_offline():
        return "HF_HUB_OFFLINE is set"
    from . import download

    return download.why_unreachable(file_url(repository, "config.json"), seconds)


def by_hand(repository: str, folder: Path, with_weights: bool = True) -> str:
    """What the user can do if the download of a model, or of its tokenizer only, fails."""
    *files, last = (*MODEL_FILES, FILE) if with_weights else VOCAB_AND_MERGES
    page = f"{redact(endpoint())}/{repository}/tree/main"
    return f"to download it by hand, put {', '.join(files)} and {last} from {page} into {folder}"


def download_model(repository: str, folder: Path, with_weights: bool = True) -> Path:
    """Download the missing files of a model. If several processes do so at once, one downloads and the others wait."""
    try:
        if is_offline():
            raise ConnectionError("HF_HUB_OFFLINE is set")
        from .download import locked

        with locked(weights_folder()):
            fetch(repository, "config.json", folder, GPT2Config.from_json)  # first: it shows whether this is a GPT-2
            with suppress(FileNotFoundError):  # not every repository has one
                fetch(repository, GENERATION_CONFIG, folder)
            fetch_tokenizer(repository, folder)
            if with_weights:
                fetch_weights(repository, folder)
    except OSError as error:
        raise OSError(f"cannot download {repository}: {error}; {by_hand(repository, folder, with_weights)}") from None
    return folder


def fetch(
    repository: str,
    file: str,
    folder: Path,
    check: Callable[[Path], object] | None = None,
    limit: int | None = None,
) -> None:
    """Download one file of a model, unless it is there. Raises what `download_file` raises."""
    from .download import LIMIT, download_file

    download_file(file_url(repository, file), folder / file, check, limit=limit or LIMIT)


def fetch_tokenizer(repository: str, folder: Path) -> None:
    """Download vocab.json, merges.txt and added_tokens.json, or else tokenizer.json. A damaged tokenizer is deleted."""
    if not has_tokenizer(folder):
        try:
            for file in VOCAB_AND_MERGES:
                fetch(repository, file, folder)
            with suppress(FileNotFoundError):  # only a model that was fine-tuned with more tokens has it
                fetch(repository, ADDED_TOKENS, folder)
        except FileNotFoundError as missing:
            try:
                fetch(repository, TOKENIZER_JSON, folder)
            except FileNotFoundError:
                raise missing from None
    try:
        load_tokenizer(folder)
    except ValueError:
        for file in (*VOCAB_AND_MERGES, ADDED_TOKENS, TOKENIZER_JSON):
            (folder / file).unlink(missing_ok=True)
        raise


def fetch_weights(repository: str, folder: Path) -> None:
    """Download the first of `WEIGHT_FILES` that the repository has. If it is an index, download the shards, too."""
    limit = largest_weights(GPT2Config.from_json(folder / "config.json"))
    missing: list[FileNotFoundError] = []
    for file in WEIGHT_FILES:
        if any((folder / name).exists() for name in WEIGHT_FILES):
            break
        try:
            if file.endswith(".json"):
                fetch(repository, file, folder, shard_names)
            else:
                fetch(repository, file, folder, limit=limit)
        except FileNotFoundError as error:
            missing.append(error)
    if len(missing) == len(WEIGHT_FILES):
        raise missing[0]
    for path in weight_files(folder):
        fetch(repository, path.name, folder, limit=limit)


def largest_weights(config: GPT2Config) -> int:
    """The most bytes that a file of weights may have: 8 for each number, with a head and a mask for each layer.

    1 MB is for the header. The file has the size that the hub announces, but not every hub announces one.
    """
    n_head, n_masks = config.vocab_size * config.n_embd, config.n_layer * config.n_positions**2
    return 8 * (config.num_parameters() + n_head + n_masks) + 1_000_000
