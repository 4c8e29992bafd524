"""Tokens -> text as it becomes certain, and where it stops."""

from __future__ import annotations

import codecs

import tiktoken

from .checkpoint import Model
from .tokenizer import ENDOFTEXT


class Continuation:
    """One sample while it grows: its tokens, its text as far as that is certain, and why it ended."""

    def __init__(self, tokenizer: tiktoken.Encoding, stops: list[str]) -> None:
        self.tokens: list[int] = []
        self.text = ""
        self.finish_reason: str | None = None
        self.tokenizer = tokenizer
        self.stops = stops
        self.decoder = codecs.getincrementaldecoder("utf-8")("replace")  # holds back the bytes of half a character
        self.held = ""  # and this, what may be the beginning of a stop text
        self.n_written = 0

    def append(self, token: int) -> None:
        """Take one more token, unless the sample has ended; −1 ends it, as `generate` means it."""
        if token < 0:
            self.finish("stop")
        elif not self.finish_reason:
            self.tokens.append(token)
            self.extend(self.decoder.decode(self.tokenizer.decode_single_token_bytes(token)))

    def extend(self, characters: str) -> None:
        """Add characters to the text; end before the first stop text, and hold back what may become one."""
        held = self.held + characters
        found = [(start + len(stop), start) for stop in self.stops if (start := held.find(stop)) >= 0]
        if found:
            _, start = min(found)  # the one that was complete first, however tokens cut the text
            self.text, self.held, self.finish_reason = self.text + held[:start], "", "stop"
            while self.tokens and self.tokenizer.decode(self.tokens[:-1]).startswith(self.text):
                self.tokens.pop()  # those that spell only the stop text
        else:
            starts = (n for n in range(len(held)) if any(stop.startswith(held[n:]) for stop in self.stops))
            certain = next(starts, len(held))
            self.text, self.held = self.text + held[:certain], held[certain:]

    def unwritten(self) -> str:
        """The part of the text that no call has returned before."""
        new, self.n_written = self.text[self.n_written :], len(self.text)
        return new

    def finish(self, reason: str) -> None:
        """The sample ends here, if it has not yet: nothing is held back but, after Ctrl-C, half a character."""
        if not self.finish_reason and reason != "interrupted":
            self.extend(self.decoder.decode(b"", final=True))
        if not self.finish_reason:
            self.text, self.held, self.finish_reason = self.text + self.held, "", reason


def end_of_text(model: Model) -> set[int]:
    """The tokens after which there is nothing to say: the config's and the tokenizer's own."""
    eos = model.config.eos_token_id
    tokens = eos if isinstance(eos, list) else [] if eos is None else [eos]
    if ENDOFTEXT in model.tokenizer.special_tokens_set:
        tokens = [*tokens, model.tokenizer.eot_token]
    return {token for token in tokens if token < model.config.vocab_size}
