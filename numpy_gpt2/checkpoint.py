"""Load a model by its name or folder, and save a model to a folder."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import numpy as np
import tiktoken
from numpy.typing import DTypeLike

from .config import GPT2Config
from .files import files_of, staged_writes
from .hub import model_folder
from .int8 import load_int8
from .model_files import GENERATION_CONFIG, Parts, missing_files
from .tokenizer import ADDED_TOKENS, TOKENIZER_JSON, VOCAB_AND_MERGES, load_tokenizer, save_tokenizer
from .unsupported import OTHER_WEIGHTS, found_instead
from .weights import FILE, Weights, check_names_and_shapes, load_weights, save_weights


class Model(NamedTuple):
    """A model ready to run: `weights, config, tokenizer = load("gpt2")`."""

    weights: Weights
    config: GPT2Config
    tokenizer: tiktoken.Encoding


def load(name_or_folder: str | Path, dtype: DTypeLike = np.float32) -> Model:
    """Load a model: any folder, a folder under `weights/`, a name such as `gpt2-xl`, or `owner/name` on the hub.

    `hub.NAMES` lists the names; `shakespeare` is the bundled model. A model on the hub is downloaded the first time.

    `dtype` is float32, float64 or "int8". With "int8" the weights take a quarter of the memory, and the computation is
    in float32 (see `int8.py`).

    Raises OSError if the model is not found or cannot be downloaded, and ValueError if its files are damaged or do not
    fit together.
    """
    folder = model_folder(name_or_folder)
    if not (folder / "config.json").exists():
        files = files_of(folder)
        missing = missing_files(files, Parts.CONFIG | Parts.TOKENIZER)
        raise FileNotFoundError(
            f"{folder} has no {' and no '.join(missing)}{found_instead(files, OTHER_WEIGHTS)}; a model folder must have"
            f" them beside {FILE} ({TOKENIZER_JSON} can replace {' and '.join(VOCAB_AND_MERGES)})"
        )
    config = GPT2Config.from_json(folder / "config.json").with_generation_config(folder / GENERATION_CONFIG)
    tokenizer = load_tokenizer(folder)
    weights = load_int8(folder) if np.dtype(dtype) == np.int8 else load_weights(folder, dtype)
    check_vocabulary(tokenizer, config, folder)
    return Model(weights, config, tokenizer)


def check_vocabulary(tokenizer: tiktoken.Encoding, config: GPT2Config, folder: Path) -> None:
    """Raise ValueError if the tokenizer has more ids than the model. The model may have more: they are padding."""
    if tokenizer.n_vocab > config.vocab_size:
        raise ValueError(
            f"{folder}: the tokenizer has {tokenizer.n_vocab} tokens; it must have at most {config.vocab_size}, the"
            f" model's vocab_size"
        )


def save_model(folder: str | Path, weights: Weights, config: GPT2Config, tokenizer: tiktoken.Encoding) -> None:
    """Write config.json, model.safetensors and the tokenizer's files. transformers can load this folder, too.

    A generation_config.json or added_tokens.json of an earlier model is removed. A save that fails changes nothing in
    the folder. Raises ValueError if weights, config and tokenizer do not fit together.
    """
    with staged_model(Path(folder), weights, config, tokenizer):
        pass


@contextmanager
def staged_model(folder: Path, weights: Weights, config: GPT2Config, tokenizer: tiktoken.Encoding) -> Iterator[Path]:
    """The same, for a model with other files: yields the temporary folder from which all files are moved at the end."""
    check_names_and_shapes(weights, config, folder)
    check_vocabulary(tokenizer, config, folder)
    description = {
        "architectures": ["GPT2LMHeadModel"],
        "model_type": "gpt2",
        "dtype": str(weights["wte.weight"].dtype),
        **dataclasses.asdict(config),
    }
    with staged_writes(folder, replaced=(ADDED_TOKENS, GENERATION_CONFIG)) as staging:
        (staging / "config.json").write_text(json.dumps(description, indent=2) + "\n", encoding="utf-8")
        save_weights(staging / FILE, weights)
        save_tokenizer(staging, tokenizer)
        yield staging
