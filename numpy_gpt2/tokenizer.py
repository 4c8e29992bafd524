"""GPT-2's tokenizer: vocab.json + merges.txt -> a tiktoken.Encoding, and back.

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
from pathlib import Path

import tiktoken

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

LEARNABLE_SIZES = range(257, 1_000_001)  # vocabulary sizes: at least 256 bytes and ENDOFTEXT


def load_tokenizer(folder: str | Path) -> tiktoken.Encoding:
    """The tokenizer of a model folder. `.encode_ordinary(text)` -> ids, `.decode(ids)` -> text.

    Entries of vocab.json that are not the result of a merge, such as `<|endoftext|>`, are special tokens. Raises
    FileNotFoundError for a missing file, and ValueError if the files are damaged or do not belong together.
    """
    folder = Path(folder)
    try:
        vocab = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
        lines = (folder / "merges.txt").read_text(encoding="utf-8").split("\n")
        merges = [line.split() for line in lines if line and not line.startswith("#version")]
        merged = [left + right for left, right in merges]
        mergeable = [*CHARACTER_OF_BYTE, *merged]
        ranks = {spelled_bytes(token): vocab[token] for token in mergeable}
        # tiktoken merges in the order of the ids, so the ids must follow the order of merges.txt.
        ids = [vocab[token] for token in merged]
        if sorted(vocab.values()) != [*range(len(vocab))] or sorted(set(ids)) != ids:
            raise ValueError("the ids must be 0, 1, 2, … without gaps, and increase in the order of merges.txt")
        special = {token: vocab[token] for token in vocab.keys() - set(mergeable)}
        if lost := [token for token in special if not token.isascii()]:  # such as Ġthe: not special, its merge is lost
            raise ValueError(f"merges.txt has no merge for {lost[0]!r} and {len(lost) - 1} more tokens")
        return tiktoken.Encoding(
            folder.resolve().name, pat_str=PIECE_PATTERN, mergeable_ranks=ranks, special_tokens=special
        )
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise ValueError(
            f"{folder}: vocab.json and merges.txt are not a GPT-2 tokenizer ({error!r}); download both again"
        ) from None


def prompt_ids(prompt: str, tokenizer: tiktoken.Encoding) -> list[int]:
    """The tokens of a prompt. An empty prompt becomes `<|endoftext|>`: in training, it marked the start of a text."""
    if not prompt and ENDOFTEXT not in tokenizer.special_tokens_set:
        raise ValueError(
            f"the prompt is empty and the tokenizer has no {ENDOFTEXT}; the prompt must have at least one character"
        )
    return tokenizer.encode_ordinary(prompt) or [tokenizer.eot_token]


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
    """Write `vocab.json` and `merges.txt`. `load_tokenizer` reads them back as the same tokenizer."""
    ranks = token_ranks(tokenizer)
    tokens = sorted(ranks, key=lambda token: ranks[token])
    vocab = {spelled(token): ranks[token] for token in tokens}
    vocab |= {token: tokenizer.encode_single_token(token) for token in sorted(tokenizer.special_tokens_set)}
    merges = (map(spelled, last_merge(token, ranks)) for token in tokens if len(token) > 1)
    lines = ["#version: 0.2", *map(" ".join, merges)]
    (Path(folder) / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False), encoding="utf-8")
    (Path(folder) / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


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
