"""Tokens -> text, as soon as later tokens cannot change it. The text ends before a stop string."""

from __future__ import annotations

import codecs
from collections.abc import Collection, Iterator, Sequence
from typing import Any

import numpy as np
import tiktoken

from .arguments import Limit, check
from .checkpoint import Model
from .generate import generate
from .lookup import LONGEST_DRAFT
from .tokenizer import ENDOFTEXT, prompt_ids, unused_ids


def generate_text(
    prompt: str,
    model: Model,
    *,
    max_new_tokens: int = 100,
    stop: str | Sequence[str] = (),
    temperature: float = 1.0,
    top_k: int | None = None,
    top_p: float | None = None,
    min_p: float | None = None,
    repetition_penalty: float = 1.0,
    no_repeat_ngram: int = 0,
    lookup: int = LONGEST_DRAFT,
    rng: np.random.Generator | int | None = None,
) -> Iterator[str]:
    """Continue a prompt, and yield the text in pieces as it is generated.

        for piece in generate_text("ROMEO:", load("shakespeare")):
            print(piece, end="", flush=True)

    The text ends before the first stop string, at the model's end of text, or after `max_new_tokens`. An empty prompt
    starts from `<|endoftext|>`. The other arguments are those of `generate`; the defaults sample from the model's own
    distribution. Bad arguments raise ValueError or TypeError.
    """
    check("prompt", prompt, Limit(str, lambda _: True, "a string"))
    check("model", model, Limit(Model, lambda _: True, "a Model, such as load('gpt2')"))
    check("stop", stop, Limit(Collection, lambda stops: all(isinstance(s, str) for s in stops), "one or more strings"))
    stream = TextStream(model.tokenizer, [stop] if isinstance(stop, str) else stop)
    tokens = generate(
        prompt_ids(prompt, model.tokenizer),
        model.weights,
        model.config,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        repetition_penalty=repetition_penalty,
        no_repeat_ngram=no_repeat_ngram,
        stop_tokens=end_of_text(model),
        n_vocab=model.tokenizer.n_vocab,
        excluded=excluded_tokens(model),
        lookup=lookup,
        rng=rng,
    )
    return stream_text(stream, tokens)


def stream_text(stream: TextStream, tokens: Iterator[int]) -> Iterator[str]:
    """Append tokens to the stream until it ends, and yield the text that they add."""
    for token in tokens:
        stream.append(token)
        if piece := stream.new_text():
            yield piece
        if stream.finish_reason:
            return
    stream.finish("length")  # or "stop"; the reason is not used here
    if piece := stream.new_text():
        yield piece


class TextStream:
    """The text of one sample while its tokens arrive.

    `text` holds the characters that are certain. Bytes of an incomplete character, and characters that may be the start
    of a stop string, are held back until more tokens arrive.

    >>> from numpy_gpt2.tokenizer import byte_tokenizer
    >>> stream = TextStream(byte_tokenizer(), stop_strings=["END"])
    >>> pieces = []
    >>> for byte in "né, END".encode():  # é is two bytes
    ...     stream.append(byte)
    ...     pieces.append(stream.new_text())
    >>> pieces
    ['n', '', 'é', ',', ' ', '', '', '']
    >>> stream.text, stream.finish_reason
    ('né, ', 'stop')
    """

    def __init__(self, tokenizer: tiktoken.Encoding, stop_strings: Sequence[str]) -> None:
        if "" in stop_strings:
            raise ValueError("a stop string is empty; it must have at least one character")
        self.tokens: list[int] = []
        self.text = ""
        self.logprobs: list[dict[str, Any]] | None = None  # of the tokens, and of those that a stop string removed
        self.prompt_logprobs: list[dict[str, Any]] | None = None
        self.score: float | None = None  # of a beam search: of the whole text, before a stop string cut it
        self.finish_reason: str | None = None  # "length", "stop" or "interrupted"
        self.tokenizer = tokenizer
        self.stop_strings = stop_strings
        self.decoder = codecs.getincrementaldecoder("utf-8")("replace")  # holds back an incomplete character
        self.held_back = ""  # this may be the start of a stop string
        self.n_read = 0  # characters that `new_text` has returned

    def append(self, token: int) -> None:
        """Add a token. −1 ends the stream, as in `generate`. A stream that has ended ignores tokens."""
        if token < 0:
            self.finish("stop")
        elif not self.finish_reason:
            self.tokens.append(token)
            self.extend(self.decoder.decode(self.tokenizer.decode_single_token_bytes(token)))

    def extend(self, characters: str) -> None:
        """Add characters. The text ends before a stop string, and the possible start of one is held back."""
        candidate = self.held_back + characters
        found = [(start + len(stop), start) for stop in self.stop_strings if (start := candidate.find(stop)) >= 0]
        if found:
            _, start = min(found)  # the stop string that ends first, wherever tokens begin and end
            self.text, self.held_back, self.finish_reason = self.text + candidate[:start], "", "stop"
            while self.tokens and self.tokenizer.decode(self.tokens[:-1]).startswith(self.text):
                self.tokens.pop()  # this token holds only a part of the stop string
        else:
            starts = (n for n in range(len(candidate)) if any(s.startswith(candidate[n:]) for s in self.stop_strings))
            n_certain = next(starts, len(candidate))
            self.text, self.held_back = self.text + candidate[:n_certain], candidate[n_certain:]

    def new_text(self) -> str:
        """The text that became certain since the previous call."""
        new, self.n_read = self.text[self.n_read :], len(self.text)
        return new

    def finish(self, reason: str) -> None:
        """End the stream, unless it has ended already. Characters that were held back are added to the text.

        If the reason is "interrupted", an incomplete character is dropped; otherwise it becomes U+FFFD.
        """
        if not self.finish_reason and reason != "interrupted":
            self.extend(self.decoder.decode(b"", final=True))
        if not self.finish_reason:
            self.text, self.held_back, self.finish_reason = self.text + self.held_back, "", reason


def end_of_text(model: Model) -> set[int]:
    """The tokens that end a text: `eos_token_id` of the config. If it names no token, `<|endoftext|>`."""
    default = {model.tokenizer.eot_token} if ENDOFTEXT in model.tokenizer.special_tokens_set else set()
    return config_tokens(model.config.eos_token_id, model) or default


def excluded_tokens(model: Model) -> set[int]:
    """The ids that are never generated: padding, unless it ends a text, and ids that no token stands for."""
    return config_tokens(model.config.pad_token_id, model) - end_of_text(model) | unused_ids(model.tokenizer)


def config_tokens(value: int | list[int] | None, model: Model) -> set[int]:
    """The token ids in a field of the config. Ids that the model does not have are left out."""
    values = value if isinstance(value, list) else [-1 if value is None else value]
    return {token for token in values if token in range(model.config.vocab_size)}
