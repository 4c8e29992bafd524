"""Models that cannot be read, although they are a GPT-2: other tokenizers, other formats of weights.

The names of a model's files and its small files show this, so that nothing large is downloaded first.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from .files import read_json

# transformers' names for GPT-2's tokenizer. The last two are of any tokenizer.json; its content is checked later.
TOKENIZER_CLASSES = ("GPT2Tokenizer", "GPT2TokenizerFast", "PreTrainedTokenizerFast", "TokenizersBackend")

# The end of a file's name -> what the file is.
OTHER_TOKENIZERS = {
    "vocab.txt": "a WordPiece tokenizer, as in BERT",
    "spiece.model": "a SentencePiece tokenizer",
    "tokenizer.model": "a SentencePiece tokenizer",
}
OTHER_WEIGHTS = {
    "adapter_model.safetensors": "an adapter without its base model",
    "adapter_model.bin": "an adapter without its base model",
    "tf_model.h5": "TensorFlow",
    "model.ckpt.index": "TensorFlow",
    "flax_model.msgpack": "Flax",
    "rust_model.ot": "Rust",
    "onnx/model.onnx": "ONNX",
    ".onnx": "ONNX",
    ".gguf": "GGUF",
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


def check_tokenizer_class(folder: Path) -> None:
    """Raise ValueError if tokenizer_config.json, or else config.json, names the class of another tokenizer."""
    for path in (folder / "tokenizer_config.json", folder / "config.json"):
        values = read_json(path) if path.exists() else {}
        if name := values.get("tokenizer_class") if isinstance(values, dict) else None:
            if name not in TOKENIZER_CLASSES:
                raise ValueError(
                    f"{path}: tokenizer_class is {name!r:.100}; it must be {TOKENIZER_CLASSES[0]}, so choose a model"
                    " with a byte-level BPE as in GPT-2"
                )
            return
