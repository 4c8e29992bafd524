"""Let transformers continue a text with each option of sampling: `python -m tests.reference.make_processors`.

The script writes processors.npz into its own folder. The model is `seeded.PROCESSED`. For the case i:

    <i>/settings    the arguments of `generate`, in JSON
    <i>/tokens      the prompts, 8 tokens each, and the sampled tokens: (B, T)
    <i>/logits      the model's raw logits at each step (n, B, V)
    <i>/scores      what transformers' processors made of them; sampling draws from their softmax
    <i>/greedy      the text that greedy decoding gives for each prompt, −1 from the stop token on; not where a setting
                    is for sampling only
"""

import json
from typing import Any

import numpy as np
import torch

from .make_references import oracle
from .seeded import FOLDER, PROCESSED, seeded_tokens, seeded_weights

B, T, N_NEW, STOP = 2, 8, 24, 20

CASES: list[dict[str, Any]] = [
    {"repetition_penalty": 1.3},
    {"repetition_penalty": 0.8},
    {"no_repeat_ngram": 2},
    {"no_repeat_ngram": 3},
    {"repetition_penalty": 1.2, "no_repeat_ngram": 4},
    {"min_p": 0.3},
    {"temperature": 0.7, "top_k": 6, "top_p": 0.8, "min_p": 0.2},
    {"repetition_penalty": 1.2, "no_repeat_ngram": 2, "temperature": 1.5, "top_k": 9, "top_p": 0.9, "min_p": 0.15},
]


def make_processors() -> None:
    weights = seeded_weights(PROCESSED, seed=0, scale=0.4)
    model = oracle(PROCESSED, weights, torch.float64)
    prompts = torch.from_numpy(seeded_tokens(PROCESSED, 1, (B, T)))
    arrays = {}
    for i, settings in enumerate(CASES):
        options = {"top_k": 0, **settings, "no_repeat_ngram_size": settings.get("no_repeat_ngram", 0)}
        options.pop("no_repeat_ngram", None)
        options |= {"attention_mask": torch.ones_like(prompts), "max_new_tokens": N_NEW, "pad_token_id": 0}
        torch.manual_seed(i)
        result = model.generate(
            prompts, do_sample=True, output_logits=True, output_scores=True, return_dict_in_generate=True, **options
        )
        arrays |= {
            f"{i}/settings": np.array(json.dumps(settings)),
            f"{i}/tokens": result.sequences.numpy(),
            f"{i}/logits": torch.stack(result.logits).numpy().astype(np.float32),
            f"{i}/scores": torch.stack(result.scores).numpy().astype(np.float32),
        }
        if not {*settings} - {"repetition_penalty", "no_repeat_ngram"}:
            options |= {"eos_token_id": STOP}
            greedy = model.generate(prompts, do_sample=False, **options)[:, T:].numpy()
            stopped = np.logical_or.accumulate(greedy == STOP, axis=1)
            arrays[f"{i}/greedy"] = np.where(stopped, -1, greedy)
    np.savez_compressed(FOLDER / "processors.npz", **arrays)


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    make_processors()
