"""Tokens as text in which every character can be seen."""

from __future__ import annotations

import re
import unicodedata
from functools import lru_cache

from ..checkpoint import Model

SIGNS = {" ": "·", "\n": "⏎", "\r": "␍", "\t": "⇥"}
# Characters that are invisible, although Unicode calls them letters, marks or symbols.
BLANK = re.compile("[\u034f\u115f\u1160\u17b4\u17b5\u180b-\u180f\u2800\u3164\ufe00-\ufe0f\uffa0\U000e0100-\U000e01ef]")


def visible(token: bytes) -> str:
    """Bytes as visible text: b" the" is "·the", and a byte that is only part of a character is "⟨E2⟩"."""
    text = token.decode("utf-8", "surrogateescape")
    base = "◌" if text and unicodedata.category(text[0])[0] == "M" else ""  # carries an accent that comes first
    return base + "".join(map(visible_character, text))


@lru_cache(maxsize=1000)
def visible_character(c: str) -> str:
    """One character, or a sign in place of one that cannot be seen."""
    if c in SIGNS:
        return SIGNS[c]
    if "\udc80" <= c <= "\udcff":  # surrogateescape decodes byte 0x80 as U+DC80
        return f"⟨{ord(c) - 0xDC00:02X}⟩"
    if unicodedata.category(c)[0] in "CZ" or BLANK.match(c) or c in SIGNS.values():  # "·" itself would mean a space
        return f"⟨U+{ord(c):04X}⟩"
    return c


def token_bytes(token: int, model: Model) -> bytes | None:
    """The bytes of a token; None for an unused id of a padded vocabulary."""
    try:
        return model.tokenizer.decode_single_token_bytes(token)
    except KeyError:
        return None


def token_hex(token: int, model: Model) -> str:
    """A token's bytes as hexadecimal numbers: "20 74 68 65"."""
    return (token_bytes(token, model) or b"").hex(" ")


def token_text(token: int, model: Model) -> str:
    """A token as visible text."""
    data = token_bytes(token, model)
    return f"⟨unused {token}⟩" if data is None else visible(data)
