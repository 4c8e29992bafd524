"""What the live page is told: the answers to its requests, one part at a time, while they are computed.

A part is a JSON object. An empty part gives other requests their turn. `Models` has what the answers are computed from.
Each function takes the fields of a request; server.py describes them.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from functools import lru_cache
from http import HTTPStatus
from typing import Any, NamedTuple

import numpy as np
import tiktoken

from ..checkpoint import Model, load
from ..hub import local_models
from ..model import identity
from ..tokenizer import unused_ids
from .analysis import Analysis, ablation, ablation_steps, begin, later_arrays, read_tokens
from .compare import change_arrays, lens_difference, second_arrays, trace_lines
from .contributions import largest
from .gradients import gradients_of
from .interventions import Direction, Edge, Hook, Intervention, Record, make_hook, read_intervention
from .page import (
    N_CANDIDATES,
    asset,
    encoded,
    gradient_arrays,
    page_arrays,
    page_data,
    token_texts,
    tokens_in,
    weight_lengths,
)
from .size import check_size
from .visible import token_bytes

Part = dict[str, Any]
Arrays = dict[str, np.ndarray]

SECTIONS = ("gradients.html", "second.html")  # that follow those of page.html


class RequestError(Exception):
    """A request that is refused, with its HTTP status."""

    def __init__(self, status: HTTPStatus, message: str) -> None:
        super().__init__(message)
        self.status = status


class Models:
    """The models that can be chosen, and passes that are kept, because the next request may need them again."""

    def __init__(self, first: Model, dtype: str, max_tokens: int) -> None:
        self.first, self.dtype, self.max_tokens = first, dtype, max_tokens
        self.folders = {**local_models(), first.tokenizer.name: None}
        self.load = lru_cache(maxsize=2)(self.load_model)
        self.loading = threading.Lock()  # several requests may need a model that is not loaded yet
        self.second = lru_cache(maxsize=2)(lambda name, prompt: begin(prompt, self.model(name), None, max_tokens))
        self.before = lru_cache(maxsize=1)(  # while interventions change, what they are compared with stays the same
            lambda name, prompt, target, taken: begin(prompt, self.model(name), target, max_tokens, taken)
        )

    def load_model(self, name: str) -> Model:
        """One of the models of the list. `load` keeps the last two."""
        folder = self.folders[name]
        return self.first if folder is None else load(folder, self.dtype)

    def model(self, name: str) -> Model:
        """One of the models of the list. Raises RequestError for another name."""
        if name not in self.folders:
            names = ", ".join(self.folders)
            raise RequestError(HTTPStatus.NOT_FOUND, f"there is no model {name!r:.60} here; it must be one of {names}")
        with self.loading:
            return self.load(name)


class Pass(NamedTuple):
    """The forward pass that a request asks for."""

    analysis: Analysis
    hook: Hook
    interventions: list[Intervention]  # in force
    refused: list[tuple[Any, str]]  # interventions that are not in force, with their reasons
    changes: Arrays  # what the interventions change


def token_part(models: Models, request: Part) -> Part:
    """The last tokens of a prompt, as ids and texts, and the number of all tokens."""
    model = models.model(request["model"])
    shown, n, _ = read_tokens(request["prompt"], model, None, models.max_tokens)
    return {"tokens": shown.tolist(), "n_prompt": n, "pieces": token_texts(shown.tolist(), model)}


def run(models: Models, request: Part, gradients: bool = False) -> Pass:
    """Run the forward pass of a request.

    Raises RequestError for a model or a token that does not exist, ValueError if the answer would be too large.
    """
    model, prompt, taken = models.model(request["model"]), request["prompt"], tuple(request["taken"])
    target = None if request["target"] is None else (request["target"],)
    for token in (*taken, *(target or ())):
        if token >= model.config.vocab_size or token_bytes(token, model) is None:
            raise RequestError(HTTPStatus.BAD_REQUEST, f"the model has no token {token}")
    tokens, _, _ = read_tokens(prompt, model, target, models.max_tokens, taken)
    check_size(model.config, len(tokens), gradients)
    if request["interventions"]:
        before, second = models.before(request["model"], prompt, target, taken), second_pass(models, request)
        interventions, refused = those_that_fit(request["interventions"], before, second)
        if interventions:
            hook = make_hook(interventions, model.config, before, second)
            after = begin(prompt, model, before.target, models.max_tokens, taken, hook)
            return Pass(after, hook, interventions, refused, change_arrays(before["logits"], after))
    else:
        refused = []
    return Pass(begin(prompt, model, target, models.max_tokens, taken), identity, [], refused, {})


def second_pass(models: Models, request: Part) -> Analysis | None:
    """The pass of the second prompt, if there is one."""
    return None if request["second"] is None else models.second(request["model"], request["second"])


def those_that_fit(
    objects: Sequence[Any], first: Analysis, second: Record | None
) -> tuple[list[Intervention], list[tuple[Any, str]]]:
    """The interventions that are possible here, and the others, each with the reason.

    For example, a shorter prompt has no position 9, and a smaller model no block 11.
    """
    possible: list[Intervention] = []
    refused = []
    for each in objects:
        try:
            intervention = read_intervention(each)
            make_hook([*possible, intervention], first.model.config, first, second)
            possible.append(intervention)
        except ValueError as error:
            refused.append((each, str(error)))
    return possible, refused


def explanation_parts(models: Models, request: Part) -> Iterator[Part]:
    """The page's data from one forward pass, then the arrays that take longer, then those of the second prompt."""
    analysis, _, _, refused, changes = run(models, request)
    model = analysis.model
    arrays = page_arrays(analysis) | changes
    arrays["next.rest"] = largest(analysis["logits"][-1], model.config.vocab_size)[0][N_CANDIDATES:]
    yield page_data(analysis, arrays, "".join(map(asset, SECTIONS))) | {
        "n_prompt": analysis.n_prompt,
        "typed": request["prompt"] + model.tokenizer.decode(request["taken"]),
        "unused": rows_without_token(model.tokenizer, model.config.vocab_size),
        "refused": refused,
        "arrays": encoded_arrays(arrays),
    }
    for arrays in later_arrays(analysis):
        yield array_part(arrays, model) if arrays else {}
    if (second := second_pass(models, request)) is not None:
        for arrays in later_arrays(second) if "lens.tokens" not in second.arrays else ():
            second.arrays.update(arrays)
            yield {}
            if arrays:
                break  # the lens is complete
        yield array_part(second_arrays(analysis, second), model)
        for arrays in lens_difference(analysis, second):
            yield array_part(arrays, model) if arrays else {}


def trace_parts(models: Models, request: Part) -> Iterator[Part]:
    """The rows of a trace between the prompt and the second prompt."""
    second = second_pass(models, request)
    if second is None:
        raise ValueError("there is no second prompt; tracing needs one")
    yield from trace_lines(run(models, request | {"interventions": []}).analysis, second)


def ablation_parts(models: Models, request: Part) -> Iterator[Part]:
    """The effect of each removal, with the interventions in force. Until it is known, the number of removals so far."""
    analysis, hook, *_ = run(models, request)
    yield {}
    for i, arrays in enumerate(ablation(analysis, hook), 1):
        yield array_part(arrays, analysis.model) if arrays else {"done": i, "of": ablation_steps(analysis.model.config)}


def gradient_parts(models: Models, request: Part) -> Iterator[Part]:
    """The arrays of the backward pass. Until they are known, the number of objectives so far.

    Raises ValueError if an intervention scales, removes or patches something, because `backward.py` does not know it.
    A removed edge has a weight of 0 in the recorded pass, and a direction adds a constant, so both are right.
    """
    analysis, _, interventions, *_ = run(models, request, gradients=True)
    if not all(isinstance(each, Edge | Direction) for each in interventions):
        raise ValueError(
            "backward.py has no gradient of removed or scaled heads and MLPs, or of patches; end these interventions"
        )
    yield {}
    for i, arrays in enumerate(gradients_of(analysis), 1):
        analysis.arrays.update(arrays)
        yield {} if arrays else {"done": i, "of": len(analysis.tokens)}
    weights = weight_lengths(analysis)
    yield array_part(gradient_arrays(analysis), analysis.model) | {"weights": weights}


@lru_cache(maxsize=2)
def rows_without_token(tokenizer: tiktoken.Encoding, vocab_size: int) -> list[int]:
    """The rows of the embedding table that no token stands for. No step can take them."""
    return sorted(unused_ids(tokenizer) | {*range(tokenizer.n_vocab, vocab_size)})


def array_part(arrays: Arrays, model: Model) -> Part:
    """Arrays, and the texts of the tokens in them."""
    return {"pieces": token_texts(tokens_in(arrays), model), "arrays": encoded_arrays(arrays)}


def encoded_arrays(arrays: Arrays) -> dict[str, dict[str, str]]:
    """Arrays for JSON."""
    return {name: encoded(array) for name, array in arrays.items()}
