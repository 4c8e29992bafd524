"""vocab.json + merges.txt -> a tiktoken.Encoding, and back.

GPT-2 reads bytes, not characters. Text is cut into pieces (words with the space before them, numbers, punctuation,
white space), a piece is a string of UTF-8 bytes, and byte-pair encoding joins neighbours in the order that `merges.txt`
lists, until no listed pair is left (Sennrich et al. 2016; Radford et al. 2019, section 2.2).
"""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path

import regex
import tiktoken

# GPT-2's rule for cutting text into pieces. Possessive quantifiers (++) never look back, which keeps long runs linear.
PIECES = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}++| ?\p{N}++| ?[^\s\p{L}\p{N}]++|\s++$|\s+(?!\S)|\s"

# The files spell each byte as one visible character: the printable ones of Latin-1 as themselves, the other 68, in
# order, as the characters from U+0100 on.
PRINTABLE = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
OTHERS = [byte for byte in range(256) if byte not in PRINTABLE]
CHARACTER_OF_BYTE = [chr(byte if byte in PRINTABLE else 0x100 + OTHERS.index(byte)) for byte in range(256)]
BYTE_OF_CHARACTER = {ord(character): byte for byte, character in enumerate(CHARACTER_OF_BYTE)}

ENDOFTEXT = "<|endoftext|>"

LEARNABLE_SIZES = range(257, 1_000_001)  # of a vocabulary: the bytes and ENDOFTEXT at least


def load_tokenizer(folder: str | Path) -> tiktoken.Encoding:
    """The tokenizer of a model folder. `.encode_ordinary(text)` -> ids, `.decode(ids)` -> text.

    Entries of vocab.json that no merge makes, such as `<|endoftext|>`, are special tokens. Raises FileNotFoundError for
    a missing file and ValueError for files that are damaged or do not belong together.
    """
    folder = Path(folder)
    try:
        vocab = json.loads((folder / "vocab.json").read_text(encoding="utf-8"))
        lines = (folder / "merges.txt").read_text(encoding="utf-8").split("\n")
        merges = [line.split() for line in lines if line and not line.startswith("#version")]
        merged = [left + right for left, right in merges]
        mergeable = [*CHARACTER_OF_BYTE, *merged]
        ranks = {spelled_bytes(token): vocab[token] for token in mergeable}
        # tiktoken joins in the order of the ids, so that has to be the order of the merges too.
        ids = [vocab[token] for token in merged]
        if sorted(vocab.values()) != [*range(len(vocab))] or sorted(set(ids)) != ids:
            raise ValueError("ids must be 0, 1, 2, …, one for each token, and rise in the order of merges.txt")
        special = {token: vocab[token] for token in vocab.keys() - set(mergeable)}
        if lost := [token for token in special if not token.isascii()]:  # they have spellings of bytes in their names
            raise ValueError(f"no line of merges.txt makes {lost[0]!r} and {len(lost) - 1} more tokens")
        return tiktoken.Encoding(folder.resolve().name, pat_str=PIECES, mergeable_ranks=ranks, special_tokens=special)
    except (ValueError, LookupError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        raise ValueError(
            f"{folder}: vocab.json and merges.txt are no GPT-2 tokenizer ({error!r}); get both anew"
        ) from None


def prompt_ids(prompt: str, tokenizer: tiktoken.Encoding) -> list[int]:
    """The prompt's tokens. An empty prompt is the token that GPT-2 has seen before the first word of every text."""
    if not prompt and ENDOFTEXT not in tokenizer.special_tokens_set:
        raise ValueError(f"the tokenizer has no {ENDOFTEXT} to start from; give a prompt of at least one character")
    return tokenizer.encode_ordinary(prompt) or [tokenizer.eot_token]


def byte_tokenizer() -> tiktoken.Encoding:
    """A token for each of the 256 bytes, and `<|endoftext|>`."""
    return tiktoken.Encoding(
        "byte", pat_str=PIECES, mergeable_ranks={bytes([i]): i for i in range(256)}, special_tokens={ENDOFTEXT: 256}
    )


def train_tokenizer(text: str, n_vocab: int) -> tiktoken.Encoding:
    """Learn a byte-level BPE from a text: `n_vocab` tokens, the 256 bytes and `<|endoftext|>` among them.

    Needs the tokenizers library. Raises ValueError if that is missing, or if the text has too few different pairs.
    """
    if n_vocab not in LEARNABLE_SIZES:
        raise ValueError(f"a vocabulary cannot have {n_vocab} tokens; it must be from 257, for the bytes, to 1,000,000")
    try:
        from tokenizers import Tokenizer, models, pre_tokenizers, trainers
    except ImportError:
        raise ValueError("learning a tokenizer needs the tokenizers library: pip install tokenizers") from None
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=n_vocab - 1, initial_alphabet=alphabet, show_progress=False)
    bpe.train_from_iterator(text.split(ENDOFTEXT), trainer)
    ranks = {spelled_bytes(token): rank for token, rank in bpe.get_vocab().items()}
    if len(ranks) != n_vocab - 1:
        raise ValueError(f"a vocabulary of {n_vocab} tokens cannot be learned from this text, only {len(ranks) + 1}")
    return tiktoken.Encoding("bpe", pat_str=PIECES, mergeable_ranks=ranks, special_tokens={ENDOFTEXT: n_vocab - 1})


def save_tokenizer(folder: str | Path, tokenizer: tiktoken.Encoding) -> None:
    """Write `vocab.json` and `merges.txt`, from which `load_tokenizer` makes the same tokenizer again."""
    ranks = token_ranks(tokenizer)
    tokens = sorted(ranks, key=lambda token: ranks[token])
    vocab = {spelled(token): ranks[token] for token in tokens}
    vocab |= {token: tokenizer.encode_single_token(token) for token in sorted(tokenizer.special_tokens_set)}
    merges = (map(spelled, last_merge(token, ranks)) for token in tokens if len(token) > 1)
    lines = ["#version: 0.2", *map(" ".join, merges)]
    (Path(folder) / "vocab.json").write_text(json.dumps(vocab, ensure_ascii=False), encoding="utf-8")
    (Path(folder) / "merges.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")


def spelled_bytes(token: str) -> bytes:
    """How the files spell a token -> the bytes that it stands for."""
    return token.translate(BYTE_OF_CHARACTER).encode("latin-1")


def spelled(token: bytes) -> str:
    """A token's bytes -> how the files spell it."""
    return "".join(CHARACTER_OF_BYTE[byte] for byte in token)


def last_merge(token: bytes, ranks: dict[bytes, int]) -> list[bytes]:
    """The two parts that the merge that makes `token` joins: byte-pair encode it, and stop one step before the end."""
    parts = [token[i : i + 1] for i in range(len(token))]
    while len(parts) > 2:
        pairs = [left + right for left, right in itertools.pairwise(parts)]
        i = min(range(len(pairs)), key=lambda i: ranks.get(pairs[i], math.inf))
        parts[i : i + 2] = [pairs[i]]
    return parts


def token_ranks(tokenizer: tiktoken.Encoding) -> dict[bytes, int]:
    """The id of every token but the special ones. It is also the token's rank: lower ranks are merged first."""
    return {token: tokenizer.encode_single_token(token) for token in tokenizer.token_byte_values()}


def pieces(text: str) -> list[bytes]:
    """Cut a text into pieces by the rule `PIECES`. Byte-pair encoding never merges across the end of a piece."""
    return [piece.encode(errors="replace") for piece in regex.findall(PIECES, text)]


def merge_steps(piece: bytes, ranks: dict[bytes, int]) -> list[list[bytes]]:
    """The parts of a piece after each merge: first its single bytes, last its tokens."""
    parts = [piece[i : i + 1] for i in range(len(piece))]
    steps = [parts]
    while len(parts) > 1:
        pairs = [left + right for left, right in itertools.pairwise(parts)]
        i = min(range(len(pairs)), key=lambda i: ranks.get(pairs[i], math.inf))
        if pairs[i] not in ranks:
            break
        parts = [*parts[:i], pairs[i], *parts[i + 2 :]]
        steps.append(parts)
    return steps
