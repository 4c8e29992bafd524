"""Write GPT-2's functions yourself, and be told after each one what exactly is wrong with it.

`python -m numpy_gpt2.learn` writes my_gpt2.py, a file with the functions' signatures and docstrings, and checks it. In
a notebook, `learn.check(layer_norm)` checks a function. README.md shows the first ten minutes.

exercise.py, exercises/    the exercises: a function of the package, hints, and the inputs that it is checked with
source.py, mistakes/       from a function's source: a stub, and the same function with a known mistake
compare.py, seen.py        outcomes of calls, their distance, and what can be seen of wrong numbers
diagnosis.py, hooks.py     right, or what exactly is wrong
numerical.py               numerical gradients of the learner's own forward functions
own.py                     the learner's functions: found, completed, and put in the place of the package's
checking.py                all functions of a file or a notebook, from the top
file.py, notebook.py       my_gpt2.py and my_gpt2.ipynb
process.py                 a learner's file runs in a process of its own, with a time limit
milestones.py              what the learner's functions can do together
__main__.py                the command
"""

from __future__ import annotations

from .checking import check, run
from .diagnosis import Report

__all__ = ["Report", "check", "run"]
