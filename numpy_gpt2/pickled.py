"""pytorch_model.bin -> arrays, without PyTorch and without executing its contents.

`torch.save` writes a pickle: a program for a small stack machine that builds objects again. Python's own `pickle.load`
lets this program import and call anything, so a file from a stranger can run any command. Here, `unpickle` carries out
the few operations that a dict of tensors needs. The names in a pickle are looked up in the table `ALLOWED`. Any other
name or operation is an error.

The pickle describes tensors: which storage, which offset, shape and strides. The numbers are beside it, one run of
bytes per storage. The arrays are views of the memory-mapped file. Each view is checked against the size of its storage.

Source: torch/serialization.py and torch/_utils.py of PyTorch 2.13.
"""

from __future__ import annotations

import io
import math
import pickle
import struct
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

ZIP_SIGNATURE = b"PK\3\4"  # of an entry's header; files of torch.save since PyTorch 1.6 begin with it
LEGACY_HEADER = (0x1950A86A20F9469CFC6C, 1001)  # the first two pickles of files before PyTorch 1.6

MAX_PICKLE = 1 << 20  # bytes; GPT-2 XL needs 97 kB. An operation of one byte can allocate about 100 bytes
WAY_OUT = "save model.state_dict()"
NOT_NEEDED = f"weights do not need; nothing in the file was run. To make a file that can be read, {WAY_OUT}"
MAX_DIMENSIONS = 64  # NumPy's limit

OPERATIONS = {getattr(pickle, name): name for name in pickle.__all__ if name.isupper()}
NUMBERS = {  # the number behind an operation; a length for LONG1 and strings
    **dict.fromkeys((pickle.PROTO, pickle.BININT1, pickle.BINPUT, pickle.BINGET), "<B"),
    **dict.fromkeys((pickle.LONG1, pickle.SHORT_BINUNICODE), "<B"),
    **dict.fromkeys((pickle.LONG_BINPUT, pickle.LONG_BINGET, pickle.BINUNICODE), "<I"),
    **{pickle.BININT: "<i", pickle.BININT2: "<H", pickle.BINFLOAT: ">d", pickle.FRAME: "<Q"},
}


@dataclass(frozen=True)
class StorageType:
    """The dtype of a storage, in the words of safetensors, and the bytes of one number."""

    dtype: str
    itemsize: int


@dataclass(frozen=True)
class Storage:
    """A run of `size` numbers in the file."""

    key: str
    type: StorageType
    size: int


@dataclass(frozen=True)
class Tensor:
    """A view of a storage. `offset` and `strides` count numbers, not bytes."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


def is_size(value: object) -> bool:
    """Whether a value from a pickle is an integer that NumPy can use as a size."""
    return type(value) is int and 0 <= value < 1 << 63


def as_storage(kind: Any, type_: Any, key: Any, location: Any, size: Any, view: Any = None) -> Storage:
    """Stands for the reference ("storage", type, key, device, length), which files before PyTorch 1.6 end with None."""
    if kind != "storage" or type(type_) is not StorageType or type(key) is not str or not is_size(size) or view:
        raise TypeError
    return Storage(key, type_, size)


def rebuild_tensor(
    storage: Any, offset: Any, shape: Any, strides: Any, gradient: Any, hooks: Any, flags: Any = None
) -> Tensor:
    """Stands for `torch._utils._rebuild_tensor_v2`. `flags` would say that the stored numbers are to be negated."""
    if not isinstance(storage, Storage) or type(shape) is not tuple or type(strides) is not tuple or flags:
        raise TypeError
    if len(shape) != len(strides) or len(shape) > MAX_DIMENSIONS:
        raise ValueError(f"a tensor has {len(shape)} dimensions and {len(strides)} strides")
    if not (is_size(offset) and all(map(is_size, shape + strides))):
        raise ValueError("a tensor has an offset, a shape or strides that are not 64-bit integers from 0 on")
    strides = tuple(stride if n > 1 and 0 not in shape else 0 for n, stride in zip(shape, strides, strict=True))
    end = offset + (0 if 0 in shape else 1 + sum((n - 1) * stride for n, stride in zip(shape, strides, strict=True)))
    if end > storage.size:
        raise ValueError(f"a tensor ends at number {end} of its storage, which has {storage.size}")
    return Tensor(storage, offset, shape, strides)


ALLOWED: dict[str, Any] = {  # what a pickle may refer to, and what stands for it here
    "collections.OrderedDict": lambda: {},
    "torch._utils._rebuild_tensor_v2": rebuild_tensor,
    "torch._utils._rebuild_parameter": lambda tensor, gradient, hooks: tensor,
    "torch._utils._rebuild_parameter_with_state": lambda tensor, gradient, hooks, state: tensor,
    "torch.DoubleStorage": StorageType("F64", 8),
    "torch.FloatStorage": StorageType("F32", 4),
    "torch.HalfStorage": StorageType("F16", 2),
    "torch.BFloat16Storage": StorageType("BF16", 2),
    "torch.LongStorage": StorageType("I64", 8),
    "torch.IntStorage": StorageType("I32", 4),
    "torch.ShortStorage": StorageType("I16", 2),
    "torch.CharStorage": StorageType("I8", 1),
    "torch.ByteStorage": StorageType("U8", 1),
    "torch.BoolStorage": StorageType("BOOL", 1),
}


def read_pickled(path: Path, dtypes: Mapping[str, str], skip: Callable[[str], bool]) -> dict[str, np.ndarray]:
    """Memory-map a file of `torch.save` and return a read-only view for each tensor, except those that `skip` names.

    `dtypes` maps the allowed dtypes to NumPy's. `{"state_dict": tensors}` is unwrapped. Raises ValueError if the file
    holds anything else than tensors of these dtypes, or if it is damaged.
    """
    try:
        data = np.memmap(path, np.uint8, mode="r").view(np.ndarray)
        is_zip = data[:4].tobytes() == ZIP_SIGNATURE
        tensors, contents = read_zip(path, data) if is_zip else read_legacy(data)
        if isinstance(tensors, dict) and "state_dict" in tensors:
            tensors = tensors["state_dict"]
        if not isinstance(tensors, dict):
            kind = type(tensors).__name__
            raise ValueError(f"it holds an object of type {kind}; it must hold a dict of tensors, so {WAY_OUT}")
        names = [name for name in tensors if not skip(name)]
        return {name: view(name, tensors[name], contents, dtypes, len(data)) for name in names}
    except ValueError as error:
        reason = " ".join(str(error).split())[:300]
        raise ValueError(f"{path} cannot be read as weights of PyTorch: {reason}") from None


def view(
    name: str, tensor: object, contents: dict[str, np.ndarray], dtypes: Mapping[str, str], limit: int
) -> np.ndarray:
    """The array that a `Tensor` describes, as a view of the content of its storage. It has at most `limit` numbers."""
    if not isinstance(tensor, Tensor):
        raise ValueError(f"{name!r:.100} is of type {type(tensor).__name__}; it must be a tensor, so {WAY_OUT}")
    kind = tensor.storage.type
    if kind.dtype not in dtypes:
        raise ValueError(f"{name!r:.100} is stored as {kind.dtype}; it must be one of {', '.join(dtypes)}")
    if math.prod(tensor.shape) > limit:  # strides of 0 make this possible
        raise ValueError(f"{name!r:.100} has more numbers than the file has bytes, {limit:,}")
    strides = [kind.itemsize * stride for stride in tensor.strides]
    return np.ndarray(
        tensor.shape, dtypes[kind.dtype], contents[tensor.storage.key], kind.itemsize * tensor.offset, strides
    )


def read_zip(path: Path, data: np.ndarray) -> tuple[object, dict[str, np.ndarray]]:
    """The object in a zip archive, and the contents of its storages. The archive's folder may have any name."""
    entries = zip_entries(path)
    roots = [name.removesuffix("/data.pkl") for name in entries if name.endswith("/data.pkl") and name.count("/") == 1]
    if len(roots) != 1:
        raise ValueError(f"its zip archive has {len(roots)} files data.pkl; it must have one")

    def content(name: str) -> np.ndarray:
        if (entry := entries.get(f"{roots[0]}/{name}")) is None:
            raise ValueError(f"its zip archive has no file {name!r:.100}")
        return stored_bytes(entry, data)

    if f"{roots[0]}/byteorder" in entries and content("byteorder")[:7].tobytes() != b"little":
        raise ValueError("its byte order is not little-endian")
    program = content("data.pkl")
    if program.size > MAX_PICKLE:
        raise ValueError(f"its pickle is {program.size:,} bytes long; it must be at most {MAX_PICKLE:,}")
    value, storages = unpickle(io.BytesIO(program.tobytes()))
    return value, {key: checked(content(f"data/{key}"), storage) for key, storage in storages.items()}


class ZipDirectory(io.FileIO):
    """A file from which `zipfile` can read a list of entries of limited length."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is not None and size > MAX_PICKLE:
            raise ValueError(f"its zip archive has a list of {size:,} bytes; it must have at most {MAX_PICKLE:,}")
        return super().read(-1 if size is None else size)


def zip_entries(path: Path) -> dict[str, zipfile.ZipInfo]:
    """The entries of a zip archive by name."""
    try:
        with ZipDirectory(path) as file, zipfile.ZipFile(file) as archive:
            return {entry.filename: entry for entry in archive.infolist()}
    except (OSError, EOFError, OverflowError, NotImplementedError, struct.error, zipfile.BadZipFile) as error:
        raise ValueError(f"its zip archive is damaged: {error}") from None


def stored_bytes(entry: zipfile.ZipInfo, data: np.ndarray) -> np.ndarray:
    """The bytes of an entry that is stored without compression. They begin behind the entry's own header."""
    name = f"the file {entry.filename!r:.100} of its zip archive"
    if entry.compress_type != zipfile.ZIP_STORED or entry.flag_bits & 1 or entry.volume:
        raise ValueError(f"{name} is compressed, encrypted or on another disk; it must be stored")
    offset = entry.header_offset
    if not (0 <= offset <= len(data) - 30 and data[offset : offset + 4].tobytes() == ZIP_SIGNATURE):
        raise ValueError(f"{name} has no header at byte {offset}")
    lengths = struct.unpack("<HH", data[offset + 26 : offset + 30].tobytes())  # of its name and its extra fields
    start = offset + 30 + sum(lengths)
    if entry.compress_size != entry.file_size or start + entry.file_size > len(data):
        raise ValueError(f"{name} has {entry.file_size:,} bytes; the archive ends before")
    return data[start : start + entry.file_size]


def read_legacy(data: np.ndarray) -> tuple[object, dict[str, np.ndarray]]:
    """The object in a file from before PyTorch 1.6, and the contents of its storages.

    Five pickles come first: a constant, a version, facts about the machine, the object, and the storages' keys. Then
    the storages follow in this order, each with its length (8 bytes) in front. They are always little-endian.
    """
    stream = io.BytesIO(data[:MAX_PICKLE].tobytes())
    if (unpickle(stream)[0], unpickle(stream)[0]) != LEGACY_HEADER:
        raise ValueError("it does not begin as torch.save writes it")
    unpickle(stream)
    value, storages = unpickle(stream)
    keys, _ = unpickle(stream)
    if type(keys) is not list or not all(type(key) is str and key in storages for key in keys):
        raise ValueError("its list of storages is not valid")
    contents, start = {}, stream.tell()
    for key in keys:
        end = start + 8 + storages[key].size * storages[key].type.itemsize
        if int.from_bytes(data[start : start + 8].tobytes(), "little") != storages[key].size:
            raise ValueError(f"the storage {key!r:.100} does not have the length that its tensors need")
        contents[key], start = checked(data[start + 8 : end], storages[key]), end
    if missing := storages.keys() - contents.keys():
        raise ValueError(f"the storage {min(missing)!r:.100} is missing")
    return value, contents


def checked(content: np.ndarray, storage: Storage) -> np.ndarray:
    """The content of a storage, if it has the right length."""
    if content.size != storage.size * storage.type.itemsize:
        raise ValueError(
            f"the storage {storage.key!r:.100} is {content.size:,} bytes long; it must have {storage.size:,} numbers of"
            f" {storage.type.itemsize} bytes"
        )
    return content


def look_up(module: object, name: object) -> Any:
    """What stands for a class or function that a pickle refers to. Nothing is imported."""
    if type(module) is not str or type(name) is not str:
        raise TypeError
    if (full_name := f"{module}.{name}") not in ALLOWED:
        raise ValueError(f"it refers to {full_name!r:.100}, which {NOT_NEEDED}")
    return ALLOWED[full_name]


def call(function: Any, arguments: Any) -> Any:
    """The result of a call in a pickle. Only what is in `ALLOWED` is called."""
    name = next((name for name, value in ALLOWED.items() if value is function), None)
    if name is None or type(arguments) is not tuple:
        raise TypeError
    try:
        return function(*arguments)
    except TypeError:
        raise ValueError(f"it calls {name!r} with arguments that {NOT_NEEDED}") from None


def pop(stack: list[Any], n: int) -> list[Any]:
    """Remove the last n items of a stack and return them."""
    if len(stack) < n:
        raise IndexError
    items = stack[-n:]
    del stack[-n:]
    return items


def extend(target: object, items: list[Any]) -> None:
    """Append items to a list, or put keys and values, which alternate, into a dict.

    Keys are strings. Integers, which optimizers use, are dropped. Any other key is an error: to hash a deeply nested
    tuple can overflow the stack or take forever.
    """
    if type(target) is list:
        target += items
    elif type(target) is dict and len(items) % 2 == 0 and all(type(key) in (str, int) for key in items[::2]):
        target.update((key, value) for key, value in zip(items[::2], items[1::2], strict=True) if type(key) is str)
    else:
        raise TypeError


def read(stream: io.BytesIO, n: int) -> bytes:
    """The next n bytes of a pickle."""
    if len(data := stream.read(n)) < n:
        raise ValueError("its pickle has no end")
    return data


def read_number(stream: io.BytesIO, operation: bytes) -> Any:
    """The number behind an operation."""
    return struct.unpack(NUMBERS[operation], read(stream, struct.calcsize(NUMBERS[operation])))[0]


def read_line(stream: io.BytesIO) -> str:
    """The next line of a pickle."""
    return stream.readline().removesuffix(b"\n").decode()


def unpickle(stream: io.BytesIO) -> tuple[Any, dict[str, Storage]]:
    """The object that the next pickle in a stream describes, and all storages that it mentions, by key.

    The object can only consist of None, numbers, strings, tuples, lists, dicts and the classes above. None of them has
    a method that a pickle could call. Raises ValueError for everything else.
    """
    storages: dict[str, Storage] = {}
    try:
        stack: list[Any] = []
        below: list[list[Any]] = []  # a mark sets the stack aside and starts a new one
        memo: dict[int, Any] = {}
        while True:
            operation = read(stream, 1)
            match operation:
                case pickle.PROTO | pickle.FRAME:
                    read_number(stream, operation)
                case pickle.STOP:
                    return stack.pop(), storages
                case pickle.MARK:
                    below.append(stack)
                    stack = []
                case pickle.BININT | pickle.BININT1 | pickle.BININT2 | pickle.BINFLOAT:
                    stack.append(read_number(stream, operation))
                case pickle.LONG1:
                    stack.append(int.from_bytes(read(stream, read_number(stream, operation)), "little", signed=True))
                case pickle.BINUNICODE | pickle.SHORT_BINUNICODE:
                    stack.append(read(stream, read_number(stream, operation)).decode())
                case pickle.NONE | pickle.NEWTRUE | pickle.NEWFALSE:
                    stack.append({pickle.NONE: None, pickle.NEWTRUE: True, pickle.NEWFALSE: False}[operation])
                case pickle.EMPTY_TUPLE:
                    stack.append(())
                case pickle.TUPLE1 | pickle.TUPLE2 | pickle.TUPLE3:
                    stack.append(tuple(pop(stack, int(OPERATIONS[operation][-1]))))
                case pickle.TUPLE:
                    items, stack = stack, below.pop()
                    stack.append(tuple(items))
                case pickle.EMPTY_LIST:
                    stack.append([])
                case pickle.EMPTY_DICT:
                    stack.append({})
                case pickle.APPEND | pickle.SETITEM:
                    items = pop(stack, 1 if operation == pickle.APPEND else 2)
                    extend(stack[-1], items)
                case pickle.APPENDS | pickle.SETITEMS:
                    items, stack = stack, below.pop()
                    extend(stack[-1], items)
                case pickle.BINPUT | pickle.LONG_BINPUT:
                    memo[read_number(stream, operation)] = stack[-1]
                case pickle.MEMOIZE:
                    memo[len(memo)] = stack[-1]
                case pickle.BINGET | pickle.LONG_BINGET:
                    stack.append(memo[read_number(stream, operation)])
                case pickle.GLOBAL:
                    stack.append(look_up(read_line(stream), read_line(stream)))
                case pickle.STACK_GLOBAL:
                    stack.append(look_up(*pop(stack, 2)))
                case pickle.REDUCE:
                    stack.append(call(*pop(stack, 2)))
                case pickle.BUILD:  # sets attributes: a state dict has `_metadata`, which is not needed
                    stack.pop()
                    if type(stack[-1]) is not dict:
                        raise TypeError
                case pickle.BINPERSID:
                    storage = as_storage(*stack.pop())
                    if storages.setdefault(storage.key, storage) != storage:
                        raise ValueError(f"the storage {storage.key!r:.100} has two lengths or dtypes")
                    stack.append(storage)
                case _:
                    raise ValueError(f"its pickle has the operation {OPERATIONS[operation]}, which {NOT_NEEDED}")
    except (IndexError, KeyError, TypeError):
        raise ValueError(f"its pickle is damaged before byte {stream.tell()}") from None
