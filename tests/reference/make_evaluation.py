"""Compute the reference of test_evaluate.py with transformers: `python -m tests.reference.make_evaluation`.

This writes evaluation.json beside this file. It has a text with its tokens, its loss for several strides, and the
log-probabilities, ranks and most probable tokens. It also has examples in HellaSwag's format with the summed loss of
each ending and the accuracy.
"""

import json
import tempfile
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F

from numpy_gpt2 import GPT2Config

from ..conftest import write_tokenizer
from .make_references import byte_level_bpe, oracle
from .seeded import FOLDER, seeded_weights

CONFIG = {"vocab_size": 265, "n_positions": 64, "n_embd": 24, "n_layer": 2, "n_head": 4}
SEED, SCALE = 3, 0.4
STRIDES = (64, 32, 7, 1)
# Short texts are the first tokens of the text: about one window of them, or one window and a stride of 7.
BEGINNINGS = (2, 64, 65, 66, 71, 72, 73)
ENDOFTEXT = "<|endoftext|>"

TEXT = """\
The ferry leaves at 07:45, and if you miss it there is no other until noon. Zoë had missed it twice; “never again”, she
told the man with the thermos — and then the bus from Århus was late…

	“You may wait inside,” he said.   “The café has the better chairs, though the coffee is, well, 2½ out of ten 😀.”
She didn't mind. She'd have taken tea anyway, and thought of the you-know-what in the other bag: naïve, maybe, but they
wouldn't look there.\r
<|endoftext|>Как испечь хлеб: 500 г муки, 350 мл воды, соль. Leave the dough alone for the night (8–10 hours); in the
morning, fold it thrice, then bake the loaf at 230 °C until the crust sounds hollow. 水を足しすぎないでください。

    for hour in range(24):
        if the_dough[hour] >= 2 * the_dough[0]: break

<|endoftext|>Theorem. If you add the numbers 1 + 3 + 5 + … + (2n − 1), the sum is n². Proof: the squares of the border
lie around the others, 👩‍🚀 and so on. ∎
"""

# Contexts and their endings. The first ending is right. The last two examples are longer than the window.
EXAMPLES = [
    ("A man is painting a wall. He", ["dips the brush.", "swims in it.", "eats the ladder.", "is the wall."]),
    ("You need a pot that", ["is a bit wider.", "can sing you a song.", "you lost at sea.", "eats soup."]),
    ("They build a castle of sand. He", ["digs a moat.", "files the tax.", "melts away.", "is a castle of it."]),
    ("The dog waits at the door. Then she", ["barks.", "votes.", "reads it aloud.", "paints the cat."]),
    ("Zoë öffnet das Café um acht. Sie", ["kocht Kaffee.", "fällt nach oben.", "ist 1 €.", "verkauft das Meer."]),
    ("The dough is in the oven. Later, you", ["take it out.", "freeze to ice.", "plant it.", "ask it the time."]),
    ("A woman ties her shoes. She", ["stretches.", "eats both.", "has been elected.", "is the other shoe."]),
    ("The band tunes the guitars. The singer", ["counts to four.", "is a guitar.", "bakes the drums.", "rains."]),
    ("[header] How to fold a plane [step] Fold it, and", ["turn it over.", "weep.", "swallow the desk.", "boil it."]),
    ("He opens the umbrella, because", ["it rains.", "the fish says so.", "9 × 7 = 63.", "of the 😀 in it."]),
    (
        "They row the boat to the island, with the tent, the pan and the dog on board. There they",
        ["pitch the tent.", "are oars, all of them.", "subtract the lake.", "row the pan."],
    ),
    (
        "Long before the others were awake, the old fisherman had mended the nets, counted the hooks, and put the bread"
        " and the thermos into the boat. Then he",
        ["rows out to the buoy.", "unbakes the bread.", "is mended, hook by hook.", "counts"],
    ),
]


def tokenized(text: str, tokenizer) -> list[int]:
    """Token ids of a text by the tokenizers library, with an id for each `<|endoftext|>`."""
    first, *rest = [tokenizer.encode(part).ids for part in text.split(ENDOFTEXT)]
    return first + [token for part in rest for token in (CONFIG["vocab_size"] - 1, *part)]


def strided_loss(model, tokens: list[int], stride: int) -> float:
    """The mean loss over windows. Each token counts in the first window that contains it."""
    length = CONFIG["n_positions"]
    sum_of_losses, scored, start = 0.0, 1, 0  # `scored`: number of tokens that have counted
    while scored < len(tokens):
        window = torch.tensor(tokens[start : start + length + 1])
        logits = model(window[None, :-1]).logits[0]
        new = slice(scored - start - 1, None)
        sum_of_losses += F.cross_entropy(logits[new], window[1:][new], reduction="sum").item()
        scored, start = start + len(window), start + stride
    return sum_of_losses / (len(tokens) - 1)


def log_probabilities(model, tokens: list[int]) -> dict[str, list]:
    """Each predicted token's log-probability and rank, in windows one after another.

    The three most probable tokens are given for the first 70 predictions only, which are more than a window.
    """
    length = CONFIG["n_positions"]
    rows = torch.cat([model(torch.tensor([tokens[i : i + length]])).logits[0] for i in range(0, len(tokens), length)])
    logprobs, targets = torch.log_softmax(rows[: len(tokens) - 1], dim=-1), torch.tensor(tokens[1:])[:, None]
    order = logprobs.argsort(dim=-1, descending=True)
    top = order[:70, :3]
    return {
        "logprobs": logprobs.gather(1, targets)[:, 0].numpy().round(8).tolist(),
        "ranks": ((order == targets).int().argmax(dim=-1) + 1).tolist(),
        "top": top.tolist(),
        "top_logprobs": logprobs[:70].gather(1, top).numpy().round(8).tolist(),
    }


def ending_sums(model, example: dict, tokenizer) -> tuple[list[float], list[float]]:
    """The sum and the mean of the losses of each ending's tokens. Long texts lose their beginning."""
    context = tokenizer.encode(example["ctx"]).ids
    sums, means = [], []
    for ending in example["endings"]:
        ids = tokenizer.encode(" " + ending).ids
        row = torch.tensor((context + ids)[-CONFIG["n_positions"] - 1 :])
        losses = F.cross_entropy(model(row[None, :-1]).logits[0], row[1:], reduction="none")[-len(ids) :]
        sums.append(losses.sum().item())
        means.append(losses.mean().item())
    return sums, means


def example(i: int, context: str, endings: list[str]) -> dict:
    """A line of HellaSwag's file. The right ending is moved to position `label`."""
    label = i * 7 % 4
    first, _, rest = context.rpartition(". ")
    return {
        "ind": 4 * i + 3,
        "activity_label": "Made up",
        "ctx_a": first,
        "ctx_b": rest,
        "ctx": context,
        "split": "val",
        "split_type": "indomain" if i % 2 else "zeroshot",
        "label": label,
        "endings": endings[1 : label + 1] + endings[:1] + endings[label + 1 :],
        "source_id": f"wikihow~{i}",
    }


def main() -> None:
    config = GPT2Config(**CONFIG)
    model = oracle(config, seeded_weights(config, SEED, SCALE), torch.float64)
    with tempfile.TemporaryDirectory() as folder:
        write_tokenizer(Path(folder))
        tokenizer = byte_level_bpe(Path(folder))

    tokens = tokenized(TEXT, tokenizer)
    examples = [example(i, context, endings) for i, (context, endings) in enumerate(EXAMPLES)]
    sums, means = zip(*(ending_sums(model, example, tokenizer) for example in examples), strict=True)
    labels = [example["label"] for example in examples]
    for figures in (np.array(sums), np.array(means)):
        best, second = np.sort(figures)[:, :2].T
        assert ((second - best) / best).min() > 1e-3, "the best endings are too close for float32"
    result = {
        "config": CONFIG,
        "seed": SEED,
        "scale": SCALE,
        "text": TEXT,
        "tokens": tokens,
        "losses": {stride: strided_loss(model, tokens, stride) for stride in STRIDES},
        "losses_of_beginnings": {n: strided_loss(model, tokens[:n], 7) for n in BEGINNINGS},
        **log_probabilities(model, tokens),
        "examples": examples,
        "sums": sums,
        "acc": np.mean(np.argmin(sums, axis=1) == labels),
        "acc_norm": np.mean(np.argmin(means, axis=1) == labels),
    }
    (FOLDER / "evaluation.json").write_text(json.dumps(result, ensure_ascii=False) + "\n", encoding="utf-8")


if __name__ == "__main__":
    torch.set_grad_enabled(False)
    main()
