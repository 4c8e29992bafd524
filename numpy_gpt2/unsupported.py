"""Models that cannot be read, although they are a GPT-2: other tokenizers, other formats of weights.

The names of a model's files and its small files show this, so that nothing large is downloaded first.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from .files import read_json

# transformers' names for GPT-2's tokenizer. The last two are of any tokenizer.json; its content is checked later.
TOKENIZER_CLASSES = ("GPT2Tokenizer", "GPT2TokenizerFast", "PreTrainedTokenizerFast", "TokenizersBackend")

# Fields of tokenizer.json that change the tokens of a text -> the values that GPT-2 may have. None: null or missing.
GPT2_SETTINGS: dict[str, tuple[Any, ...]] = {
    "model.type": ("BPE", None),
    "normalizer": (None,),
    "pre_tokenizer.type": ("ByteLevel",),
    "pre_tokenizer.add_prefix_space": (False,),
    "pre_tokenizer.use_regex": (True, None),
    "model.dropout": (None, 0),
    "model.continuing_subword_prefix": (None, ""),
    "model.end_of_word_suffix": (None, ""),
    "model.byte_fallback": (False, None),
    "model.ignore_merges": (False, None),
}

# The end of a file's name -> what the file is.
OTHER_TOKENIZERS = {
    "vocab.txt": "a WordPiece tokenizer, as in BERT",
    "spiece.model": "a SentencePiece tokenizer",
    "tokenizer.model": "a SentencePiece tokenizer",
}
OTHER_WEIGHTS = {
    "adapter_model.safetensors": "an adapter; merge it into its base model, or use that",
    "adapter_model.bin": "an adapter; merge it into its base model, or use that",
    "tf_model.h5": "TensorFlow",
    "model.ckpt.index": "TensorFlow",
    "flax_model.msgpack": "Flax",
    "rust_model.ot": "Rust",
    "onnx/model.onnx": "ONNX",
    ".onnx": "ONNX",
    ".gguf": "GGUF",
    ".fp16.safetensors": "a variant; rename it to model.safetensors",
    ".bf16.safetensors": "a variant; rename it to model.safetensors",
    ".fp16.bin": "a variant; rename it to pytorch_model.bin",
}


def found_instead(names: Iterable[str], kinds: dict[str, str]) -> str:
    """The files that are there instead of the ones that are needed, for a message. Each kind is named once.

    >>> found_instead(["tf_model.h5", "README.md", "b.gguf", "a.gguf"], OTHER_WEIGHTS)
    ', but a.gguf (GGUF) and tf_model.h5 (TensorFlow)'
    """
    found: dict[str, str] = {}
    for name in sorted(names):
        for ending, kind in kinds.items():
            if name.endswith(ending):
                found.setdefault(kind, f"{name} ({kind})")
    return f", but {' and '.join(found.values())}" if found else ""


def no_tokenizer(place: object, names: Iterable[str], folder: Path) -> str:
    """The message for a model without a tokenizer that can be read. `names` are those of its files."""
    needed = "it must have vocab.json and merges.txt, or tokenizer.json"
    if other := found_instead(names, OTHER_TOKENIZERS):
        return f"{place} has no tokenizer that can be read{other}; {needed}, of a byte-level BPE as in GPT-2"
    return f"{place} has no tokenizer; {needed}. If it was trained with those of gpt2, put them into {folder}"


def check_tokenizer_config(folder: Path) -> None:
    """Raise ValueError if tokenizer_config.json, or else config.json, describes a tokenizer of another kind."""
    for path in (folder / "tokenizer_config.json", folder / "config.json"):
        values = read_json(path) if path.exists() else {}
        values = values if isinstance(values, dict) else {}
        if values.get("add_prefix_space"):
            raise ValueError(f"{path}: add_prefix_space is true; it must be false, as in GPT-2")
        if name := values.get("tokenizer_class"):
            if name not in TOKENIZER_CLASSES:
                raise ValueError(
                    f"{path}: tokenizer_class is {name!r:.100}; it must be {TOKENIZER_CLASSES[0]}, so choose a model"
                    " with a byte-level BPE as in GPT-2"
                )
            return


def check_tokenizer_json(document: Any, path: Path) -> None:
    """Raise ValueError, which names the field, if the tokens of a tokenizer.json would not be GPT-2's."""
    for field, allowed in GPT2_SETTINGS.items():
        value = document
        for name in field.split("."):
            value = value.get(name) if isinstance(value, dict) else None
        if value not in allowed:
            kind = value["type"] if isinstance(value, dict) and "type" in value else value
            raise ValueError(f"{path}: {field} is {json.dumps(kind)}; it must be {json.dumps(allowed[0])}, as in GPT-2")
    post_processor = json.dumps(document.get("post_processor"))
    if any(f'"{kind}"' in post_processor for kind in ("SpecialToken", "BertProcessing", "RobertaProcessing")):
        raise ValueError(f"{path}: post_processor adds tokens to each text; it must be null, or add none, as in GPT-2")


def check_added_tokens(document: Any, path: Path) -> None:
    """Raise ValueError if an added token in a JSON file takes spaces around it, or is only found as a whole word."""
    fields = document if isinstance(document, dict) else {}
    listed, by_id = fields.get("added_tokens"), fields.get("added_tokens_decoder")
    for token in [*(listed if isinstance(listed, list) else ()), *(by_id.values() if isinstance(by_id, dict) else ())]:
        for field in ("single_word", "lstrip", "rstrip"):
            if isinstance(token, dict) and token.get(field):
                content = token.get("content")
                raise ValueError(f"{path}: {field} of the added token {content!r:.100} is true; it must be false")
