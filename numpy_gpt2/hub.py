"""A model's name -> a local folder. The files are under `weights/`, in the Hugging Face cache, or on the hub."""

from __future__ import annotations

import os
import re
from pathlib import Path

from . import hf_cache
from .config import RELEASED_SIZES
from .console import print_stderr
from .credentials import file_url, page, redact
from .files import files_of
from .model_files import Parts, in_words, is_complete, missing_files
from .unsupported import check_tokenizer_config

NAMES = (*RELEASED_SIZES, "distilgpt2")
REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
DEFAULT_MODEL = "gpt2"
BUNDLED = "shakespeare"


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


def model_folder(name: str | Path, parts: Parts = Parts.ALL) -> Path:
    """The folder of a model: any folder, a folder under `weights/`, one of `NAMES`, or `owner/name` on the hub.

    They are tried in this order. `shakespeare`, the bundled model, comes last. A model on the hub is used from the
    Hugging Face cache. If it is not there, the `parts` that the caller needs are downloaded.

    Raises OSError if the download fails or no model has this name. Raises ValueError if a downloaded config, tokenizer
    or shard index is not valid, or belongs to a model that cannot be read.
    """
    name = os.fspath(name)
    if Path(name).is_dir():
        return Path(name)
    if local := local_folder(name, parts):
        return local
    if is_on_hub(name):
        return download_model(name, parts)
    if (folder := weights_folder() / name).is_dir():
        return folder
    if name == BUNDLED:
        return bundled_folder()
    raise FileNotFoundError(
        f"there is no model {redact(name)!r}; it must be a folder, a folder in {weights_folder()}, one of"
        f" {', '.join(NAMES)}, or owner/name on the hub"
    )


def local_models() -> dict[str, Path]:
    """The models under `weights/` that are complete, and the bundled one: name -> folder."""
    top = weights_folder()
    folders = sorted(path for pattern in ("*", "*/*") for path in top.glob(pattern) if path.is_dir())
    found = {folder.relative_to(top).as_posix(): folder for folder in folders if is_complete(folder)}
    return {BUNDLED: bundled_folder(), **found}


def tokenizer_folder(name: str | Path) -> Path:
    """The folder of a model's tokenizer. Like `model_folder`, but the weights are not downloaded."""
    return model_folder(name, Parts.TOKENIZER)


def config_file(name: str | Path) -> Path:
    """The config.json of a model. Like `model_folder`, but no other file is downloaded."""
    return model_folder(name, Parts.CONFIG) / "config.json"


def local_folder(name: str, parts: Parts = Parts.ALL) -> Path | None:
    """The first folder that has all of these parts: `name`, `weights/name`, or a snapshot in the Hugging Face cache."""
    own = (folder for folder in (Path(name), weights_folder() / name) if is_complete(folder, parts))
    return next(own, None) or next((folder for folder in snapshots(name) if is_complete(folder, parts)), None)


def snapshots(name: str) -> list[Path]:
    """The snapshots of a model in the Hugging Face cache. `gpt2` may be there as `openai-community/gpt2`."""
    owner = "distilbert" if name == "distilgpt2" else "openai-community"
    repositories = [name, f"{owner}/{name}"] if name in NAMES else [name] if is_on_hub(name) else []
    return [folder for folder in map(hf_cache.snapshot, repositories) if folder]


def nearest_snapshot(name: str) -> Path | None:
    """The snapshot of a model that lacks the fewest files, or None."""
    return min(snapshots(name), key=lambda folder: len(missing_files(files_of(folder))), default=None)


def own_folder(folder: Path) -> Path:
    """Where files made from a model are written: its folder, or one under `weights/` for a model in the cache."""
    repository = hf_cache.repository_of(folder)
    return weights_folder() / repository if repository else folder


def choose_model(name: str | None) -> str:
    """The model to run: `name`, or GPT-2 if there is no name.

    If GPT-2 cannot be downloaded, this is the bundled model, and a note on stderr says so.
    """
    if name is not None:
        return name
    if local := local_folder(DEFAULT_MODEL):
        return str(local)
    problem = why_unreachable(DEFAULT_MODEL) if missing_here(DEFAULT_MODEL) else None
    if problem is None:
        return str(download_model(DEFAULT_MODEL))
    print_stderr(
        f"note: using the bundled model {BUNDLED}: {DEFAULT_MODEL} is not complete in {places(DEFAULT_MODEL)}, and the"
        f" hub cannot be reached ({problem})"
    )
    print_stderr(f"note: {DEFAULT_MODEL} is downloaded when the hub can be reached; {by_hand(DEFAULT_MODEL)}")
    return str(bundled_folder())


def is_on_hub(name: str) -> bool:
    """Whether a name has the form of a model on the hub."""
    return name in NAMES or REPOSITORY.fullmatch(name) is not None


def missing_here(name: str, parts: Parts = Parts.ALL) -> list[str]:
    """The files of a model that are neither under `weights/` nor in the Hugging Face cache."""
    snapshot = nearest_snapshot(name)
    cached = files_of(snapshot) if snapshot else {}
    return missing_files(cached | files_of(weights_folder() / name), parts)


def places(name: str) -> str:
    """Where a model was looked for, in words."""
    return f"{weights_folder() / name} or the Hugging Face cache ({nearest_snapshot(name) or hf_cache.cache_folder()})"


def is_offline() -> bool:
    """Whether `HF_HUB_OFFLINE` forbids downloads."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in {"1", "ON", "YES", "TRUE"}


def why_unreachable(repository: str, seconds: float = 1.5) -> str | None:
    """Why a model cannot be downloaded from the hub now, or None if it can. Takes at most `seconds`."""
    if is_offline():
        return "HF_HUB_OFFLINE is set"
    from . import download

    return download.why_unreachable(file_url(repository, "config.json"), seconds)


def by_hand(name: str, parts: Parts = Parts.ALL) -> str:
    """What the user can do if the files of a model cannot be downloaded."""
    folder = weights_folder() / name
    missing = missing_here(name, parts) or missing_files(files_of(folder), parts)  # or: the cache has damaged files
    return f"to download what is missing by hand, put {in_words(missing)} from {page(name)}/tree/main into {folder}"


def download_model(name: str, parts: Parts = Parts.ALL) -> Path:
    """Complete a model under `weights/`: link what is in the Hugging Face cache, and download the rest.

    If several processes do so at once, one downloads and the others wait.
    """
    folder, snapshot = weights_folder() / name, nearest_snapshot(name)
    try:
        if is_offline() and missing_here(name, parts):
            for present in filter(None, (folder, snapshot)):
                check_tokenizer_config(present)
            raise ConnectionError(f"HF_HUB_OFFLINE is set, and {name} is not complete in {places(name)}")
        from .download import locked
        from .fetch import fetch_model, link_files

        with locked(weights_folder()):
            if snapshot:
                link_files(snapshot, folder, parts)
            if not is_complete(folder, parts):
                if is_offline():
                    raise ConnectionError(f"HF_HUB_OFFLINE is set, and files are damaged in {snapshot}")
                fetch_model(name, folder, snapshot, parts)
    except FileNotFoundError as error:
        raise FileNotFoundError(f"cannot download {name}: {error}") from None
    except OSError as error:
        raise OSError(f"cannot download {name}: {error}; {by_hand(name, parts)}") from None
    return folder
