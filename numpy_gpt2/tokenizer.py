"""GPT-2's tokenizer: vocab.json + merges.txt, or tokenizer.json -> a tiktoken.Encoding, and back.

GPT-2 reads bytes, not characters. Encoding a text takes three steps:

    pieces         cut the text into words (with the space before them), numbers, punctuation and white space
    UTF-8          turn each piece into bytes
    merge_steps    join neighboring bytes, then neighboring parts, into tokens: byte-pair encoding

tiktoken does all three at once, and fast. `pieces` and `merge_steps` do the same slowly, to show how it works.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np
import tiktoken

from .files import files_of, read_json, replace_surrogates
from .unsupported import check_added_tokens, check_tokenizer_config, check_tokenizer_json, no_tokenizer

# How GPT-2 cuts a text into pieces. \p{L} is any letter and \p{N} any number. Possessive quantifiers (++) never
# backtrack: long runs of one kind take linear time. White space before a word is one piece without its last character.
# `\s+(?!\S)` alone finds this piece, too. But tiktoken fails for a million characters of white space, because it keeps
# one state per repetition. `(?:\s{50}(?=\s\s))*+` takes 50 characters per repetition, and leaves two or more.
PIECE_PATTERN = (
    r"'(?:[sdmt]|ll|ve|re)| ?[\p{L}]++| ?[\p{N}]++| ?[^\s\p{L}\p{N}]++"
    r"|\s++$|(?:\s{50}(?=\s\s))*+\s+(?!\S)|\s"
)

# The same for text whose letters, numbers and spaces are all ASCII. Python's `re` has no \p{L} and \p{N}.
ASCII_PATTERN = re.compile(PIECE_PATTERN.replace(r"\p{L}", "A-Za-z").replace(r"\p{N}", "0-9"), re.ASCII)

BYTE_RANKS = {bytes([byte]): byte for byte in range(256)}

# vocab.json and merges.txt write each byte as one visible character. The printable characters of Latin-1 stand for
# themselves. The other 68 bytes, in order, are written as U+0100, U+0101, …: a space (0x20) is Ġ (U+0120).
PRINTABLE = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
OTHERS = [byte for byte in range(256) if byte not in PRINTABLE]
CHARACTER_OF_BYTE = [chr(byte if byte in PRINTABLE else 0x100 + OTHERS.index(byte)) for byte in range(256)]
BYTE_OF_CHARACTER = {ord(character): byte for byte, character in enumerate(CHARACTER_OF_BYTE)}

ENDOFTEXT = "<|endoftext|>"

VOCAB_AND_MERGES = ("vocab.json", "merges.txt")
ADDED_TOKENS = "added_tokens.json"  # tokens that were added for a fine-tuning: text -> id
TOKENIZER_JSON = "tokenizer.json"  # all of a tokenizer in one file
TOKENIZER_CONFIG = "tokenizer_config.json"  # tells transformers which of its classes reads tokenizer.json
WITH_ADDED = (TOKENIZER_JSON, TOKENIZER_CONFIG, ADDED_TOKENS)  # the files that may list added tokens

LEARNABLE_SIZES = range(257, 1_000_001)  # vocabulary sizes: at least 256 bytes and ENDOFTEXT


def has_pair(folder: Path) -> bool:
    """Whether a folder has vocab.json and merges.txt."""
    return all((folder / name).exists() for name in VOCAB_AND_MERGES)


def has_tokenizer(folder: Path) -> bool:
    """Whether a folder has the files of a tokenizer: vocab.json and merges.txt, or tokenizer.json."""
    return has_pair(folder) or (folder / TOKENIZER_JSON).exists()


def load_tokenizer(folder: str | Path) -> tiktoken.Encoding:
    """The tokenizer of a model folder. `.encode_ordinary(text)` -> ids, `.decode(ids)` -> text.

    The vocabulary and the merges are those of vocab.json and merges.txt. Where one of the two is missing, they are
    those of tokenizer.json. The added tokens of all files are special tokens. So are entries of the vocabulary that are
    not the result of a merge, such as `<|endoftext|>`.

    Raises FileNotFoundError for a missing file, and ValueError if the files are damaged, do not belong together, or are
    a tokenizer of another kind than GPT-2's.
    """
    folder = Path(folder)
    check_tokenizer_config(folder)
    if not has_tokenizer(folder):
        raise FileNotFoundError(no_tokenizer(folder, files_of(folder), folder))
    is_pair = has_pair(folder)
    source = " and ".join(VOCAB_AND_MERGES) if is_pair else TOKENIZER_JSON
    documents = {path: read_json(path) if path.exists() else {} for path in (folder / name for name in WITH_ADDED)}
    if not is_pair:
        check_tokenizer_json(documents[folder / TOKENIZER_JSON], folder / TOKENIZER_JSON)
    for path, document in documents.items():
        check_added_tokens(document, path)
    try:
        vocab, merges = read_pair(folder) if is_pair else vocab_and_merges(documents[folder / TOKENIZER_JSON])
        lost = [byte for byte, character in enumerate(CHARACTER_OF_BYTE) if vocab.get(character) is None]
        if not lost:
            ranks, special = ranks_and_special_tokens(vocab, merges, added_tokens(*documents.values()))
            return tiktoken.Encoding(
                folder.resolve().name, pat_str=PIECE_PATTERN, mergeable_ranks=ranks, special_tokens=special
            )
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        verb, advice = ("are", "download both again") if is_pair else ("is", "download it again")
        raise ValueError(f"{folder}: {source} {verb} not a GPT-2 tokenizer ({error!r}); {advice}") from None
    path = folder / (VOCAB_AND_MERGES[0] if is_pair else TOKENIZER_JSON)
    raise ValueError(f"{path} has no token for the byte 0x{lost[0]:02X}; it must have all 256, as in GPT-2")


def read_pair(folder: Path) -> tuple[dict[str, int], list[list[str]]]:
    """The vocabulary and the merges of vocab.json and merges.txt."""
    vocab = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
    lines = (folder / "merges.txt").read_text(encoding="utf-8").split("\n")
    return vocab, [line.split() for line in lines if line and not line.startswith("#version")]


def vocab_and_merges(document: dict[str, Any]) -> tuple[dict[str, int], list[list[str]]]:
    """The vocabulary and the merges of tokenizer.json. A merge is "a b", or ["a", "b"] in files since 2024."""
    model = document["model"]
    return model["vocab"], [merge.split(" ") if isinstance(merge, str) else merge for merge in model["merges"]]


def added_tokens(document: dict[str, Any], config: dict[str, Any], plain: dict[str, int]) -> dict[str, int]:
    """The tokens, text -> id, that `WITH_ADDED` list. transformers 5 writes new ones to tokenizer.json only."""
    listed = [(token["content"], token["id"]) for token in document.get("added_tokens") or []]
    by_id = [(token["content"], int(id)) for id, token in (config.get("added_tokens_decoder") or {}).items()]
    pairs = [*plain.items(), *listed, *by_id]
    if len({*pairs}) > len(dict(pairs)):
        raise ValueError(f"{', '.join(WITH_ADDED)} must have the same id for an added token")
    return dict(pairs)


def ranks_and_special_tokens(
    vocab: dict[str, int], merges: list[list[str]], added: dict[str, int]
) -> tuple[dict[bytes, int], dict[str, int]]:
    """The ids of all tokens that are bytes or results of merges, and of the others. Raises ValueError and others."""
    merged = [left + right for left, right in merges]
    mergeable = [*CHARACTER_OF_BYTE, *merged]
    ranks = {spelled_bytes(token): vocab[token] for token in mergeable}
    # tiktoken merges in the order of the ids, so the ids must follow the order of the merges.
    ids = [vocab[token] for token in merged]
    if sorted(set(ids)) != ids:
        raise ValueError("the ids must increase in the order of the merges")
    others = {token: vocab[token] for token in vocab.keys() - set(mergeable) - added.keys()}
    if lost := [token for token in others if not token.isascii()]:  # such as Ġthe: not special, its merge is lost
        raise ValueError(f"there is no merge for {lost[0]!r} and {len(lost) - 1} more tokens")
    ids = [*(vocab | added).values()]
    if vocab | added != added | vocab or len(set(ids)) < len(ids) or min(ids) < 0:
        raise ValueError("each token must have one id of its own, 0 or more")
    return ranks, others | added


def encode_special(text: str, tokenizer: tiktoken.Encoding, special: Collection[str]) -> np.ndarray:
    """The ids of a text, (n,), in which these special tokens stand for themselves. Of two, the longer one is found.

    >>> encode_special("a<|endoftext|>b", byte_tokenizer(), {ENDOFTEXT})
    array([ 97, 256,  98])
    """
    longest_first, id_of = sorted(special, key=len, reverse=True), special_tokens(tokenizer)
    parts = re.split(f"({'|'.join(map(re.escape, longest_first))})", text) if special else [text]
    ids = [
        [id_of[part]] if i % 2 else tokenizer.encode_to_numpy(part, disallowed_special=())
        for i, part in enumerate(parts)
    ]
    return np.concatenate(ids).astype(np.int64)


def prompt_ids(prompt: str, tokenizer: tiktoken.Encoding) -> list[int]:
    """The tokens of a prompt. An empty prompt becomes `<|endoftext|>`: in training, it marked the start of a text.

    Added tokens in the prompt, such as `<|im_start|>`, stand for themselves. `<|endoftext|>` is ordinary text.
    """
    if not prompt and ENDOFTEXT not in tokenizer.special_tokens_set:
        raise ValueError(
            f"the prompt is empty and the tokenizer has no {ENDOFTEXT}; the prompt must have at least one character"
        )
    ids = encode_special(replace_surrogates(prompt), tokenizer, tokenizer.special_tokens_set - {ENDOFTEXT})
    return ids.tolist() or [tokenizer.eot_token]


def unused_ids(tokenizer: tiktoken.Encoding) -> set[int]:
    """The ids below `n_vocab` that no token stands for. Most tokenizers have none."""
    special = {*special_tokens(tokenizer).values()}
    if len(tokenizer.token_byte_values()) + len(special) == tokenizer.n_vocab:
        return set()
    return {*range(tokenizer.n_vocab)} - {*token_ranks(tokenizer).values()} - special


def byte_tokenizer() -> tiktoken.Encoding:
    """A tokenizer of 257 tokens: the 256 bytes and `<|endoftext|>`."""
    return tiktoken.Encoding("byte", pat_str=PIECE_PATTERN, mergeable_ranks=BYTE_RANKS, special_tokens={ENDOFTEXT: 256})


def train_tokenizer(text: str, n_vocab: int) -> tiktoken.Encoding:
    """Learn a byte-pair encoding from a text: `n_vocab` tokens, including the 256 bytes and `<|endoftext|>`.

    Raises ImportError if the tokenizers library is not installed, and ValueError if the text has too few different
    pairs.
    """
    if n_vocab not in LEARNABLE_SIZES:
        raise ValueError(
            f"the vocabulary size is {n_vocab}; it must be from 257 (all bytes and {ENDOFTEXT}) to 1,000,000"
        )
    try:
        from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    except ImportError:
        raise ImportError("learning a tokenizer needs the tokenizers library: pip install tokenizers") from None
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=n_vocab - 1, initial_alphabet=alphabet, show_progress=False)
    bpe.train_from_iterator(text.split(ENDOFTEXT), trainer)
    ranks = {spelled_bytes(token): rank for token, rank in bpe.get_vocab().items()}
    if len(ranks) != n_vocab - 1:
        raise ValueError(f"the vocabulary size is {n_vocab}; it must be at most {len(ranks) + 1} for this text")
    return tiktoken.Encoding(
        "bpe", pat_str=PIECE_PATTERN, mergeable_ranks=ranks, special_tokens={ENDOFTEXT: n_vocab - 1}
    )


def save_tokenizer(folder: str | Path, tokenizer: tiktoken.Encoding) -> None:
    """Write a tokenizer. `load_tokenizer` reads it back as the same tokenizer.

    The files are vocab.json, merges.txt, added_tokens.json (if there are added tokens), tokenizer.json and
    tokenizer_config.json. Other programs read the last two.
    """
    ranks, special = token_ranks(tokenizer), special_tokens(tokenizer)
    tokens = sorted(ranks, key=lambda token: ranks[token])
    vocab = {spelled(token): ranks[token] for token in tokens} | special
    merges = [" ".join(map(spelled, last_merge(token, ranks))) for token in tokens if len(token) > 1]
    end = ENDOFTEXT if ENDOFTEXT in special else None
    files = {
        "vocab.json": vocab,
        TOKENIZER_JSON: tokenizer_json(vocab, merges, special),
        TOKENIZER_CONFIG: {
            "tokenizer_class": "GPT2Tokenizer",
            "add_prefix_space": False,
            **dict.fromkeys(("bos_token", "eos_token", "unk_token"), end),
        },
    }
    if added := {token: id for token, id in special.items() if token != ENDOFTEXT}:
        files[ADDED_TOKENS] = added
    for name, content in files.items():
        (Path(folder) / name).write_text(json.dumps(content, ensure_ascii=False), encoding="utf-8")
    (Path(folder) / "merges.txt").write_text("\n".join(["#version: 0.2", *merges]) + "\n", encoding="utf-8")


def tokenizer_json(vocab: dict[str, int], merges: list[str], special: dict[str, int]) -> dict[str, Any]:
    """The content of tokenizer.json, as the tokenizers library writes it for GPT-2."""
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [
            {"id": id, "content": token, **flags} for id, token in sorted((id, token) for token, id in special.items())
        ],
        "normalizer": None,
        "pre_tokenizer": byte_level,
        "post_processor": byte_level | {"trim_offsets": False},
        "decoder": byte_level,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": None,
            "continuing_subword_prefix": "",
            "end_of_word_suffix": "",
            "fuse_unk": False,
            "byte_fallback": False,
            "ignore_merges": False,
            "vocab": vocab,
            "merges": merges,
        },
    }


def spelled(token: bytes) -> str:
    """A token's bytes -> how vocab.json and merges.txt write it.

    >>> spelled(" é".encode())  # three bytes: 0x20, 0xC3, 0xA9
    'ĠÃ©'
    """
    return "".join(CHARACTER_OF_BYTE[byte] for byte in token)


def spelled_bytes(token: str) -> bytes:
    """How vocab.json and merges.txt write a token -> its bytes.

    >>> spelled_bytes("ĠÃ©").decode()
    ' é'
    """
    return token.translate(BYTE_OF_CHARACTER).encode("latin-1")


def pieces(text: str) -> list[str]:
    """Cut a text as GPT-2 does. Each piece is encoded separately: no token reaches across two pieces.

    >>> pieces("I'll buy 25 naïve cats!  Now.")
    ['I', "'ll", ' buy', ' 25', ' naïve', ' cats', '!', ' ', ' Now', '.']

    `ASCII_PATTERN` cuts a copy of the text. In this copy, an ASCII character stands for each letter, number and space
    that is not ASCII. tiktoken decides which characters these are: Python may use another version of Unicode.
    """
    characters = "".join({character for character in text if not character.isascii()})
    table: dict[int, str] = {}
    for kind, ascii_character in ((r"\p{L}", "x"), (r"\p{N}", "0"), (r"\s", "\t")):
        # This encoding drops all characters that its pattern does not match.
        only = tiktoken.Encoding(kind, pat_str=kind, mergeable_ranks=BYTE_RANKS, special_tokens={})
        table |= dict.fromkeys(map(ord, only.decode(only.encode_ordinary(characters))), ascii_character)
    return [text[match.start() : match.end()] for match in ASCII_PATTERN.finditer(text.translate(table))]


def special_tokens(tokenizer: tiktoken.Encoding) -> dict[str, int]:
    """The special tokens: text -> id. `encode_single_token` would return the id of an ordinary token of equal bytes."""
    return tokenizer._special_tokens


def token_ranks(tokenizer: tiktoken.Encoding) -> dict[bytes, int]:
    """All tokens except the special ones: bytes -> rank. The rank is also the token's id."""
    return {token: tokenizer.encode_single_token(token) for token in tokenizer.token_byte_values()}


def merge_steps(piece: bytes, ranks: dict[bytes, int]) -> list[list[bytes]]:
    """Byte-pair encoding of one piece, step by step. The first list holds its single bytes, the last list its tokens.

    A vocabulary cannot hold every word. GPT-2's holds all 256 bytes, so it can write every text. It also holds strings
    of bytes that are frequent in a large training text, so most texts become short.

    Learning: cut the training text into pieces, and start with one token for each byte. Count all pairs of neighboring
    tokens. The most frequent pair becomes a new token, and is joined wherever it occurs. Count again and join again,
    until the vocabulary is full: 50,000 times for GPT-2. A token's rank tells when it was learned. Tokens with lower
    ranks were learned earlier.

    Encoding: repeat the merges in the order in which they were learned. Each step looks at all neighboring pairs and
    joins the pair with the lowest rank. If that pair occurs more than once, the leftmost is joined first. Encoding ends
    when no neighboring pair is in `ranks`.

    >>> ranks = {b"er": 256, b"lo": 257, b"low": 258, b" low": 259}
    >>> for parts in merge_steps(b" lower", ranks):
    ...     print(parts)
    [b' ', b'l', b'o', b'w', b'e', b'r']
    [b' ', b'l', b'o', b'w', b'er']
    [b' ', b'lo', b'w', b'er']
    [b' ', b'low', b'er']
    [b' low', b'er']

    The result is two tokens, because this table has no " lower".

    Sources: Sennrich et al. 2016, "Neural Machine Translation of Rare Words with Subword Units", section 3.2; on bytes:
    Radford et al. 2019, section 2.2.
    """
    parts = [piece[i : i + 1] for i in range(len(piece))]
    steps = [parts]
    while known := [(ranks[a + b], i) for i, (a, b) in enumerate(itertools.pairwise(parts)) if a + b in ranks]:
        _, i = min(known)
        parts = [*parts[:i], parts[i] + parts[i + 1], *parts[i + 2 :]]
        steps.append(parts)
    return steps


def last_merge(token: bytes, ranks: dict[bytes, int]) -> tuple[bytes, bytes]:
    """The two parts that the last merge joins into `token`.

    >>> last_merge(b"low", {b"lo": 256, b"low": 257})
    (b'lo', b'w')
    """
    *_, (left, *right) = (parts for parts in merge_steps(token, ranks) if len(parts) > 1)
    return left, b"".join(right)  # `right` is a single part, unless the merges never produce this token
