"""int8 weights: a model in a quarter of the memory, behind the same `x @ weight`.

Each output channel n of a matrix has a scale of its own, and its weights are whole multiples of it:

    W[:, n] ≈ scale[n] · q[n],    scale[n] = max |W[:, n]| / 127,    q[n] = W[:, n] / scale[n], rounded: −127 … 127

This is symmetric quantisation by vector, as in Dettmers et al. 2022, "LLM.int8()", section 2.1, of the weights alone:
activations stay float32, and to be multiplied with, whole numbers are widened to float32, some at a time, into memory
that stays in the processor's caches. A token reads a quarter of the bytes, and it is the widening that takes the time.
"""

from __future__ import annotations

import itertools
import json
import queue
import threading
import warnings
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import safetensors

from .config import GPT2Config
from .console import progress_bar
from .files import staged_writes
from .model import output_head
from .threads import limits, one_thread_a_product, thread_count
from .weights import (
    Weights,
    as_dtype,
    check_names_and_shapes,
    map_tensors,
    read_tensors,
    save_tensors,
    weight_files,
)

FILE = "model.int8.safetensors"
SCALES = ".scales"  # after a matrix's name: its scales

BLOCK = 3 << 19  # weights that are widened at once: from memory, this goes faster than what fits a core's own cache
PRODUCT = 1 << 18  # weights of one product with a vector: so few, BLAS does not share out among threads of its own

INT8 = {"I8": "i1", "F32": "<f4"}

TABLES = ("wte.weight", "lm_head.weight")  # a row for each output channel; the other matrices have a column


class Int8Matrix:
    """An (N, C) matrix as int8, with a scale for each row. It looks up rows, and hands out its transpose.

    `np.asarray` widens all of it. `n_threads` share out the products.
    """

    __array_ufunc__ = None  # NumPy leaves `x @ matrix` to the matrix
    dtype, ndim = np.dtype(np.float32), 2

    def __init__(self, values: np.ndarray, scales: np.ndarray, n_threads: int = 1) -> None:
        self.values, self.scales, self.shape = values.view(), scales, values.shape
        self.values.flags.writeable = False  # what is widened already would not change
        self.T = Int8Transpose(self, n_threads)

    def __getitem__(self, rows) -> np.ndarray:
        return self.values[rows] * self.scales[rows][..., None]

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        return np.asarray(self[:], dtype)

    def __rmatmul__(self, x: np.ndarray) -> np.ndarray:
        return x @ np.asarray(self)


class Int8Transpose:
    """The transpose of an `Int8Matrix`, (C, N): what activations are multiplied with, `x @ transpose`."""

    __array_ufunc__ = None
    dtype, ndim = np.dtype(np.float32), 2

    def __init__(self, matrix: Int8Matrix, n_threads: int) -> None:
        self.T, self.shape = matrix, matrix.shape[::-1]
        N = len(matrix.values)
        cuts = [N * i // n_threads for i in range(n_threads + 1)]
        self.shares = [Share(matrix.values, *ends) for ends in itertools.pairwise(cuts)]
        self.next = self  # in the order of the forward pass, when that is known

    def __getitem__(self, rows) -> np.ndarray:
        return np.asarray(self)[rows]

    def __array__(self, dtype=None, copy=None) -> np.ndarray:
        return np.asarray(self.T, dtype).T

    def __rmatmul__(self, x: np.ndarray) -> np.ndarray:
        C, N = self.shape
        rows = x.reshape(-1, C)
        y = np.empty((len(rows), N), np.result_type(x, self.dtype))
        multiply(rows, self, y)
        y *= self.T.scales
        return y.reshape(*x.shape[:-1], N)


class Share:
    """The part of a matrix that is one thread's, from row to row, in blocks that are widened at once."""

    def __init__(self, values: np.ndarray, start: int, end: int) -> None:
        n = max(1, BLOCK // values.shape[1])  # rows
        places = [slice(i, min(i + n, end)) for i in range(start, end, n)]
        self.blocks = [(place, values[place]) for place in places]

    def multiply(self, x: np.ndarray, y: np.ndarray) -> None:
        """x · rows, without their scales, into their place in y. `np.dot` lets other threads run, while `@` may not."""
        for place, block in self.blocks:
            floats = scratch.widen(block)
            if len(x) == 1:
                n, out = max(1, PRODUCT // floats.shape[1]), y[0, place]
                for i in range(0, len(floats), n):
                    np.dot(floats[i : i + n], x[0], out=out[i : i + n])
            else:
                y[:, place] = np.dot(x, floats.T)

    def prepare(self) -> None:
        """Widen the first block, so that it is there when x is."""
        for _, block in self.blocks[:1]:
            scratch.widen(block)


class Scratch(threading.local):
    """Each thread's own float32 memory, and which block is in it."""

    def __init__(self) -> None:
        self.floats = np.empty(BLOCK, np.float32)
        self.block: np.ndarray | None = None

    def widen(self, block: np.ndarray) -> np.ndarray:
        """The block in float32, until the next one."""
        if block is not self.block:
            self.block = None
            if block.size > self.floats.size:
                self.floats = np.empty(block.size, np.float32)
            np.copyto(self.floats[: block.size], block.reshape(-1))
            self.block = block
        return self.floats[: block.size].reshape(block.shape)


scratch = Scratch()


class Helper(threading.Thread):
    """A thread that multiplies its share when it is told to, and then prepares for what comes next."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.tasks: queue.SimpleQueue = queue.SimpleQueue()
        self.start()

    def run(self) -> None:
        while True:
            self.serve(*self.tasks.get())

    def serve(self, share: Share, following: Share, x: np.ndarray, y: np.ndarray, done: queue.SimpleQueue) -> None:
        """One task. What goes wrong is raised by who waits for it."""
        try:
            share.multiply(x, y)
            done.put(None)
            following.prepare()
        except BaseException as error:
            done.put(error)


helpers: list[Helper] = []
helpers_are_free = threading.Lock()


def multiply(x: np.ndarray, matrix: Int8Transpose, y: np.ndarray) -> None:
    """y = x times the matrix, without its scales: one share in this thread, the others in helpers if they are free.

    Where products are limited to one thread, the threads have been given other work.
    """
    mine, *theirs = matrix.shares
    free = bool(theirs) and not limits and helpers_are_free.acquire(blocking=False)
    try:
        if not free:
            for share in matrix.shares:
                share.multiply(x, y)
            return
        if helpers and not helpers[0].is_alive():  # left behind when the process was forked
            helpers.clear()
        helpers.extend(Helper() for _ in theirs[len(helpers) :])
        done: queue.SimpleQueue = queue.SimpleQueue()
        with one_thread_a_product() if len(x) > 1 else nullcontext():
            for helper, share, following in zip(helpers, theirs, matrix.next.shares[1:], strict=False):
                helper.tasks.put((share, following, x, y, done))
            mine.multiply(x, y)
            for _ in theirs:
                if error := done.get():
                    raise error
    finally:
        if free:
            helpers_are_free.release()


def load_int8(folder: str | Path) -> Weights:
    """The weights of a model folder with its matrices in int8, wpe apart: each is an `Int8Matrix` or its transpose.

    They are quantised once and kept in `model.int8.safetensors` beside the model, which is made again when the model's
    files have changed. Raises what `load_weights` does.
    """
    folder = Path(folder)
    config = GPT2Config.from_json(folder / "config.json")
    paths = [folder / "config.json", *weight_files(folder)]
    files = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in paths]
    metadata = {"int8, first format, of": json.dumps(files)}
    tensors = dict(map_tensors(folder / FILE, INT8)) if metadata_of(folder / FILE) == metadata else None
    if tensors is None:
        tensors = quantize_all(read_tensors(folder))
        try:
            with staged_writes(folder) as aside:
                save_tensors(aside / FILE, tensors, metadata)
            tensors = dict(map_tensors(folder / FILE, INT8))
        except OSError as error:
            warnings.warn(f"the int8 weights are made anew each time: {error}", stacklevel=2)

    n_threads = thread_count()
    weights: dict[str, Any] = {}
    for name, tensor in tensors.items():
        if name + SCALES in tensors:
            matrix = Int8Matrix(tensor, tensors[name + SCALES], n_threads)
            weights[name] = matrix if name in TABLES else matrix.T
        elif not name.endswith(SCALES):
            weights[name] = tensor
    check_names_and_shapes(weights, config, folder)
    head = output_head(weights).T
    matrices = [weights[name] for name in config.parameter_shapes() if isinstance(weights[name], Int8Transpose)]
    for matrix, following in itertools.pairwise([head, *matrices, head]):  # the order in which a token needs them
        matrix.next = following
    return weights


def metadata_of(path: Path) -> dict[str, str] | None:
    """What a safetensors file says about itself; None where there is none, or none that is whole."""
    try:
        with safetensors.safe_open(path, framework="np") as file:
            return file.metadata()
    except (OSError, safetensors.SafetensorError):
        return None


def quantize_all(tensors: Weights) -> Weights:
    """Every matrix but wpe as int8, (N, C), and its scales; the rest in float32."""
    quantized: Weights = {}
    for name in progress_bar(iterable=tensors, desc="int8", unit="tensor", delay=1, leave=False):
        tensor = as_dtype(tensors[name], np.dtype(np.float32))
        if tensor.ndim == 2 and name != "wpe.weight":
            quantized[name], quantized[name + SCALES] = quantize(tensor if name in TABLES else tensor.T, name)
        else:
            quantized[name] = tensor
    return quantized


def quantize(matrix: np.ndarray, name: str) -> tuple[np.ndarray, np.ndarray]:
    """A matrix (N, C) as int8, and the scale of each row. Raises ValueError for numbers that are none."""
    largest = np.maximum(matrix.max(axis=1), -matrix.min(axis=1))
    if not np.isfinite(largest).all():
        raise ValueError(f"{name} holds numbers that are not finite; the weights are damaged")
    scales = largest / 127
    scales[scales == 0] = 1
    values = np.empty(matrix.shape, np.int8)
    for place, block in Share(matrix, 0, len(matrix)).blocks:
        values[place] = np.rint(block / scales[place, None])
    return values, scales
