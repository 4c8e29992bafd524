"""The Hugging Face cache: models that transformers and other programs have downloaded. It is read, never written.

    models--owner--name/refs/main             the commit of the branch main
    models--owner--name/snapshots/<commit>/   its files: links to blobs/<hash>, or real files on a system without links

Source: https://huggingface.co/docs/hub/local-cache
"""

from __future__ import annotations

import hashlib
import os
import re
from pathlib import Path


def cache_folder() -> Path:
    """The folder of the cache, from the same environment variables as in huggingface_hub."""
    home = os.environ.get("HF_HOME", os.path.join(os.environ.get("XDG_CACHE_HOME", "~/.cache"), "huggingface"))
    folder = os.environ.get("HUGGINGFACE_HUB_CACHE", os.path.join(expanded(home), "hub"))
    return Path(expanded(os.environ.get("HF_HUB_CACHE", folder)))


def expanded(path: str) -> str:
    """The path with the values of `~` and of variables such as `$HOME`."""
    return os.path.expandvars(os.path.expanduser(path))


def snapshot(repository: str) -> Path | None:
    """The folder with the files of a repository's branch main, or None. Some of its files may be missing."""
    folder = cache_folder() / f"models--{repository.replace('/', '--')}"
    try:
        commit = (folder / "refs" / "main").read_text(encoding="utf-8", errors="replace").strip()
        is_name = re.fullmatch(r"[\w-]{1,100}", commit)  # anything else could lead out of the folder
        return folder / "snapshots" / commit if is_name and (folder / "snapshots" / commit).is_dir() else None
    except OSError:
        return None


def repository_of(folder: Path) -> str | None:
    """The name of the model whose snapshot a folder is. None for a folder outside of any cache.

    >>> repository_of(Path("/home/me/.cache/huggingface/hub/models--openai-community--gpt2/snapshots/607a30d"))
    'openai-community/gpt2'
    """
    found = re.search(r"/models--(\w[^/]*?)(?:--(\w[^/]*))?/snapshots/", folder.resolve().as_posix() + "/")
    return "/".join(filter(None, found.groups())) if found else None


def is_intact(path: Path) -> bool:
    """Whether a file has the hash that is the name of its blob: SHA-256, or Git's SHA-1. True if it is not a blob.

    A blob can be a link itself, to a file that several models share. The name of that file is another kind of hash.
    """
    name = Path(os.readlink(path)).name if path.is_symlink() else path.name
    with open(path, "rb") as file:
        if re.fullmatch("[0-9a-f]{64}", name):
            return hashlib.file_digest(file, "sha256").hexdigest() == name
        if re.fullmatch("[0-9a-f]{40}", name):
            data = file.read()
            return hashlib.sha1(b"blob %d\0%b" % (len(data), data), usedforsecurity=False).hexdigest() == name
    return True
