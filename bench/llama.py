"""llama.cpp's file format: the same weights in a GGUF file, in float32 or in q8_0 (blocks of 32 int8 weights).

Both functions need the package gguf; llama-cpp-python reads the file.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

import numpy_gpt2 as gpt2
from numpy_gpt2.model import ACTIVATIONS, gelu
from numpy_gpt2.tokenizer import last_merge, special_tokens, spelled, token_ranks

OUTSIDE_BLOCKS = {
    "lm_head.weight": "output.weight",
    "wte.weight": "token_embd.weight",
    "wpe.weight": "position_embd.weight",
    "ln_f.weight": "output_norm.weight",
    "ln_f.bias": "output_norm.bias",
}
IN_BLOCKS = {
    "ln_1": "attn_norm",
    "attn.c_attn": "attn_qkv",
    "attn.c_proj": "attn_output",
    "ln_2": "ffn_norm",
    "mlp.c_fc": "ffn_up",
    "mlp.c_proj": "ffn_down",
}


def gguf_name(name: str) -> str:
    """Hugging Face's name of a weight -> that of llama.cpp.

    >>> gguf_name("h.3.mlp.c_fc.weight")
    'blk.3.ffn_up.weight'
    """
    if name in OUTSIDE_BLOCKS:
        return OUTSIDE_BLOCKS[name]
    _, layer, rest = name.split(".", 2)
    part, kind = rest.rsplit(".", 1)
    return f"blk.{layer}.{IN_BLOCKS[part]}.{kind}"


def write_gguf(folder: Path, path: Path, dtype: str) -> None:
    """Write the model of a folder as a GGUF file. `dtype` is "float32" or "q8_0".

    Matrices have the layout (out, in) there. Position embeddings and vectors stay float32.
    """
    import gguf  # type: ignore[import-not-found, unused-ignore]

    weights, config, tokenizer = gpt2.load(folder)
    if ACTIVATIONS[config.activation_function] is not gelu:
        raise ValueError(f"llama.cpp's GPT-2 has no activation {config.activation_function}")
    writer = gguf.GGUFWriter(path, "gpt2")
    writer.add_context_length(config.n_positions)
    writer.add_embedding_length(config.n_embd)
    writer.add_block_count(config.n_layer)
    writer.add_feed_forward_length(config.inner_size)
    writer.add_head_count(config.n_head)
    writer.add_layer_norm_eps(config.layer_norm_epsilon)

    ranks, special = token_ranks(tokenizer), special_tokens(tokenizer)
    texts = {id: spelled(token) for token, id in ranks.items()} | {id: text for text, id in special.items()}
    ordinary = {*ranks.values()}
    ids = range(config.vocab_size)
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list([texts.get(id, f"<|unused {id}|>") for id in ids])
    kinds = (gguf.TokenType.NORMAL, gguf.TokenType.CONTROL)
    writer.add_token_types([kinds[id not in ordinary] for id in ids])
    merged = sorted((token for token in ranks if len(token) > 1), key=ranks.__getitem__)
    writer.add_token_merges([" ".join(map(spelled, last_merge(token, ranks))) for token in merged])
    writer.add_bos_token_id(tokenizer.eot_token)
    writer.add_eos_token_id(tokenizer.eot_token)

    def add(name: str, tensor: np.ndarray) -> None:
        if dtype == "q8_0" and tensor.ndim == 2 and name != "position_embd.weight":
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(name, gguf.quants.quantize(tensor, kind), raw_dtype=kind)
        else:
            writer.add_tensor(name, tensor)

    for name in config.parameter_shapes():
        is_matrix = name.startswith("h.") and weights[name].ndim == 2
        add(gguf_name(name), np.ascontiguousarray(weights[name].T if is_matrix else weights[name]))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


class Llama:
    """A GGUF file in llama.cpp, with a context for one text. It uses all cores."""

    def __init__(self, path: Path, n_positions: int) -> None:
        import llama_cpp  # type: ignore[import-not-found, unused-ignore]

        self.cpp, cores = llama_cpp, os.cpu_count()
        options: dict[str, Any] = {"n_threads": cores, "n_threads_batch": cores, "n_gpu_layers": 0, "verbose": False}
        options |= dict.fromkeys(["n_ctx", "n_batch", "n_ubatch"], n_positions)
        self.llama = llama_cpp.Llama(str(path), **options)

    def generate(self, prompt: list[int], n: int) -> list[int]:
        """Greedy decoding of n tokens."""
        self.llama.reset()
        tokens: list[int] = []
        rows = prompt
        while len(tokens) < n:
            self.llama.eval(rows)
            scores = self.cpp.llama_get_logits_ith(self.llama.ctx, -1)
            rows = [int(np.ctypeslib.as_array(scores, (self.llama.n_vocab(),)).argmax())]
            tokens += rows
        return tokens
