"""Save what transformers 5 writes and computes for tiny models: `python -m tests.reference.make_tokenizers`.

The script writes tokenizers.json into its own folder. For each model it holds the small files of `save_pretrained` for
the model and the tokenizer, the ids of random texts, the logits of one text, and greedy tokens. The weights are those
of `seeded_weights`, with larger embeddings of added tokens. Padding, and embeddings without a token, are suppressed.
"""

import json
import random
import tempfile
from pathlib import Path
from typing import Any

import torch
import transformers
from tokenizers import AddedToken, Tokenizer
from transformers import GPT2Tokenizer

from numpy_gpt2 import GPT2Config

from ..conftest import write_tokenizer
from .make_references import oracle
from .seeded import FOLDER, seeded_weights

SIZES = {"n_positions": 64, "n_embd": 32, "n_layer": 2, "n_head": 4}
PARTS = ["the", " the", "hello", "[PAD]", "[P", "<|im_start|>", "<|im_end|>", "<|endoftext|>", "ünï", "Ġthe", "\n\n"]
PARTS += [" ", "  ", "a", "日本", "x", "é", "😀", "1", "!", "'ll", "\t", " you", "oth", "er"]
PROMPT = "<|im_start|>you\nhello the<|im_end|>\n"


def add_nothing(tokenizer: GPT2Tokenizer) -> None: ...


def add_padding(tokenizer: GPT2Tokenizer) -> None:
    tokenizer.add_special_tokens({"pad_token": "[PAD]"})


def add_many(tokenizer: GPT2Tokenizer) -> None:
    """Special tokens of a chat, and tokens that are not special, two of them with the text of an ordinary token."""
    tokenizer.add_special_tokens({"pad_token": "[PAD]", "eos_token": "<|im_end|>"})
    tokenizer.add_tokens([AddedToken("<|im_start|>", special=True)])
    tokenizer.add_tokens(["hello", "ünï", " the", "the", "Ġthe", "[P", "\n\n"])


def reference(tokenizer: GPT2Tokenizer, folder: Path, texts: list[str], eos: list[int] | None) -> dict[str, object]:
    """Save a model with this tokenizer, and return its small files and what transformers computes with it."""
    tokenizer.save_pretrained(folder)
    library = Tokenizer.from_file(str(folder / "tokenizer.json"))
    n_tokens, pad = len(tokenizer), tokenizer.pad_token_id
    config = GPT2Config(vocab_size=-32 * (-n_tokens // 32), bos_token_id=264, eos_token_id=264, **SIZES)
    weights = seeded_weights(config, 1, 0.5)
    weights["wte.weight"][265:] *= 3
    model = oracle(config, weights, torch.float64)
    model.config.bos_token_id = model.config.eos_token_id = 264
    model.config.pad_token_id = pad
    model.generation_config = transformers.GenerationConfig(bos_token_id=264, eos_token_id=eos or 264, pad_token_id=pad)
    model.save_pretrained(folder)

    ids = torch.tensor([library.encode(PROMPT).ids])
    unused = [*range(n_tokens, config.vocab_size), *([] if pad is None else [pad])]
    options = {"attention_mask": torch.ones_like(ids), "do_sample": False, "max_new_tokens": 30}
    (tokens,) = model.generate(ids, suppress_tokens=unused or None, **options)
    with torch.no_grad():
        logits = model(ids).logits[0, -1]
    names = ("config.json", "generation_config.json", "tokenizer.json", "tokenizer_config.json")
    assert {path.name for path in folder.iterdir()} == {*names, "model.safetensors"}
    return {
        "files": {name: json.loads((folder / name).read_text(encoding="utf-8")) for name in names},
        "ids": [library.encode(text).ids for text in texts],
        "prompt": ids[0].tolist(),
        "logits": logits.tolist(),
        "greedy": tokens[ids.shape[1] :].tolist(),
    }


def main() -> None:
    """Write tokenizers.json."""
    rng = random.Random(0)
    texts = ["".join(rng.choices(PARTS, k=rng.randint(1, 12))) for _ in range(150)]
    references: dict[str, Any] = {"texts": texts}
    with tempfile.TemporaryDirectory() as scratch:
        write_tokenizer(Path(scratch) / "base")
        for name, add, eos in [("plain", add_nothing, None), ("pad", add_padding, None), ("chat", add_many, [266, 77])]:
            tokenizer = GPT2Tokenizer.from_pretrained(Path(scratch) / "base")
            add(tokenizer)
            references[name] = reference(tokenizer, Path(scratch) / name, texts, eos)
            print(name, len(tokenizer), references[name]["greedy"])
    compact = json.dumps(references, ensure_ascii=False, separators=(",", ":"))
    (FOLDER / "tokenizers.json").write_text(compact + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
