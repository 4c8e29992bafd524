"""Compute the reference outputs with PyTorch and transformers: `python -m tests.reference.make_references`.

The script writes these files into its own folder:

    tiny.npz       every variation in `seeded.py`: logits, loss, greedy token ids; for three of them, all activations
    full.npz       a model of gpt2's size with seeded weights: some of the logits, loss, greedy token ids
    bundled.npz    the bundled model and two prompts: logits, loss, greedy token ids
    tokens.json    texts and their token ids, from the bundled tokenizer and from GPT-2's
    gradients.npz  every variation, and one with dropout: loss, some entries of each gradient, its norm and largest
                   entry. Ten AdamW steps: the losses, and some entries of the final weights
    explain.npz    the bundled model and two prompts: attention patterns, residual stream, logit lens, surprisal, the
                   size of each head's output, nearest tokens, and how removing a head or an MLP changes ln p of a text

All models compute in float64; `logits_float32` is the exception. GPT-2's tokenizer is read from `weights/gpt2`, or from
`gpt2-tokenizer` in the folder that the variable NUMPY_GPT2_DATA names. Without it, tokens.json is not written.
"""

import dataclasses
import json
import math
import os
import random
import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import torch
import transformers
from tokenizers import ByteLevelBPETokenizer
from torch.utils.hooks import RemovableHandle

from numpy_gpt2 import GPT2Config
from numpy_gpt2.hub import bundled_folder, weights_folder

from .seeded import (
    FOLDER,
    TRAINING,
    VARIATIONS,
    seeded_batch,
    seeded_masks,
    seeded_targets,
    seeded_tokens,
    seeded_weights,
    selected,
    variation,
)

# transformers' module -> the hook's name for the module's output
MODULES = {
    "ln_1": "ln_1",
    "attn.c_proj": "attn_out",
    "ln_2": "ln_2",
    "mlp.c_fc": "mlp.pre",
    "mlp.act": "mlp.post",
    "mlp.c_proj": "mlp_out",
}


def oracle(config: GPT2Config, weights: dict[str, np.ndarray], dtype: torch.dtype) -> transformers.GPT2LMHeadModel:
    """transformers' model with the given weights."""
    fields = dataclasses.asdict(config) | {"bos_token_id": None, "eos_token_id": None}
    with torch.device("meta"):
        model = transformers.GPT2LMHeadModel(
            transformers.GPT2Config(**fields, attn_implementation="eager", use_cache=True)
        )
    state = {
        name if name == "lm_head.weight" else f"transformer.{name}": torch.from_numpy(array).to(dtype)
        for name, array in weights.items()
    }
    if config.tie_word_embeddings:
        state["lm_head.weight"] = state["transformer.wte.weight"]
    model.load_state_dict(state, assign=True)
    model.tie_weights()
    return model.eval()


def traced(model: transformers.GPT2LMHeadModel, tokens: torch.Tensor) -> dict[str, np.ndarray]:
    """The activations of a forward pass, under the hook's names."""
    trace: dict[str, np.ndarray] = {}

    def keep(name: str) -> Callable[..., None]:
        return lambda module, inputs, output: trace.update({name: output.numpy()})

    def keep_input(name: str) -> Callable[..., None]:
        return lambda module, inputs: trace.update({name: inputs[0].numpy()})

    handles = []
    for i, block in enumerate(model.transformer.h):
        for module, name in MODULES.items():
            handles.append(block.get_submodule(module).register_forward_hook(keep(f"h.{i}.{name}")))
        # resid_mid, the residual stream between attention and MLP, is what ln_2 receives.
        handles.append(block.ln_2.register_forward_pre_hook(keep_input(f"h.{i}.resid_mid")))
    output = model(tokens, output_hidden_states=True, output_attentions=True)
    for handle in handles:
        handle.remove()
    for i, attention in enumerate(output.attentions):
        trace[f"h.{i}.attn.pattern"] = attention.numpy()
        trace[f"h.{i}.resid_pre"] = output.hidden_states[i].numpy()
    trace["ln_f"] = output.hidden_states[-1].numpy()
    return trace


def loss(model: transformers.GPT2LMHeadModel, tokens: torch.Tensor) -> float:
    """Mean cross-entropy of next-token prediction. The fifth token of each row is an ignored target."""
    targets = tokens[:, 1:].clone()
    targets[:, 3] = -100
    logits = model(tokens).logits[:, :-1]
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten()).item()


def greedy(model: transformers.GPT2LMHeadModel, tokens: torch.Tensor, n: int) -> np.ndarray:
    """The n token ids that greedy decoding appends."""
    return model.generate(
        tokens, attention_mask=torch.ones_like(tokens), max_new_tokens=n, do_sample=False, pad_token_id=0
    )[:, tokens.shape[1] :].numpy()


def make_tiny() -> None:
    arrays = {}
    for seed, name in enumerate(VARIATIONS):
        config = variation(name)
        weights = seeded_weights(config, seed, scale=0.4)
        tokens = torch.from_numpy(seeded_tokens(config, seed, (2, 9)))
        model = oracle(config, weights, torch.float64)
        arrays[f"{name}/logits"] = model(tokens).logits.numpy()
        arrays[f"{name}/logits_float32"] = oracle(config, weights, torch.float32)(tokens).logits[:, -1].numpy()
        arrays[f"{name}/loss"] = np.array(loss(model, tokens))
        arrays[f"{name}/greedy"] = greedy(model, tokens[:, :5], 20)
        if name in ("plain", "inverse_layer", "gelu_exact"):
            arrays |= {f"{name}/trace/{key}": value for key, value in traced(model, tokens[:1]).items()}
    np.savez_compressed(FOLDER / "tiny.npz", **arrays)


def make_full() -> None:
    config = GPT2Config.preset("gpt2")
    weights = seeded_weights(config, seed=124, scale=0.02)
    tokens = torch.from_numpy(seeded_tokens(config, 124, (1, 40)))
    model = oracle(config, weights, torch.float64)
    np.savez_compressed(
        FOLDER / "full.npz",
        logits=model(tokens).logits[:, ::3, ::101].numpy(),
        loss=np.array(loss(model, tokens)),
        greedy=greedy(model, tokens[:, :20], 20),
    )


def bundled_model() -> tuple[transformers.GPT2LMHeadModel, transformers.PreTrainedTokenizerBase]:
    """The bundled model and tokenizer, loaded by transformers."""
    folder = bundled_folder()
    model = transformers.GPT2LMHeadModel.from_pretrained(folder, dtype=torch.float64, attn_implementation="eager")
    return model.eval(), transformers.AutoTokenizer.from_pretrained(folder)


def make_bundled() -> None:
    model, tokenizer = bundled_model()
    arrays = {}
    for i, prompt in enumerate(["ROMEO:\n", "First Citizen:\nBefore we proceed any further, hear me speak.\n\nAll:\n"]):
        tokens = torch.tensor([tokenizer(prompt).input_ids])
        arrays |= {
            f"{i}/prompt": np.array(prompt),
            f"{i}/tokens": tokens.numpy()[0],
            f"{i}/logits": model(tokens).logits.numpy()[0],
            f"{i}/greedy": greedy(model, tokens, 40)[0],
        }
        if tokens.shape[1] > 4:
            arrays[f"{i}/loss"] = np.array(loss(model, tokens))
    np.savez_compressed(FOLDER / "bundled.npz", **arrays)


def random_texts(n: int, seed: int) -> list[str]:
    """Strings that mix letters, spaces, digits, punctuation, emoji, rare scripts, and arbitrary code points."""
    rng = random.Random(seed)
    pools = [
        "abcdefghij THE the and 's 'll 've 're 'd 't 'm",
        " \t\n\r\u00a0\u2003\u3000\u0085\u200b\x1c",
        "0123456789²½٣๔Ⅷ",
        ".,;:!?-–—'\"()[]{}<|>/\\`~@#$%^&*_=+€£",
        "éüñßøåÆŒçžşığ",
        "αβγδЖшщыאבגدهوकखग你好世界日本語한국어ไทย",
        "😀👩\u200d👩\u200d👧🏽🇩🇪\u0301\u0300\ufe0f\u20e3",
        "<|endoftext|>",
    ]
    texts = []
    for _ in range(n):
        text = ""
        for _ in range(rng.randint(0, 12)):
            if rng.random() < 0.1:
                code = rng.choice([rng.randrange(0xD800), rng.randrange(0xE000, 0x110000)])
                text += chr(code)
            else:
                pool = rng.choice(pools)
                text += pool if rng.random() < 0.1 else "".join(rng.choices(pool, k=rng.randint(1, 6)))
        texts.append(text)
    return texts


def gpt2_tokenizer_folder() -> Path | None:
    """The folder with GPT-2's vocab.json and merges.txt, or None."""
    data = os.environ.get("NUMPY_GPT2_DATA")
    folders = [weights_folder() / "gpt2", *([Path(data) / "gpt2-tokenizer"] if data else [])]
    return next((folder for folder in folders if (folder / "merges.txt").exists()), None)


def make_tokens() -> None:
    folder = gpt2_tokenizer_folder()
    if folder is None:
        needed = "weights/gpt2, or gpt2-tokenizer in the folder that NUMPY_GPT2_DATA names"
        print(f"note: tokens.json is not written, because it needs GPT-2's tokenizer: {needed}", file=sys.stderr)
        return
    texts = ["Hello, my dog is cute", " leading", "trailing ", "a  b   c", "\n\n\n", "", *random_texts(300, seed=0)]
    result: dict[str, list[Any]] = {"texts": texts}
    for name, tokenizer in {"bundled": byte_level_bpe(bundled_folder()), "gpt2": byte_level_bpe(folder)}.items():
        result[name] = [tokenizer.encode(text).ids for text in texts]
    (FOLDER / "tokens.json").write_text(json.dumps(result, separators=(",", ":")) + "\n")


def byte_level_bpe(folder: Path) -> ByteLevelBPETokenizer:
    """The tokenizers library's byte-level BPE. It has no special tokens, so "<|endoftext|>" is ordinary text."""
    return ByteLevelBPETokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), add_prefix_space=False)


def masked(masks: dict[str, np.ndarray]) -> AbstractContextManager[Any]:
    """A context in which PyTorch's dropout multiplies by these masks, in the order of the forward pass."""
    remaining = iter(masks.values())
    return mock.patch("torch.nn.functional.dropout", lambda x, *_, **__: x * torch.from_numpy(next(remaining)))


def mean_loss(model: transformers.GPT2LMHeadModel, tokens: np.ndarray, targets: np.ndarray) -> torch.Tensor:
    """Mean cross-entropy over the targets that are not -1."""
    logits = model(torch.from_numpy(tokens)).logits
    return torch.nn.functional.cross_entropy(logits.flatten(0, 1), torch.from_numpy(targets).flatten(), ignore_index=-1)


def parameters(model: transformers.GPT2LMHeadModel) -> dict[str, torch.Tensor]:
    """The parameters under this project's names. A tied head does not appear."""
    return {name.removeprefix("transformer."): parameter for name, parameter in model.named_parameters()}


def ten_steps(
    model: transformers.GPT2LMHeadModel, config: GPT2Config, weights: dict[str, torch.Tensor]
) -> dict[str, np.ndarray]:
    """Train these weights with PyTorch's AdamW: the losses before ten steps, and some entries of the final weights."""
    optimizer = torch.optim.AdamW(
        [
            {"params": [w for w in weights.values() if w.ndim == 2], "weight_decay": TRAINING["weight_decay"]},
            {"params": [w for w in weights.values() if w.ndim == 1], "weight_decay": 0.0},
        ],
        betas=(TRAINING["beta1"], TRAINING["beta2"]),
        eps=1e-8,
    )
    warmup, steps, low, high = TRAINING["warmup"], TRAINING["max_steps"], TRAINING["min_lr"], TRAINING["lr"]
    losses = []
    for step in range(steps):
        angle = math.pi * (step - warmup) / (steps - 1 - warmup)
        rate = (step + 1) / warmup * high if step < warmup else (high + low + (high - low) * math.cos(angle)) / 2
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.zero_grad()
        value = mean_loss(model, *seeded_batch(config, step))
        value.backward()
        torch.nn.utils.clip_grad_norm_(weights.values(), TRAINING["grad_clip"])
        optimizer.step()
        losses.append(value.item())
    return {
        "losses": np.array(losses),
        "weights": np.concatenate([selected(array.detach().numpy()) for array in weights.values()]),
    }


@torch.enable_grad()
def make_gradients() -> None:
    config = variation("plain")
    model = oracle(config, seeded_weights(config, seed=0, scale=0.02), torch.float64)
    weights = parameters(model)
    steps = ten_steps(model, config, {name: weights[name] for name in config.parameter_shapes()})
    arrays = {f"steps/{name}": array for name, array in steps.items()}
    for name in [*VARIATIONS, "dropout"]:
        seed = [*VARIATIONS, "dropout"].index(name)
        config = variation("plain" if name == "dropout" else name)
        model = oracle(config, seeded_weights(config, seed, scale=0.4), torch.float64)
        tokens, targets = seeded_tokens(config, seed, (3, 11)), seeded_targets(config, seed, (3, 11))
        with masked(seeded_masks(config, seed, (3, 11))) if name == "dropout" else nullcontext():
            value = mean_loss(model, tokens, targets)
        value.backward()
        weights = parameters(model)
        gradients = [weights[key].grad.numpy() for key in config.parameter_shapes()]
        arrays[f"{name}/loss"] = value.detach().numpy()
        arrays[f"{name}/selected"] = np.concatenate([selected(gradient) for gradient in gradients])
        arrays[f"{name}/norms"] = np.array([np.linalg.norm(gradient) for gradient in gradients])
        arrays[f"{name}/largest"] = np.array([np.abs(gradient).max() for gradient in gradients])
    np.savez_compressed(FOLDER / "gradients.npz", **arrays)


def without(module: torch.nn.Module, columns: slice = slice(None), inputs: bool = False) -> RemovableHandle:
    """Replace some columns of a module's output, or input, by zeros. The returned handle's `remove` undoes this."""

    def zeroed(x: torch.Tensor) -> torch.Tensor:
        x = x.clone()
        x[..., columns] = 0
        return x

    if inputs:
        return module.register_forward_pre_hook(lambda module, x: (zeroed(x[0]),))
    return module.register_forward_hook(lambda module, x, output: zeroed(output))


def make_explain() -> None:
    model, encode = bundled_model()
    L, H, D = model.config.n_layer, model.config.n_head, model.config.n_embd // model.config.n_head
    arrays = {}
    for i, (prompt, target) in enumerate([("To be, or not to be, that is the", " question"), ("ROMEO", ":\n")]):
        tokens = torch.tensor(encode(prompt).input_ids)
        wanted = torch.tensor(encode(target).input_ids)
        blocks, T = model.transformer.h, len(tokens)
        heads: list[torch.Tensor] = []
        handles = [
            block.attn.c_proj.register_forward_pre_hook(lambda module, x, heads=heads: heads.append(x[0][0]))
            for block in blocks
        ]
        output = model(tokens[None], output_hidden_states=True, output_attentions=True)
        for handle in handles:
            handle.remove()
        hidden = torch.stack(output.hidden_states)[:, 0]
        lens = torch.cat([model.lm_head(model.transformer.ln_f(hidden[:-1])), output.logits])
        log_p = output.logits[0].log_softmax(-1)
        embeddings = torch.nn.functional.normalize(model.transformer.wte.weight, dim=-1)
        nearest = (torch.nn.functional.normalize(hidden[0], dim=-1) @ embeddings.T).topk(5)

        def target_log_p(tokens: torch.Tensor = tokens, wanted: torch.Tensor = wanted, T: int = T) -> torch.Tensor:
            log_p = model(torch.cat([tokens, wanted[:-1]])[None]).logits[0, T - 1 :].log_softmax(-1)
            return log_p[range(len(wanted)), wanted].sum()

        changes = torch.zeros(L, H + 1, dtype=torch.float64)
        for layer, block in enumerate(blocks):
            for head in range(H + 1):
                columns = slice(head * D, (head + 1) * D)
                handle = without(block.attn.c_proj, columns, inputs=True) if head < H else without(block.mlp)
                changes[layer, head] = target_log_p()
                handle.remove()
        weights = [block.attn.c_proj.weight.view(H, D, -1) for block in blocks]
        written = [torch.einsum("thd,hdc->htc", x.view(T, H, D), w) for x, w in zip(heads, weights, strict=True)]
        results = {
            "attentions": torch.cat(output.attentions),
            "hidden": hidden[..., ::8],
            "lens": lens.softmax(-1).topk(10).values,
            "lens_tokens": lens.topk(10).indices,
            "lens_target": lens.softmax(-1)[:, -1, wanted[0]],
            "surprisal": -log_p[range(T - 1), tokens[1:]] / math.log(2),
            "written": torch.stack(written).norm(dim=-1),
            "nearest": nearest.values,
            "nearest_tokens": nearest.indices,
            "changes": changes - target_log_p(),
        }
        arrays |= {f"{i}/prompt": np.array(prompt), f"{i}/target": np.array(target)}
        arrays |= {f"{i}/{name}": value.numpy() for name, value in results.items()}
    np.savez_compressed(FOLDER / "explain.npz", **arrays)


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    make_tiny()
    make_full()
    make_bundled()
    make_tokens()
    make_gradients()
    make_explain()
