"""Files of `torch.save` that are made by hand, most of them hostile."""

import io
import pickle
import struct
import zipfile

import numpy as np

from numpy_gpt2.pickled import MAX_PICKLE


def plain(value):
    """The operations that put a plain Python object on the stack."""
    return pickle.dumps(value, 2)[2:-1]


def named(full_name):
    return "c{}\n{}\n".format(*full_name.rsplit(".", 1)).encode()


def storage(key="0", size=6, type_="torch.FloatStorage", kind="storage", end=b""):
    return b"(" + plain(kind) + named(type_) + plain(key) + plain("cpu") + plain(size) + end + b"tQ"


def tensor(offset=0, shape=(2, 3), strides=(3, 1), of=None, flags=b""):
    arguments = plain(offset) + plain(shape) + plain(strides) + b"\x89" + named("collections.OrderedDict") + b")R"
    return named("torch._utils._rebuild_tensor_v2") + b"(" + (of or storage()) + arguments + flags + b"tR"


def state(content, name="x"):
    """A pickle of {name: content}."""
    return b"\x80\x02}" + plain(name) + content + b"s."


NUMBERS = np.arange(6, dtype="<f4").tobytes()
STORAGE = struct.pack("<q", 6) + NUMBERS


def archive(content, entries=None, root="archive", method=zipfile.ZIP_STORED):
    """A zip file as torch.save writes it."""
    file = io.BytesIO()
    entries = {"data.pkl": content, "data/0": NUMBERS} | (entries or {})
    with zipfile.ZipFile(file, "w", method) as out:
        for name, data in entries.items():
            out.writestr(f"{root}/{name}" if root else name, data)
    return file.getvalue()


def legacy(content, keys=("0",), storages=STORAGE, magic=0x1950A86A20F9469CFC6C, version=1001):
    """A file as torch.save wrote it before PyTorch 1.6."""
    header = b"".join(pickle.dumps(value, 2) for value in (magic, version, {"little_endian": True}))
    return header + content + pickle.dumps([*keys], 2) + storages


class Call:
    """Pickles to a call of a function."""

    def __init__(self, module, name, *arguments):
        self.name, self.arguments = f"{module}.{name}", arguments

    def pickled(self, protocol):
        module, name = self.name.rsplit(".", 1)
        found = f"c{module}\n{name}\n".encode() if protocol < 4 else plain(module) + plain(name) + b"\x93"
        return bytes([0x80, protocol]) + found + plain(self.arguments) + b"R."


COMMAND = "echo > canary"
PYTHON = "open('canary', 'w')"

CALLS = [
    Call("os", "system", COMMAND),
    Call("posix", "system", COMMAND),
    Call("nt", "system", COMMAND),
    Call("os", "popen", COMMAND),
    Call("os", "execvp", "touch", ["touch", "canary"]),
    Call("subprocess", "Popen", ["touch", "canary"]),
    Call("subprocess", "check_output", ["touch", "canary"]),
    Call("pty", "spawn", ["touch", "canary"]),
    Call("builtins", "eval", PYTHON),
    Call("builtins", "exec", PYTHON),
    Call("__builtin__", "eval", PYTHON),
    Call("builtins", "compile", PYTHON, "x", "exec"),
    Call("builtins", "open", "canary", "w"),
    Call("io", "open", "canary", "w"),
    Call("pathlib", "Path.touch", "canary"),
    Call("builtins", "getattr", {}, "__class__"),
    Call("builtins", "__import__", "os"),
    Call("builtins", "map", None, []),
    Call("builtins", "bytearray", 1 << 40),
    Call("builtins", "range", 1 << 60),
    Call("importlib", "import_module", "this"),
    Call("runpy", "run_path", "canary"),
    Call("operator", "attrgetter", "system"),
    Call("operator", "methodcaller", "system", COMMAND),
    Call("functools", "partial", None),
    Call("functools", "reduce", None, []),
    Call("pickle", "loads", pickle.dumps(1)),
    Call("_pickle", "loads", b"cos\nsystem\n."),
    Call("marshal", "loads", b""),
    Call("types", "CodeType"),
    Call("types", "FunctionType"),
    Call("copyreg", "_reconstructor"),
    Call("copyreg", "add_extension", "os", "system", 1),
    Call("_codecs", "encode", "x", "latin1"),
    Call("ctypes", "CDLL", "libc.so.6"),
    Call("shutil", "rmtree", "."),
    Call("webbrowser", "open", "http://127.0.0.1/"),
    Call("timeit", "timeit", PYTHON),
    Call("code", "InteractiveInterpreter.runcode", PYTHON),
    Call("collections", "defaultdict", None),
    Call("collections", "OrderedDict.fromkeys", []),
    Call("collections", "OrderedDict.__init__.__globals__", []),
    Call("numpy.core.multiarray", "_reconstruct", None, (1 << 40,), b"b"),
    Call("numpy", "fromfile", "/etc/passwd"),
    Call("numpy", "load", "x.npy", None, True),
    Call("torch", "load", "x.bin"),
    Call("torch.serialization", "load", "x.bin"),
    Call("torch.hub", "load", "owner/name", "x"),
    Call("torch", "FloatStorage.from_file", "/etc/passwd"),
    Call("torch", "FloatStorage.__init__", []),
    Call("torch.storage", "_load_from_bytes", b"x"),
    Call("torch._utils", "_rebuild_tensor_v3"),
    Call("torch._utils", "_rebuild_tensor_v2.__globals__", []),
    Call("torch._tensor", "_rebuild_from_type_v2"),
    Call("torch.jit", "load", "x"),
    Call("torch", "QInt8Storage"),
    Call("numpy_gpt2.pickled", "ALLOWED.get", "x"),
    Call("transformers.models.gpt2.modeling_gpt2", "GPT2LMHeadModel"),
    Call("__main__", "Evil"),
]

DEEP = b")" + b"\x85" * 30_000  # a tuple in a tuple in a tuple …
WIDE = b")" + b"q\0h\0\x86" * 100  # a pair of equal pairs of equal pairs …: 2¹⁰⁰ items


def over(position, value, content):
    return content[:position] + value + content[position + len(value) :]


def edited(content, signature, offset, value, last=False):
    """Change bytes behind a signature in a zip file."""
    position = content.rfind(signature) if last else content.find(signature)
    return over(position + offset, value, content)


GOOD = archive(state(tensor()))
CENTRAL, END = b"PK\1\2", b"PK\5\6"

PICKLES = {
    "a class (INST)": b"\x80\x02(ios\nsystem\n.",
    "a class (OBJ)": b"\x80\x02(" + named("torch.FloatStorage") + b"o.",
    "a new object": b"\x80\x02" + named("collections.OrderedDict") + b")\x81.",
    "a new object with keywords": b"\x80\x04" + named("collections.OrderedDict") + b")}\x92.",
    "an extension of 1 byte": b"\x80\x02\x82\x01.",
    "an extension of 4 bytes": b"\x80\x02\x84\x01\0\0\0.",
    "a persistent id as text": b"\x80\x02Pos.system\n.",
    "a call of a type": b"\x80\x02" + named("torch.FloatStorage") + b")R.",
    "a call of a storage": b"\x80\x02" + storage() + b")R.",
    "a call of a tensor": b"\x80\x02" + tensor() + b")R.",
    "a call of a string": b"\x80\x02" + plain("os.system") + plain((COMMAND,)) + b"R.",
    "a call with a list": b"\x80\x02" + named("collections.OrderedDict") + b"]R.",
    "a call with too many arguments": b"\x80\x02" + named("collections.OrderedDict") + plain((1, 2)) + b"R.",
    "items for OrderedDict": b"\x80\x02" + named("collections.OrderedDict") + b"(((lttR.",
    "attributes of a tensor": state(tensor() + plain({"__class__": 1}) + b"b"),
    "attributes of a storage": state(storage() + plain({"size": 1 << 60}) + b"b"),
    "attributes of a function": b"\x80\x02" + named("torch._utils._rebuild_tensor_v2") + plain({"x": 1}) + b"b.",
    "attributes of a type": b"\x80\x02" + named("torch.FloatStorage") + plain({"itemsize": 0}) + b"b.",
    "items of a string": b"\x80\x02" + plain("x") + plain("y") + b"a.",
    "items of a tuple": b"\x80\x02)Na.",
    "an odd number of dict items": b"\x80\x02}(Nu.",
    "a number as name of a module": b"\x80\x04K\1K\2\x93.",
    "a set": b"\x80\x04\x8f(K\1\x90.",
    "a bytearray": b"\x80\x05\x96" + struct.pack("<Q", 1 << 60) + b".",
    "a buffer": b"\x80\x05\x97.",
    "bytes": b"\x80\x05C\x01x.",
    "the top taken off": b"\x80\x02N0.",
    "a copy of the top": b"\x80\x02]2a.",
    "a long integer": b"\x80\x02\x8b" + struct.pack("<i", (1 << 31) - 1) + b"\1.",
    "a long integer of negative length": b"\x80\x02\x8b" + struct.pack("<i", -5) + b"\1.",
    "a long integer in decimal": b"\x80\x02L" + b"9" * 100_000 + b"L\n.",
    "an integer that is a name": b"\x80\x02Ios.system\n.",
    "a string of 2^60 bytes": b"\x80\x04\x8d" + struct.pack("<Q", 1 << 60) + b".",
    "a string that is not UTF-8": b"\x80\x02X\1\0\0\0\xff.",
    "a frame of 2^60 bytes": b"\x80\x04\x95" + struct.pack("<Q", 1 << 60) + b"N.",
    "place 2^32 - 1 of the memo": b"\x80\x02Nr\xff\xff\xff\xff.",
    "an empty place of the memo": b"\x80\x02h\7.",
    "an unknown operation": b"\x80\x02\xff.",
    "an unknown protocol": b"\x80\x63N.",
    "nothing": b"",
    "no end": b"\x80\x02}",
    "an end without an object": b"\x80\x02.",
    "a tuple without a mark": b"\x80\x02Nt.",
    "a pair of one": b"\x80\x02N\x86.",
    "a nested pickle": pickle.dumps(Call("os", "system", COMMAND).pickled(2), 4),
    "deep tuples": b"\x80\x02" + DEEP + b".",
    "deep tuples as a key": b"\x80\x02}" + DEEP + b"Ns.",
    "deep tuples as a shape": state(tensor().replace(plain((2, 3)), DEEP, 1)),
    "wide tuples": b"\x80\x02" + WIDE + b".",
    "wide tuples as a key": b"\x80\x02}" + WIDE + b"Ns.",
    "wide tuples in a tensor's place": state(WIDE),
    "wide tuples as arguments": b"\x80\x02" + named("collections.OrderedDict") + WIDE + b"R.",
    "a list in itself": b"\x80\x02]q\0h\0a.",
    "a dict in itself": b"\x80\x02}q\0X\x0a\0\0\0state_dicth\0s.",
    "a pickle that is too long": b"\x80\x02" + b"N0" * MAX_PICKLE + b".",
    "a name with a line break": state(plain(3), "x\nnote: it is safe"),
    "a long name": state(plain(3), "x" * 100_000),
    "a storage of two lengths": b"\x80\x02}(" + plain("x") + tensor() + plain("y") + tensor(of=storage(size=5)) + b"u.",
    "a storage of two dtypes": state(tensor(of=storage() + b"0" + storage(type_="torch.IntStorage"))),
    "no tensors": b"\x80\x02K\1.",
    "a list of tensors": b"\x80\x02]" + tensor() + b"a.",
    "a number among tensors": state(plain(3)),
    "a storage among tensors": state(storage()),
    "a type among tensors": state(named("torch.FloatStorage")),
    "tensors two levels deep": b"\x80\x02}"
    + plain("state_dict")
    + state(state(tensor())[2:-1], "state_dict")[2:-1]
    + b"s.",
    "integers": state(tensor(of=storage(type_="torch.ByteStorage", size=24))),
    "a mask of another module": state(tensor(of=storage(type_="torch.BoolStorage", size=24)), "h.0.attn.c_attn.bias"),
}

TENSORS = {
    "a negative offset": tensor(-1, (1,), (1,)),
    "a negative stride": tensor(5, (2,), (-1,)),
    "a negative size": tensor(0, (-2, -3), (3, 1)),
    "an offset behind the end": tensor(6, (1,), (1,)),
    "an offset behind the end, and nothing": tensor(7, (0,), (1,)),
    "a stride past the end": tensor(0, (2, 3), (4, 1)),
    "a huge stride": tensor(0, (2,), (1 << 61,)),
    "strides that overflow to 0": tensor(0, (5,), (1 << 62,)),
    "strides that overflow to 0 together": tensor(0, (2, 2), (1 << 62, 1 << 62)),
    "bytes that overflow to 0": tensor(0, (1 << 62, 4), (0, 0)),
    "a stride beyond 64 bits": tensor(0, (2,), (1 << 64,)),
    "a huge integer": tensor(0, (1 << 100_000,), (0,)),
    "a huge shape": tensor(0, (1 << 40,), (1,)),
    "a huge shape with strides of 0": tensor(0, (1 << 40,), (0,)),
    "a huge shape with many strides of 0": tensor(0, (1 << 9,) * 7, (0,) * 7),
    "too many dimensions": tensor(0, (1,) * 65, (1,) * 65),
    "fewer strides than dimensions": tensor(0, (2, 3), (3,)),
    "lists": tensor(0, [2, 3], [3, 1]),
    "a float": tensor(0, (2.0, 3), (3, 1)),
    "a bool": tensor(False, (1,), (1,)),
    "a string as offset": tensor("0", (1,), (1,)),
    "no storage": tensor(of=plain("0")),
    "a tensor as storage": tensor(of=tensor()),
    "negated numbers": tensor(flags=plain({"neg": True})),
    "a storage of negative length": tensor(of=storage(size=-6)),
    "a storage that is too short": tensor(0, (7,), (1,), of=storage(size=7)),
    "a storage that is too long": tensor(0, (1,), (1,), of=storage(size=5)),
    "a huge storage": tensor(0, (1 << 62,), (1,), of=storage(size=1 << 62)),
    "a storage with a larger dtype": tensor(of=storage(type_="torch.DoubleStorage")),
    "a storage outside": tensor(of=storage("../../etc/passwd")),
    "an absolute path": tensor(of=storage("/etc/passwd")),
    "a storage with a number as key": tensor(of=storage(0)),
    "a storage that is missing": tensor(of=storage("1")),
    "a view of a storage": tensor(of=storage(end=plain(("0", 1, 2)))),
    "another kind of reference": tensor(of=storage(kind="module")),
    "a reference that is a string": tensor(of=plain("storage") + b"Q"),
    "a function as type of a storage": tensor(of=storage(type_="collections.OrderedDict")),
}

ARCHIVES = {
    "compressed": archive(state(tensor()), method=zipfile.ZIP_DEFLATED),
    "encrypted": edited(GOOD, CENTRAL, 8, b"\1"),
    "on another disk": edited(GOOD, CENTRAL, 34, b"\1"),
    "an entry behind the end": edited(GOOD, CENTRAL, 42, b"\xff\xff\xff\x7f"),
    "an entry without a header": edited(GOOD, CENTRAL, 42, b"\1"),
    "an entry longer than the file": edited(GOOD, CENTRAL, 20, b"\xff\xff\xff\x7f" * 2),
    "an entry whose two lengths differ": edited(GOOD, CENTRAL, 20, b"\1\0\0\0"),
    "a header with a long name": edited(GOOD, b"PK\3\4", 26, b"\xff\xff\xff\xff"),
    "no signature": GOOD[:4] + b"\0" * 100,
    "a list that is too long": edited(GOOD, END, 12, b"\xff\xff\xff\x7f", last=True),
    "a list behind the end": edited(GOOD, END, 16, b"\xff\xff\xff\x7f", last=True),
    "a list of 2 MB": archive(state(tensor()), {f"data/{i:01000}": b"" for i in range(2000)}),
    "100,000 dicts": archive(b"\x80\x02(" + b"}" * 100_000 + b"t."),
    "an unknown version": edited(GOOD, CENTRAL, 6, b"\xff"),
    "no data.pkl": archive(state(tensor()), root=""),
    "two data.pkl": archive(b"", {"a/data.pkl": state(tensor()), "b/data.pkl": state(tensor())}, root=""),
    "outside": archive(state(tensor()), root="../.."),
    "absolute": archive(state(tensor()), root="/etc"),
    "big-endian": archive(state(tensor()), {"byteorder": "big"}),
    "a long byte order": archive(state(tensor()), {"byteorder": "little" * 1000}),
}

LEGACY = {
    "another constant": legacy(state(tensor()), magic=0x1950A86A20F9469CFC6D),
    "another version": legacy(state(tensor()), version=1002),
    "a call as version": pickle.dumps(0x1950A86A20F9469CFC6C, 2) + CALLS[0].pickled(2),
    "a call as facts": legacy(b"")[:20] + CALLS[0].pickled(2),
    "a call as keys": legacy(state(tensor()))[: -len(pickle.dumps(["0"], 2)) - 32] + CALLS[0].pickled(2),
    "an unknown key": legacy(state(tensor()), keys=("0", "1")),
    "no keys": legacy(state(tensor()), keys=()),
    "a number as key": legacy(state(tensor()), keys=(0,)),
    "a list as key": legacy(state(tensor()), keys=([],)),
    "keys that are a dict": legacy(state(tensor()) + b"\x80\x02}.", storages=b""),
    "a storage of another length": legacy(state(tensor()), storages=struct.pack("<q", 5) + NUMBERS),
    "a storage of negative length": legacy(state(tensor()), storages=struct.pack("<q", -6) + NUMBERS),
    "a storage of huge length": legacy(state(tensor()), storages=struct.pack("<q", (1 << 63) - 1) + NUMBERS),
    "a tar file": b"sys_info".ljust(512, b"\0") * 4,
    "a page": b"<!DOCTYPE html><html><body>Not found</body></html>",
    "an LFS pointer": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 548105171\n",
    "zeros": bytes(1000),
    "nothing": b"",
}

HOSTILE = {
    **{
        f"{write.__name__}, {call.name}, {n}": write(call.pickled(n))
        for call in CALLS
        for n, write in ((2, archive), (4, legacy))
    },
    **{f"{write.__name__}, {name}": write(content) for name, content in PICKLES.items() for write in (archive, legacy)},
    **{
        f"{write.__name__}, {name}": write(state(content))
        for name, content in TENSORS.items()
        for write in (archive, legacy)
    },
    **{f"zip: {name}": content for name, content in ARCHIVES.items()},
    **{f"legacy: {name}": content for name, content in LEGACY.items()},
}
