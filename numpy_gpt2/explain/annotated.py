"""The annotated source: `model.py` and `backward.py` in two columns, with the numbers of one prompt."""

from __future__ import annotations

import ast
import inspect
import re
from collections.abc import Callable, Iterator
from html import escape
from types import ModuleType
from typing import Any

import numpy as np

from .. import backward, model
from ..checkpoint import Model
from ..tokenizer import prompt_ids
from .analysis import norm
from .calls import Call, functions_of, watch
from .page import asset, content_hash, dimensions
from .visible import token_text

PROMPT = "To be, or not to be, that is the question"
N_NUMBERS = 4  # of a row
KEYWORDS = "def|return|for|in|if|else|is|not|and|or|None|True|False|raise|lambda"
SYNTAX = re.compile(
    r"(?P<string>f?\"[^\"\n]*\")|(?P<comment>#.*)|(?<=def )(?P<defined>\w+)|\b(?P<keyword>" + KEYWORDS + r")\b"
)
SHAPE = re.compile(r"\((?:\.\.\., )?\d?[BTSCHDVL](?:, \d?[BTSCHDVL])*,?\)")


def annotated_html(loaded: Model, prompt: str) -> str:
    """The page, as one HTML file without a script. Raises ValueError for a prompt of fewer than two tokens."""
    config, tokenizer = loaded.config, loaded.tokenizer
    ids = np.array(prompt_ids(prompt, tokenizer))[: config.n_positions + 1]
    if len(ids) < 2:
        raise ValueError("the prompt has 1 token; it must have 2 or more, because the loss is that of the next tokens")
    weights = {name: np.asarray(weight) for name, weight in loaded.weights.items()}
    with watch(model, backward) as calls:
        loss, _ = backward.loss_and_gradients(ids[:-1], ids[1:], weights, config)
    T, style = len(ids) - 1, asset("page.css") + asset("annotated.css")
    sizes = {**dimensions(config, T), "4C": config.inner_size}
    tokens = [f"<li>{escape(token_text(token, loaded))}<small>{token}</small></li>" for token in ids.tolist()]
    contents = {
        "STYLE": style,
        "STYLE_HASH": content_hash(style),
        "TOKENS": "".join(tokens),
        "FACTS": escape(f"The model {tokenizer.name} predicts each of the last {T} tokens: a loss of {loss:.4f} nats."),
        "MODULES": "".join(module_html(module) for module in (model, backward)),
        "FUNCTIONS": "\n".join(rows(shown_calls(calls), sizes)),
    }
    return re.sub("__([A-Z_]+)__", lambda match: contents[match[1]], asset("annotated.html"))


def shown_calls(calls: list[Call]) -> dict[str, Call]:
    """The first call of each f and the last call of each f_backward. Both are about the same numbers."""
    first = {call.name: call for call in reversed(calls)}
    last = {call.name: call for call in calls}
    return first | {name: call for name, call in last.items() if name.endswith("_backward")}


def rows(calls: dict[str, Call], sizes: dict[str, int]) -> Iterator[str]:
    """Each function beside its partner, in the order of the source. The others have rows to themselves."""
    forward, partners = functions_of(model), functions_of(backward)
    for name, function in forward.items():
        partner = partners.pop(f"{name}_backward", None)
        sides = [parts(f, calls, sizes) for f in (function, partner) if f is not None]
        yield row_html(sides)
    for function in partners.values():
        yield row_html([parts(function, calls, sizes)])


def row_html(sides: list[tuple[str, str, str, str]]) -> str:
    """The row of one function, or of a function and its partner."""
    if len(sides) == 2:
        forward, partner = map("".join, sides)
        return f'<section class="pair"><div>{forward}</div><div class="backward">{partner}</div></section>'
    title, prose, code, values = sides[0]
    return f'<section class="pair alone"><div>{title}{prose}</div><div>{code}{values}</div></section>'


def parts(function: Callable[..., Any], calls: dict[str, Call], sizes: dict[str, int]) -> tuple[str, str, str, str]:
    """A function's name and equation, its explanation, its code, and its numbers."""
    function = inspect.unwrap(function)
    name, (first, *paragraphs) = function.__name__, (inspect.getdoc(function) or "").split("\n\n")
    equation, _, shapes = first.partition(next(iter(re.findall(r"\. (?=\(|Any shape)", first)), "\n\n"))
    title = f"<h2>{name}<small>{function.__module__.split('.')[-1]}.py</small></h2>"
    title += f'<p class="equation">{prose_html(equation.removesuffix("."))}</p>'
    texts = [f"<p>{prose_html(text)}</p>" for text in paragraphs if not text.startswith(">>>")]
    examples = [
        f'<pre class="example"><code>{escape(text)}</code></pre>' for text in paragraphs if text.startswith(">>>")
    ]
    shapes = f'<p class="shapes">{prose_html(shapes)}</p>' if shapes else ""
    call = calls.get(name)
    values = values_html(function, call) if call else ""
    return (
        f"<div>{title}</div>",
        f'<div class="prose">{shapes}{"".join(texts + examples)}</div>',
        f"<pre><code>{highlighted(code_of(function), sizes)}</code></pre>",
        f"<div>{values}</div>",
    )


def prose_html(text: str) -> str:
    """A text of a docstring. What stands between backticks is code."""
    return re.sub("`([^`]+)`", r"<code>\1</code>", escape(text.replace("\n", " "), quote=False))


def module_html(module: ModuleType) -> str:
    """A module's docstring. Its tables and diagrams are indented, and keep their lines."""
    first, *paragraphs = (inspect.getdoc(module) or "").split("\n\n")
    name = module.__name__.rpartition(".")[2]
    html = f'<h2>{name}.py</h2><p class="equation">{prose_html(first)}</p>'
    for text in paragraphs:
        lines = re.search(r"^ {4}", text, re.MULTILINE)
        html += f"<pre><code>{escape(text)}</code></pre>" if lines else f"<p>{prose_html(text)}</p>"
    return f'<div class="prose {name}">{html}</div>'


def code_of(function: Callable[..., Any]) -> str:
    """The source of a function without its docstring."""
    source = inspect.getsource(function)
    lines, (node,) = source.splitlines(), ast.parse(source).body
    assert isinstance(node, ast.FunctionDef)
    docstring = node.body[0]  # functions of --with get one that is not in their source
    if ast.get_docstring(node) is None:
        return source
    return "\n".join([*lines[: docstring.lineno - 1], *lines[docstring.end_lineno :]])


def highlighted(code: str, sizes: dict[str, int]) -> str:
    """Code as HTML. A comment that is a shape also gets the sizes."""

    def mark(match: re.Match[str]) -> str:
        kind, text = match.lastgroup, match[0]
        shape = SHAPE.search(text) if kind == "comment" else None
        numbers = f' <span class="shape">= {sized(shape[0], sizes)}</span>' if shape else ""
        return f'<span class="{kind}">{escape(text)}</span>{numbers}'

    html, end = "", 0
    for match in SYNTAX.finditer(code):
        html += escape(code[end : match.start()]) + mark(match)
        end = match.end()
    return html + escape(code[end:])


def sized(shape: str, sizes: dict[str, int]) -> str:
    """A shape in numbers.

    >>> sized("(..., T, 3C)", {"T": 9, "C": 256})
    '(..., 9, 768)'
    """

    def number(match: re.Match[str]) -> str:
        return str(sizes.get(match[0]) or int(match[1] or 1) * sizes[match[2]])

    return re.sub("(\\d?)([A-Z])", number, shape)


def values_html(function: Callable[..., Any], call: Call) -> str:
    """A table of what a function was given and what it returned: for f_backward, the gradients of what f is given."""
    results = call.result if isinstance(call.result, tuple) else (call.result,)
    names = ["→"] * len(results)
    if call.name.endswith("_backward"):
        names = [f"d{name}" for name in inspect.signature(vars(model)[call.name.removesuffix("_backward")]).parameters]
    given = zip(inspect.signature(function).parameters, call.arguments, strict=False)
    rows = [value_row("given", *pair) for pair in given]
    rows += [value_row("result", *pair) for pair in zip(names, results, strict=False)]
    return f'<table class="values"><tbody>{"".join(rows)}</tbody></table>'


def value_row(kind: str, name: str, value: Any) -> str:
    """The row of an array, a number, or a result that is a dict of gradients. Other values have no row."""
    shape = length = ""
    if isinstance(value, np.ndarray) and value.ndim:
        shape = str(value.shape).replace(",)", ")")
        numbers = value.reshape(-1, value.shape[-1])[-1]
        text = " ".join(map(number_text, numbers[:N_NUMBERS])) + " …" * (len(numbers) > N_NUMBERS)
        if value.dtype.kind == "f":
            length = number_text(norm(value.reshape(-1)))
    elif isinstance(value, dict) and kind == "result":
        lengths = [norm(gradient.reshape(-1)) for gradient in value.values()]
        shape, text = f"{len(value)} arrays", f"lengths from {number_text(min(lengths))} to {number_text(max(lengths))}"
    elif isinstance(value, (int, float, np.number)):
        text = number_text(value)
    else:
        return ""
    cells = f'<td class="mono">{shape}</td><td class="number">{length}</td><td class="row">{text}</td>'
    return f'<tr class="{kind}"><th>{name}</th>{cells}</tr>'


def number_text(x: Any) -> str:
    """A number with four digits.

    >>> number_text(-1234.4), number_text(7)
    ('−1234', '7')
    """
    return (
        str(int(x)) if isinstance(x, (int, np.integer, np.bool_)) else f"{x:.4g}".replace("-", "−").replace("inf", "∞")
    )
