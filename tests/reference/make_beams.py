"""Compute the reference of test_beam.py with transformers: `python -m tests.reference.make_beams`.

This writes beams.json beside this file. It has two searches for every variation in `seeded.py`: the prompt, the
settings, and the finished texts with their scores, the best first. One or two tokens that greedy decoding
generates end a text. The models compute in float64, and transformers computes the scores in float32.
"""

import json

import torch

from .make_references import greedy, oracle
from .seeded import FOLDER, VARIATIONS, seeded_tokens, seeded_weights, variation

PENALTIES = (1.0, 0.0, 2.0, -1.0)  # length penalties


def search(name: str, i: int) -> dict:
    """Search i: its settings, under the names of `beam_search`, and its results."""
    config = variation(name)
    weights = seeded_weights(config, seed=i, scale=0.4)
    model = oracle(config, weights, torch.float64)
    prompt = torch.from_numpy(seeded_tokens(config, seed=i, shape=(1, 3 + i % 5)))
    likely = greedy(model, prompt, 12)[0]
    settings = {
        "max_new_tokens": 6 + i % 10,
        "beams": 2 + i % 7,
        "length_penalty": PENALTIES[i % 4],
        "repetition_penalty": 1.3 if i % 3 == 1 else 1.0,
        "no_repeat_ngram": 2 if i % 3 == 2 else 0,
        "stop_tokens": sorted({int(likely[4 + i % 3]), int(likely[-1])} if i % 2 else {int(likely[-1])}),
    }
    output = model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        do_sample=False,
        max_new_tokens=settings["max_new_tokens"],
        num_beams=settings["beams"],
        num_return_sequences=settings["beams"],
        length_penalty=settings["length_penalty"],
        repetition_penalty=settings["repetition_penalty"],
        no_repeat_ngram_size=settings["no_repeat_ngram"],
        eos_token_id=settings["stop_tokens"],
        pad_token_id=config.vocab_size,
        return_dict_in_generate=True,
        output_scores=True,
    )
    ends = {*settings["stop_tokens"], config.vocab_size}
    texts = [[id for id in row if id not in ends] for row in output.sequences[:, prompt.shape[1] :].tolist()]
    results = list(zip(output.sequences_scores.tolist(), texts, strict=True))
    return {"name": name, "seed": i, "prompt": prompt[0].tolist(), "settings": settings, "results": results}


def main() -> None:
    searches = [search(name, i) for i, name in enumerate([*VARIATIONS] * 2)]
    lines = ",\n".join(json.dumps(one) for one in searches)
    (FOLDER / "beams.json").write_text(f"[\n{lines}\n]\n")


if __name__ == "__main__":
    with torch.no_grad():
        main()
