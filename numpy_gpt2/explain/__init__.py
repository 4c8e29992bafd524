"""One prompt, followed through the code step by step: on a page, in the terminal, or as arrays.

analysis.py                        what is computed, from the arrays that a hook records
interventions.py                   changes inside a forward pass: heads removed, results patched from a second prompt
contributions.py                   what each part adds to a logit, the tokens it promotes, and where heads look
calls.py                           what each function of the core was given and returned, while it runs
gradients.py                       the gradients of the next tokens' log-probabilities, by backward.py
annotated.py, .html, .css          model.py and backward.py side by side, with the numbers of one prompt
visible.py                         tokens as text in which every character can be seen
page.py, page.html, .css, script/  the page: one HTML file that loads nothing else
size.py                            the size of the page, known before anything is computed
server.py, live.html, .css         the live page of `--serve`, and its server
answers.py                         what the server answers, one part at a time
turns.py                           long computations take turns, and stop between two results
compare.py                         two passes compared: before and after interventions, two prompts; tracing
text.py                            the report in the terminal
__main__.py                        the command, `python -m numpy_gpt2.explain "PROMPT"`
"""

from __future__ import annotations

import sys
from html import escape
from pathlib import Path
from types import ModuleType

from ..checkpoint import Model, load
from ..console import progress_bar
from ..hub import choose_model
from ..model import identity
from .analysis import MAX_TOKENS, Analysis, analyze
from .gradients import gradients_of
from .interventions import Hook
from .page import page_html
from .text import text_report

__all__ = ["Explanation", "explain"]


class Explanation(Analysis):
    """An analysis with a page and a report. `explanation["h.3.attn.pattern"]` is an array; `keys()` lists them."""

    def page(self) -> str:
        """The page, as HTML that loads nothing else."""
        return page_html(self)

    def text(self, width: int = 100) -> str:
        """The report for a terminal of this width."""
        return text_report(self, width)

    def _repr_html_(self) -> str:
        """The page inside a frame, for a notebook."""
        return f'<iframe srcdoc="{escape(self.page())}" style="width: 100%; height: 50rem; border: 0"></iframe>'


def explain(
    prompt: str,
    model: Model | str | Path | None = None,
    *,
    target: str | None = None,
    ablate: bool = False,
    gradients: bool = False,
    max_tokens: int = MAX_TOKENS,
    hook: Hook = identity,
    progress: bool = False,
) -> Explanation:
    """Run a prompt through a model and keep everything that can be shown about it.

    `model` is the result of `load`, or a name for it; the default is the model that the commands use. `target` is the
    text whose probability is explained; the default is the most probable next token. `ablate` removes each head and
    each MLP in turn and measures the effect. `gradients` runs the backward pass for each next token. A prompt of more
    than `max_tokens` tokens is cut from the left. `hook` changes intermediate results, see interventions.py. `progress`
    shows progress bars.

    Raises ValueError for an empty target, for a target that is longer than the window, for damaged weights, and for
    `gradients` with a `hook`.
    """
    if gradients and hook is not identity:
        raise ValueError("backward.py does not know what the hook changes; leave out gradients, or leave out the hook")
    if not isinstance(model, Model):
        model = load(choose_model(None) if model is None else model)
    analysis = analyze(prompt, model, target, ablate, max_tokens, hook, progress)
    if gradients:
        steps = {"total": len(analysis.tokens), "unit": "token", "desc": "gradients", "disable": not progress}
        for arrays in progress_bar(iterable=gradients_of(analysis), **steps):
            analysis.arrays.update(arrays)
    return Explanation(**vars(analysis))


class CallableModule(ModuleType):
    """After `from numpy_gpt2 import explain`, the name is this package. A call of it calls the function."""

    __call__ = staticmethod(explain)


sys.modules[__name__].__class__ = CallableModule
