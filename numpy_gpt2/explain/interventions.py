"""Changes inside a forward pass, all through its hook: `make_hook` combines them into one.

    Head(layer, head, factor)                   scale what one head adds; a factor of 0 removes the head
    MLP(layer, factor)                          the same for one MLP
    Edge(layer, head, query, key)               one query of one head no longer sees one key
    Patch(name, position, source, head)         take one vector from a second prompt: that of all heads, or of one
    Direction(layer, factor, position)          add the difference between a second prompt and this one

`first` is what the hook `record` kept of the prompt's own forward pass, and `second` that of the second prompt, both of
shape (T,). An explanation is such a record, too. Only the named result is changed; what follows from it is computed as
always.
"""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from functools import partial
from typing import Any, Protocol

import numpy as np

from ..config import GPT2Config

Hook = Callable[[str, np.ndarray], np.ndarray]

MAX_FACTOR = 1000

# The named results of a block that have one vector for each position, and a pattern for all such results.
BLOCK_VECTORS = (
    "resid_pre", "ln_1", "attn.q", "attn.k", "attn.v", "attn.z", "attn_out", "resid_mid", "ln_2", "mlp.pre", "mlp.post",
    "mlp_out", "resid_post",
)  # fmt: skip
HEAD_VECTORS = ("attn.q", "attn.k", "attn.v", "attn.z")  # each head has its own
VECTORS = rf"embed|pos_embed|ln_f|h\.(\d{{1,4}})\.({'|'.join(map(re.escape, BLOCK_VECTORS))})"


class Record(Protocol):
    """The named results of a forward pass: a dict, or an explanation."""

    def __getitem__(self, name: str, /) -> np.ndarray: ...


@dataclass(frozen=True)
class Head:
    """z ← factor · z for one head. With a factor of 0, the head is removed: it adds nothing to the residual stream.

    The bias of `attn.c_proj` stays, because it belongs to no head.

    >>> z = np.ones((1, 3, 2, 2))  # 3 heads, 2 positions
    >>> Head(layer=0, head=1).change(z)
    >>> z.sum(axis=(0, 2, 3))
    array([4., 0., 4.])
    """

    layer: int
    head: int
    factor: float = 0.0

    @property
    def name(self) -> str:
        """The result that changes."""
        return f"h.{self.layer}.attn.z"

    def change(self, z: np.ndarray, first: Record | None = None, second: Record | None = None) -> None:
        """Change z (B, H, T, D) in place."""
        z[:, self.head] *= self.factor


@dataclass(frozen=True)
class MLP:
    """mlp_out ← factor · mlp_out. With a factor of 0, the MLP is removed, and its bias as well.

    >>> mlp_out = np.array([[[6.0, 8.0]]])
    >>> MLP(layer=0, factor=0.5).change(mlp_out)
    >>> mlp_out
    array([[[3., 4.]]])
    """

    layer: int
    factor: float = 0.0

    @property
    def name(self) -> str:
        """The result that changes."""
        return f"h.{self.layer}.mlp_out"

    def change(self, mlp_out: np.ndarray, first: Record | None = None, second: Record | None = None) -> None:
        """Change mlp_out (B, T, C) in place."""
        mlp_out *= self.factor


@dataclass(frozen=True)
class Edge:
    """score[query, key] ← −∞ in one head: this query no longer sees this key. The other weights of the row grow.

    >>> scores = np.zeros((1, 1, 2, 2))
    >>> Edge(layer=0, head=0, query=1, key=0).change(scores)
    >>> scores[0, 0]
    array([[  0.,   0.],
           [-inf,   0.]])
    """

    layer: int
    head: int
    query: int
    key: int

    @property
    def name(self) -> str:
        """The result that changes."""
        return f"h.{self.layer}.attn.scores"

    def change(self, scores: np.ndarray, first: Record | None = None, second: Record | None = None) -> None:
        """Change scores (B, H, T, S) in place."""
        scores[:, self.head, self.query, self.key] = -math.inf


@dataclass(frozen=True)
class Patch:
    """x[position] ← x[source] of the second prompt, for any result that has one vector for each position.

    For q, k, v and z, `head` chooses one head; without it, these are the vectors of all heads. Vig et al. 2020,
    "Investigating Gender Bias in Language Models Using Causal Mediation Analysis".

    >>> x = np.zeros((1, 2, 3))
    >>> Patch("h.0.resid_post", position=1, source=0).change(x, {}, {"h.0.resid_post": np.array([[[1, 2, 3]]])})
    >>> x[0]
    array([[0., 0., 0.],
           [1., 2., 3.]])
    """

    name: str
    position: int
    source: int
    head: int | None = None

    def change(self, x: np.ndarray, first: Record, second: Record) -> None:
        """Change x (..., T, C) in place. The results of heads are (B, H, T, D)."""
        y = second[self.name]
        if self.head is not None:
            x, y = x[:, self.head], y[:, self.head]
        x[..., self.position, :] = y[..., self.source, :]


@dataclass(frozen=True)
class Direction:
    """x ← x + factor · (b − a) before a block, at one position or at all.

    a is the residual stream of the prompt at its last position, and b that of the second prompt. At the last position,
    a factor of 1 turns a into b. Turner et al. 2023, "Steering Language Models With Activation Engineering".

    >>> x, a, b = np.zeros((1, 2, 1)), np.array([[[0.0], [5.0]]]), np.array([[[7.0]]])
    >>> Direction(layer=0, factor=3).change(x, {"h.0.resid_pre": a}, {"h.0.resid_pre": b})
    >>> x[0, :, 0]  # 3 · (7 − 5)
    array([6., 6.])
    """

    layer: int
    factor: float = 1.0
    position: int | None = None

    @property
    def name(self) -> str:
        """The result that changes."""
        return f"h.{self.layer}.resid_pre"

    def change(self, x: np.ndarray, first: Record, second: Record) -> None:
        """Change x (B, T, C) in place."""
        where = slice(None) if self.position is None else self.position
        x[:, where] += self.factor * (second[self.name][0, -1] - first[self.name][0, -1])


Intervention = Head | MLP | Edge | Patch | Direction
KINDS: dict[str, type[Intervention]] = {"head": Head, "mlp": MLP, "edge": Edge, "patch": Patch, "direction": Direction}


def make_hook(
    interventions: Iterable[Intervention], config: GPT2Config, first: Record, second: Record | None = None
) -> Hook:
    """One hook for all interventions. Those of the same result are applied in the order of the list.

    Raises ValueError if a layer, head or position does not exist, if a name is unknown, if a query has no key left, or
    if the second prompt is missing.

    >>> config, first = GPT2Config(n_layer=2, n_head=1), {"embed": np.zeros((3, 2))}  # T = 3
    >>> hook = make_hook([MLP(0), MLP(1, 0.5)], config, first)
    >>> [hook(name, np.array([8.0])).item() for name in ("h.0.mlp_out", "h.1.mlp_out", "h.1.ln_2")]
    [0.0, 4.0, 8.0]
    >>> make_hook([MLP(2)], config, first)
    Traceback (most recent call last):
    ValueError: layer is 2; it must be 0 to 1
    """
    changes: dict[str, list[Callable[[np.ndarray], None]]] = {}
    interventions = tuple(interventions)
    for intervention in interventions:
        check(intervention, config, first, second)
        change: Callable[..., None] = intervention.change
        changes.setdefault(intervention.name, []).append(partial(change, first=first, second=second))
    check_queries({i for i in interventions if isinstance(i, Edge)})

    def hook(name: str, value: np.ndarray) -> np.ndarray:
        if name in changes:
            value = value.copy()
            for change in changes[name]:
                change(value)
        return value

    return hook


def chain(*hooks: Hook) -> Hook:
    """One hook that passes each value through these hooks, one after another.

    >>> chain(lambda name, value: value + 1, lambda name, value: value * 10)("ln_f", 2)
    30
    """

    def hook(name: str, value: np.ndarray) -> np.ndarray:
        for each in hooks:
            value = each(name, value)
        return value

    return hook


def read_intervention(data: Any) -> Intervention:
    """The intervention that a JSON object describes. Its `from` is the `source` of a patch.

    >>> read_intervention({"kind": "patch", "name": "ln_f", "position": 3, "from": 2})
    Patch(name='ln_f', position=3, source=2, head=None)
    >>> read_intervention({"kind": "head", "layer": 3})
    Traceback (most recent call last):
    ValueError: the fields of 'head' are layer; they must be layer, head, factor
    """
    kind = data.get("kind") if isinstance(data, dict) else None
    if not isinstance(kind, str) or kind not in KINDS:
        raise ValueError(f"the kind of an intervention is {kind!r}; it must be one of {', '.join(KINDS)}")
    values = {"source" if name == "from" else name: value for name, value in data.items() if name != "kind"}
    try:
        return KINDS[kind](**values)
    except TypeError:
        expected = ", ".join(field.name for field in fields(KINDS[kind]))
        got = ", ".join(map(str, values)) or "missing"
        raise ValueError(f"the fields of {kind!r} are {got}; they must be {expected}") from None


def check(intervention: Intervention, config: GPT2Config, first: Record, second: Record | None) -> None:
    """Raise ValueError if the intervention does not fit the model and the prompts."""
    T = len(first["embed"])
    limits = {"layer": config.n_layer, "head": config.n_head, "position": T, "query": T}
    if isinstance(intervention, Edge):
        check_index("query", intervention.query, T)
        limits["key"] = intervention.query + 1  # later keys are masked
    if isinstance(intervention, Patch | Direction):
        if second is None:
            raise ValueError("there is no second prompt; a patch and a direction need one")
        limits["source"] = len(second["embed"])
        if isinstance(intervention, Patch) and intervention.head is not None:
            check_head_vector(intervention.name)
    for field in fields(intervention):
        value = getattr(intervention, field.name)
        if field.name == "name":
            check_name(value, config)
        elif field.name == "factor":
            if not isinstance(value, int | float) or not -MAX_FACTOR <= value <= MAX_FACTOR:
                raise ValueError(f"factor is {value!r}; it must be a number from -{MAX_FACTOR} to {MAX_FACTOR}")
        elif value is not None or field.default is not None:  # of a direction and a patch, one may be None
            check_index(field.name, value, limits[field.name])


def check_index(name: str, index: Any, n: int) -> None:
    """Raise ValueError if the index is not 0 to n − 1."""
    if not isinstance(index, int | np.integer) or isinstance(index, bool) or not 0 <= index < n:
        raise ValueError(f"{name} is {index!r}; it must be " + (f"0 to {n - 1}" if n > 1 else "0"))


def check_name(name: Any, config: GPT2Config) -> None:
    """Raise ValueError if this is not a result with one vector for each position."""
    match = re.fullmatch(VECTORS, name) if isinstance(name, str) else None
    if match is None:
        wanted = "a result with one vector for each position, such as 'h.0.resid_post'"
        raise ValueError(f"name is {name!r}; it must be {wanted}")
    if match[1] is not None:
        check_index("layer", int(match[1]), config.n_layer)


def check_head_vector(name: Any) -> None:
    """Raise ValueError if this is not a result of which each head has its own vectors."""
    if not str(name).endswith(HEAD_VECTORS):
        raise ValueError(f"{name} has no heads; a head can be chosen for {', '.join(HEAD_VECTORS)}")


def check_queries(edges: Iterable[Edge]) -> None:
    """Raise ValueError if a query has lost all its keys: then its weights are 0/0."""
    for (layer, head, query), n in Counter((e.layer, e.head, e.query) for e in edges).items():
        if n > query:
            raise ValueError(f"query {query} of head {head} in block {layer} has no key left; keep one of its edges")
