"""The tokenizer, compared with the tokenizers library and with the definition of byte-pair encoding."""

import itertools
import json
import math
import os
import shutil
import subprocess
import sys
from collections import Counter

import pytest
import tiktoken
from hypothesis import given
from hypothesis import strategies as st

from numpy_gpt2 import load_tokenizer
from numpy_gpt2.hub import bundled_folder
from numpy_gpt2.tokenizer import (
    BYTE_RANKS,
    CHARACTER_OF_BYTE,
    ENDOFTEXT,
    PIECE_PATTERN,
    byte_tokenizer,
    merge_steps,
    pieces,
    save_tokenizer,
    token_ranks,
    train_tokenizer,
)

from .conftest import MERGES
from .reference.seeded import FOLDER

REFERENCE = json.loads((FOLDER / "tokens.json").read_text())


@pytest.fixture(scope="module")
def gpt2(gpt2_tokenizer_folder):
    return load_tokenizer(gpt2_tokenizer_folder)


@pytest.fixture(scope="module")
def bundled():
    return load_tokenizer(bundled_folder())


@pytest.fixture(scope="module")
def tiny_tokenizer(tiny):
    return load_tokenizer(tiny)


@pytest.fixture(scope="module")
def byte():
    return byte_tokenizer()


CORPUS = "".join(REFERENCE["texts"][:150]) + "the ferry, the other ferry; there, then: naïve café 😀😀 " * 3


@pytest.fixture(scope="module")
def learned():
    pytest.importorskip("tokenizers")
    return train_tokenizer(CORPUS, 300)


@pytest.mark.parametrize("name", ["bundled", "gpt2"])
def test_ids_equal_those_of_the_tokenizers_library(name, request):
    tokenizer = request.getfixturevalue(name)
    for text, ids in zip(REFERENCE["texts"], REFERENCE[name], strict=True):
        assert tokenizer.encode_ordinary(text) == ids, repr(text)
        assert tokenizer.decode(ids) == text


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("Every effort moves you", [6109, 3626, 6100, 345]),
        ("Every day holds a", [6109, 1110, 6622, 257]),
        ("The dog", [464, 3290]),
        ("<|endoftext|>", [27, 91, 437, 1659, 5239, 91, 29]),
    ],
)
def test_known_ids_of_gpt2(text, ids, gpt2):
    assert gpt2.encode_ordinary(text) == ids


def test_gpt2_has_one_special_token(gpt2):
    assert (gpt2.n_vocab, gpt2.eot_token, gpt2.special_tokens_set) == (50257, 50256, {"<|endoftext|>"})
    assert gpt2.decode([50256]) == "<|endoftext|>"


@given(st.text())
def test_decoding_the_ids_of_any_text_returns_the_text(tiny_tokenizer, text):
    assert tiny_tokenizer.decode(tiny_tokenizer.encode_ordinary(text)) == text


@given(st.text(alphabet="the you!é'\n  s\u00a0\U0001f600", max_size=60))
def test_ids_follow_the_definition_of_byte_pair_encoding(tiny_tokenizer, text):
    """Join the first pair of merges.txt wherever it occurs, then the second, and so on."""
    expected = []
    for piece in cut_by_hand(text):
        parts = [CHARACTER_OF_BYTE[byte] for byte in piece.encode()]
        for merge in MERGES:
            i = 0
            while i + 1 < len(parts):
                if f"{parts[i]} {parts[i + 1]}" == merge:
                    parts[i : i + 2] = [parts[i] + parts[i + 1]]
                i += 1
        expected += parts
    spelled = [
        "".join(CHARACTER_OF_BYTE[byte] for byte in tiny_tokenizer.decode_single_token_bytes(i))
        for i in tiny_tokenizer.encode_ordinary(text)
    ]
    assert spelled == expected


def cut_by_hand(text):
    """GPT-2's rule for cutting text, one character at a time."""
    pieces, i = [], 0

    def kind(c):
        return "space" if c.isspace() else "letter" if c.isalpha() else "number" if c.isnumeric() else "other"

    while i < len(text):
        contraction = next((c for c in ("'s", "'t", "'re", "'ve", "'m", "'ll", "'d") if text.startswith(c, i)), None)
        if contraction:
            pieces.append(contraction)
            i += len(contraction)
            continue
        start = i + (text[i] == " " and i + 1 < len(text) and kind(text[i + 1]) != "space")
        end = start
        while end < len(text) and kind(text[end]) == kind(text[start]):
            end += 1
        if kind(text[start]) == "space" and end < len(text) and end - start > 1:
            end -= 1  # the last space belongs to the next piece, or is a piece of its own
        pieces.append(text[i:end])
        i = end
    return pieces


def test_long_runs_of_one_character_are_encoded(tiny_tokenizer):
    for text in ("a" * 100_000, "the" * 50_000, " " * 100_000, "!" * 100_000, "\n" * 50_000 + "x", "7" * 100_000):
        assert tiny_tokenizer.decode(tiny_tokenizer.encode_ordinary(text)) == text


@pytest.mark.parametrize("name", ["tiny_tokenizer", "bundled", "gpt2", "byte", "learned"])
def test_a_saved_tokenizer_loads_as_the_same_tokenizer(name, request, tmp_path):
    tokenizer = request.getfixturevalue(name)
    save_tokenizer(tmp_path, tokenizer)
    again = load_tokenizer(tmp_path)
    assert again.token_byte_values() == tokenizer.token_byte_values()
    assert again.n_vocab == tokenizer.n_vocab
    assert again.special_tokens_set == tokenizer.special_tokens_set
    for text, ids in zip(REFERENCE["texts"], map(tokenizer.encode_ordinary, REFERENCE["texts"]), strict=True):
        assert again.encode_ordinary(text) == ids


def test_saving_gpt2s_tokenizer_reproduces_its_files(gpt2_tokenizer_folder, gpt2, tmp_path):
    save_tokenizer(tmp_path, gpt2)
    for name in ("vocab.json", "merges.txt"):
        original = (gpt2_tokenizer_folder / name).read_text(encoding="utf-8")
        saved = (tmp_path / name).read_text(encoding="utf-8")
        assert json.loads(saved) == json.loads(original) if name.endswith("json") else saved == original


# pieces and merge_steps

FEW_KINDS = st.text(alphabet="the you'lsré²½一!?\n\t  \u00a0\u3000\x1c12三\U0001f600", max_size=60)


@pytest.mark.parametrize("name", ["tiny_tokenizer", "bundled", "gpt2"])
def test_merge_steps_of_all_pieces_end_with_tiktokens_tokens(name, request):
    tokenizer = request.getfixturevalue(name)
    ranks = token_ranks(tokenizer)

    @given(st.text() | FEW_KINDS)
    def ids_are_equal(text):
        ids = [ranks[token] for piece in pieces(text) for token in merge_steps(piece.encode(), ranks)[-1]]
        assert ids == tokenizer.encode_ordinary(text)

    ids_are_equal()


@pytest.mark.parametrize("name", ["tiny_tokenizer", "bundled", "gpt2"])
def test_merge_steps_of_any_text_as_one_piece_end_with_tiktokens_tokens(name, request):
    ranks = token_ranks(request.getfixturevalue(name))
    whole = tiktoken.Encoding("whole", pat_str="(?s).+", mergeable_ranks=ranks, special_tokens={})

    @given(st.text() | FEW_KINDS | st.text("the lower", max_size=60))
    def ids_are_equal(text):
        assert [ranks[token] for token in merge_steps(text.encode(), ranks)[-1]] == whole.encode_ordinary(text)

    ids_are_equal()


def test_merge_steps_of_each_token_end_with_the_token(bundled):
    ranks = token_ranks(bundled)
    assert len(ranks) == 1023
    for token in ranks:
        assert merge_steps(token, ranks)[-1] == [token]


@given(st.binary(max_size=30))
def test_each_step_merges_the_leftmost_pair_of_the_lowest_rank(bundled, piece):
    ranks = token_ranks(bundled)
    steps = merge_steps(piece, ranks)
    assert steps[0] == [bytes([byte]) for byte in piece]
    for before, after in itertools.pairwise(steps):
        pair_ranks = [ranks.get(left + right, math.inf) for left, right in itertools.pairwise(before)]
        i = pair_ranks.index(min(pair_ranks))
        assert pair_ranks[i] < math.inf
        assert after == [*before[:i], before[i] + before[i + 1], *before[i + 2 :]]
    assert not any(left + right in ranks for left, right in itertools.pairwise(steps[-1]))


def test_an_empty_text_has_no_pieces_and_an_empty_piece_no_tokens():
    assert pieces("") == []
    assert merge_steps(b"", {}) == [[]]


# The regex module may know later versions of Unicode than tiktoken. Characters that Python knows are in both.
@given(st.text(st.characters(exclude_categories=("Cs", "Cn"))) | FEW_KINDS)
def test_pieces_are_those_of_the_regex_module(text):
    regex = pytest.importorskip("regex")
    assert pieces(text) == regex.findall(PIECE_PATTERN, text)


@given(FEW_KINDS.filter(lambda text: "\x1c" not in text))
def test_pieces_are_those_of_the_definition(text):
    assert pieces(text) == cut_by_hand(text)


# GPT-2's own pattern, from OpenAI's encoder.py.
GPT2_PATTERN = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"

RUN = st.tuples(st.sampled_from("a1! \n\u3000"), st.sampled_from([1, 2, 3, 49, 50, 51, 52, 53, 100, 101, 102]))


@pytest.mark.parametrize("name", ["bundled", "byte"])
@given(runs=st.lists(RUN, max_size=6))
def test_long_runs_are_cut_as_gpt2_does(name, runs, request):
    regex = pytest.importorskip("regex")
    tokenizer, text = request.getfixturevalue(name), "".join(character * n for character, n in runs)
    expected = regex.findall(GPT2_PATTERN, text)
    assert pieces(text) == expected
    assert tokenizer.encode_ordinary(text) == [i for piece in expected for i in tokenizer.encode_ordinary(piece)]


@pytest.mark.parametrize("blank", [" ", "\n", "\u3000"])
def test_a_million_blanks_before_a_letter_are_encoded(byte, blank):
    text = blank * 999_999 + "a"
    assert byte.encode_ordinary(text) == [*text.encode()]


@given(st.text(st.characters()))
def test_pieces_join_to_the_text(text):
    assert "".join(pieces(text)) == text


# byte_tokenizer and train_tokenizer


@given(st.text())
def test_byte_tokenizer_encodes_each_byte_as_its_value(byte, text):
    assert byte.encode_ordinary(text) == [*text.encode()]
    assert byte.decode([*text.encode()]) == text


def test_byte_tokenizer_has_256_bytes_and_endoftext(byte):
    assert (byte.n_vocab, byte.eot_token, byte.special_tokens_set) == (257, 256, {ENDOFTEXT})
    assert [byte.decode_single_token_bytes(i) for i in range(256)] == [bytes([i]) for i in range(256)]


def test_a_saved_tokenizer_without_merges_loads(byte, tmp_path):
    save_tokenizer(tmp_path, byte)
    assert (tmp_path / "merges.txt").read_text() == "#version: 0.2\n"
    assert json.loads((tmp_path / "vocab.json").read_text())["\u0120"] == ord(" ")
    assert load_tokenizer(tmp_path).encode_ordinary(CORPUS) == [*CORPUS.encode()]


def learned_merges(text, n):
    """Join the most frequent pair n times (Sennrich et al. 2016). Ties go to the pair with the lowest ids."""
    cut = (piece for part in text.split(ENDOFTEXT) for piece in cut_by_hand(part))
    words = Counter(tuple(CHARACTER_OF_BYTE[byte] for byte in piece.encode()) for piece in cut)
    ids = {character: i for i, character in enumerate(sorted(CHARACTER_OF_BYTE))}
    merges = []
    for _ in range(n):
        pairs = Counter()
        for word, frequency in words.items():
            for pair in itertools.pairwise(word):
                pairs[pair] += frequency
        left, right = max(pairs, key=lambda pair: (pairs[pair], [-ids[part] for part in pair]))
        merges.append(f"{left} {right}")
        ids[left + right] = len(ids)
        joined = Counter()
        for word, frequency in words.items():
            parts, i = [*word], 0
            while i + 1 < len(parts):
                if parts[i : i + 2] == [left, right]:
                    parts[i : i + 2] = [left + right]
                i += 1
            joined[tuple(parts)] += frequency
        words = joined
    return merges


def test_learning_merges_the_most_frequent_pairs(learned, tmp_path):
    save_tokenizer(tmp_path, learned)
    merges = (tmp_path / "merges.txt").read_text(encoding="utf-8").split("\n")
    assert merges == ["#version: 0.2", *learned_merges(CORPUS, 300 - 257), ""]


def byte_level_bpe(folder):
    """A tokenizer of the tokenizers library."""
    from tokenizers import ByteLevelBPETokenizer

    return ByteLevelBPETokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), add_prefix_space=False)


def test_a_learned_tokenizer_equals_that_of_the_tokenizers_library(learned, tmp_path):
    save_tokenizer(tmp_path, learned)
    theirs = byte_level_bpe(tmp_path)
    for text in [*REFERENCE["texts"], CORPUS]:
        assert learned.encode_ordinary(text) == theirs.encode(text).ids, repr(text)
    (tmp_path / "theirs").mkdir()
    theirs.train_from_iterator(CORPUS.split(ENDOFTEXT), 299, min_frequency=0, show_progress=False)
    theirs.save_model(str(tmp_path / "theirs"))
    merges = [(folder / "merges.txt").read_text(encoding="utf-8") for folder in (tmp_path, tmp_path / "theirs")]
    assert merges[0] == merges[1]


@given(text=st.text("aab b", min_size=1, max_size=80), other=st.text("ab ", max_size=40), n=st.integers(1, 12))
def test_overlapping_pairs_are_merged_as_the_tokenizers_library_does(tmp_path_factory, text, other, n):
    pytest.importorskip("tokenizers")
    try:
        tokenizer = train_tokenizer(text, 257 + n)
    except ValueError:
        return  # too few pairs
    folder = tmp_path_factory.mktemp("tokenizer")
    save_tokenizer(folder, tokenizer)
    theirs = byte_level_bpe(folder)
    for string in (text, other):
        assert tokenizer.encode_ordinary(string) == theirs.encode(string).ids


def test_a_learned_vocabulary_has_the_requested_size(learned):
    assert (learned.n_vocab, learned.eot_token, learned.special_tokens_set) == (300, 299, {ENDOFTEXT})
    assert len(learned.token_byte_values()) == 299
    for n in (257, 258, 263):
        assert train_tokenizer(CORPUS, n).n_vocab == n


@pytest.mark.parametrize(("text", "most"), [("abab", 259), ("a b c", 259), ("a" * 8, 260), ("a\nb", 257), ("", 257)])
def test_a_vocabulary_larger_than_the_text_allows_is_an_error(text, most):
    pytest.importorskip("tokenizers")
    assert train_tokenizer(text, most).n_vocab == most
    for n in (most + 1, 10**6):
        with pytest.raises(ValueError, match=rf"vocabulary size is {n}; it must be at most {most} for this text"):
            train_tokenizer(text, n)
    for n in (256, 1, 10**6 + 1):
        with pytest.raises(ValueError, match=rf"vocabulary size is {n}; it must be from 257"):
            train_tokenizer(text, n)


def test_no_learned_merge_reaches_across_endoftext():
    pytest.importorskip("tokenizers")
    text = f"ab{ENDOFTEXT}" * 20 + "bc"
    tokens = {token for token in train_tokenizer(text, 259).token_byte_values() if len(token) > 1}
    assert tokens == {b"ab", b"bc"}
    with pytest.raises(ValueError, match="at most 259"):
        train_tokenizer(text, 260)


@pytest.mark.parametrize("parallelism", ["true", "false"])
def test_learning_is_deterministic(learned, tmp_path, parallelism):
    (tmp_path / "corpus").write_bytes(CORPUS.encode())
    script = (
        "import sys, pathlib; from numpy_gpt2.tokenizer import *; folder = pathlib.Path(sys.argv[1]);"
        "save_tokenizer(folder, train_tokenizer((folder / 'corpus').read_bytes().decode(), 300))"
    )
    env = {**os.environ, "TOKENIZERS_PARALLELISM": parallelism, "PYTHONHASHSEED": "7"}
    subprocess.run([sys.executable, "-c", script, tmp_path], check=True, env=env)
    assert load_tokenizer(tmp_path).token_byte_values() == learned.token_byte_values()
    assert load_tokenizer(tmp_path).encode_ordinary(CORPUS) == learned.encode_ordinary(CORPUS)


def test_learning_without_the_tokenizers_library_is_an_import_error(monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(ImportError, match="pip install tokenizers"):
        train_tokenizer(CORPUS, 300)
    assert byte_tokenizer().n_vocab == 257


def test_a_token_that_no_merges_reach_is_saved_and_loaded(tmp_path):
    """bc is merged first, so ab and cd never appear. tiktoken still encodes the piece abcd as one token."""
    strings = [*BYTE_RANKS, b"bc", b"ab", b"cd", b"abcd"]
    ranks = {token: i for i, token in enumerate(strings)}
    tokenizer = tiktoken.Encoding("x", pat_str=PIECE_PATTERN, mergeable_ranks=ranks, special_tokens={ENDOFTEXT: 260})
    assert merge_steps(b"abcd", ranks)[-1] == [b"a", b"bc", b"d"]
    save_tokenizer(tmp_path, tokenizer)
    assert token_ranks(load_tokenizer(tmp_path)) == ranks


# Damaged files


def edit(change):
    """Damage that changes the parsed vocab and the lines of merges.txt."""

    def apply(folder):
        vocab = json.loads((folder / "vocab.json").read_text())
        merges = (folder / "merges.txt").read_text().split("\n")
        change(vocab, merges)
        (folder / "vocab.json").write_text(json.dumps(vocab))
        (folder / "merges.txt").write_text("\n".join(merges))

    return apply


DAMAGES = {
    "a merge whose token is not in the vocabulary": edit(lambda vocab, merges: merges.append("x y")),
    "merges in another order than the ids": edit(lambda vocab, merges: merges.reverse()),
    "merges cut at the end of a line": edit(lambda vocab, merges: merges.__delitem__(slice(-5, None))),
    "a merge of three parts": edit(lambda vocab, merges: merges.append("t h e")),
    "an id twice": edit(lambda vocab, merges: vocab.update(th=5)),
    "an id that is text": edit(lambda vocab, merges: vocab.update(th="256")),
    "a negative id": edit(lambda vocab, merges: vocab.update(th=-1)),
    "a list for a vocabulary": lambda folder: (folder / "vocab.json").write_text("[1]"),
    "html for a vocabulary": lambda folder: (folder / "vocab.json").write_text("<html>"),
    "a vocabulary cut short": lambda folder: (folder / "vocab.json").write_text('{"a": 1, "b'),
    "bytes for merges": lambda folder: (folder / "merges.txt").write_bytes(b"\xff\xfe\x00"),
}


@pytest.mark.parametrize("name", DAMAGES)
def test_damaged_files_are_an_error(name, tiny, tmp_path):
    folder = shutil.copytree(tiny, tmp_path / "model")
    DAMAGES[name](folder)
    with pytest.raises(ValueError, match="are not a GPT-2 tokenizer"):
        load_tokenizer(folder)


def test_a_byte_without_a_token_is_named_in_the_error(tiny, tmp_path):
    folder = shutil.copytree(tiny, tmp_path / "model")
    edit(lambda vocab, merges: vocab.pop("a"))(folder)
    with pytest.raises(ValueError, match=r"vocab\.json has no token for the byte 0x61; it must have all 256, as in"):
        load_tokenizer(folder)


@pytest.mark.parametrize("name", ["vocab.json", "merges.txt"])
def test_a_missing_file_is_named_in_the_error(name, tiny, tmp_path):
    folder = shutil.copytree(tiny, tmp_path / "model")
    (folder / name).unlink()
    (folder / "tokenizer.json").unlink()
    with pytest.raises(FileNotFoundError, match=name):
        load_tokenizer(folder)
