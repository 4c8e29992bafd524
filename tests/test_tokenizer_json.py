"""tokenizer.json, added tokens, the end of text and padding, compared with transformers 5 and tokenizers."""

import json
import shutil

import numpy as np
import pytest
import tiktoken
from hypothesis import given
from hypothesis import strategies as st

from numpy_gpt2 import GPT2Config, forward, generate, generate_text, load, load_tokenizer, save_model
from numpy_gpt2.__main__ import main
from numpy_gpt2.hub import bundled_folder
from numpy_gpt2.stream import end_of_text, excluded_tokens
from numpy_gpt2.tokenizer import (
    ENDOFTEXT,
    encode_special,
    prompt_ids,
    save_tokenizer,
    special_tokens,
    token_ranks,
    unused_ids,
)
from numpy_gpt2.weights import save_weights

from .conftest import MERGES, assert_one_error, run_in_process, write_model, write_tokenizer
from .main.conftest import write_scripted_model
from .reference.seeded import FOLDER, seeded_weights

REFERENCE = json.loads((FOLDER / "tokenizers.json").read_text(encoding="utf-8"))
TEXTS = REFERENCE.pop("texts")
PROMPT = "<|im_start|>you\nhello the<|im_end|>\n"
PAIR = ("vocab.json", "merges.txt")


def write_reference(folder, name):
    """A folder as transformers 5 writes it."""
    folder.mkdir(parents=True, exist_ok=True)
    for file, content in REFERENCE[name]["files"].items():
        (folder / file).write_text(json.dumps(content), encoding="utf-8")
    config = GPT2Config.from_json(folder / "config.json")
    weights = seeded_weights(config, 1, 0.5)
    weights["wte.weight"][265:] *= 3
    save_weights(folder / "model.safetensors", weights)
    return folder


@pytest.fixture(params=REFERENCE)
def name(request):
    return request.param


@pytest.fixture(params=["as transformers wrote it", "saved again", "saved again, tokenizer.json only"])
def folder(request, name, tmp_path):
    folder = write_reference(tmp_path / "theirs", name)
    if request.param.startswith("saved again"):
        save_model(tmp_path / "ours", *load(folder))
        folder = tmp_path / "ours"
    if request.param.endswith("only"):
        for file in (*PAIR, "added_tokens.json"):
            (folder / file).unlink(missing_ok=True)
    return folder


def parts(tokenizer):
    return token_ranks(tokenizer), special_tokens(tokenizer)


def test_ids_equal_those_of_the_tokenizers_library(folder, name):
    tokenizer = load_tokenizer(folder)
    for text, ids in zip(TEXTS, REFERENCE[name]["ids"], strict=True):
        assert encode_special(text, tokenizer, tokenizer.special_tokens_set).tolist() == ids, repr(text)
        if ENDOFTEXT not in text:
            assert prompt_ids(text, tokenizer) == ids
        if "Ġthe" not in text:  # as an added token, it has the id of " the"
            assert tokenizer.decode(ids) == text


def test_logits_and_greedy_tokens_equal_transformers(folder, name):
    model, expected = load(folder), REFERENCE[name]
    tokens = prompt_ids(PROMPT, model.tokenizer)
    assert tokens == expected["prompt"]
    logits = forward(np.array(tokens), model.weights, model.config)[-1]
    np.testing.assert_allclose(logits, expected["logits"], rtol=0, atol=1e-5 * np.abs(expected["logits"]).max())
    stop = end_of_text(model)
    greedy = [token for token in expected["greedy"] if token not in stop]
    options = {"max_new_tokens": 30, "temperature": 0, "stop_tokens": stop, "n_vocab": model.tokenizer.n_vocab}
    ours = generate(tokens, model.weights, model.config, excluded=excluded_tokens(model), **options)
    assert list(ours) == greedy
    text = "".join(generate_text(PROMPT, model, max_new_tokens=30, temperature=0))
    assert text == model.tokenizer.decode(greedy)


def test_the_references_end_at_an_added_token_and_suppress_padding(tmp_path):
    model = load(write_reference(tmp_path, "chat"))
    assert (model.config.eos_token_id, model.config.pad_token_id, REFERENCE["chat"]["greedy"][-1]) == (
        [266, 77],
        265,
        266,
    )
    assert (end_of_text(model), excluded_tokens(model)) == ({266, 77}, {265})
    options = {"max_new_tokens": 9, "temperature": 0, "lookup": 0}
    free = list(generate(REFERENCE["chat"]["prompt"], model.weights, model.config, **options))
    assert max(free) >= model.tokenizer.n_vocab


@pytest.mark.parametrize("merges", ["strings", "pairs"])
def test_both_spellings_of_merges_are_read(tiny, tmp_path, merges):
    document = json.loads((tiny / "tokenizer.json").read_text(encoding="utf-8"))
    assert document["model"]["merges"] == MERGES
    if merges == "pairs":
        document["model"]["merges"] = [merge.split() for merge in MERGES]
    del document["model"]["type"]
    (tmp_path / "tokenizer.json").write_text(json.dumps(document))
    assert parts(load_tokenizer(tmp_path)) == parts(load_tokenizer(tiny))


def test_vocab_and_merges_win_over_tokenizer_json(tiny, tmp_path):
    folder = shutil.copytree(tiny, tmp_path / "model")
    (folder / "tokenizer.json").write_text("{}")
    assert parts(load_tokenizer(folder)) == parts(load_tokenizer(tiny))
    for file in PAIR:
        (folder / file).rename(folder / "elsewhere")
        with pytest.raises(ValueError, match="pre_tokenizer"):
            load_tokenizer(folder)
        (folder / "elsewhere").rename(folder / file)


def test_gpt2s_tokenizer_survives_as_tokenizer_json(gpt2_tokenizer_folder, tmp_path):
    gpt2 = load_tokenizer(gpt2_tokenizer_folder)
    save_tokenizer(tmp_path, gpt2)
    for file in PAIR:
        (tmp_path / file).unlink()
    assert parts(load_tokenizer(tmp_path)) == parts(gpt2)


@pytest.mark.parametrize("model", [None, *REFERENCE])
def test_the_tokenizers_library_reads_our_tokenizer_json(tmp_path, model):
    tokenizers = pytest.importorskip("tokenizers")
    tokenizer = load_tokenizer(write_reference(tmp_path / "theirs", model) if model else bundled_folder())
    (tmp_path / "ours").mkdir()
    save_tokenizer(tmp_path / "ours", tokenizer)
    library = tokenizers.Tokenizer.from_file(str(tmp_path / "ours" / "tokenizer.json"))
    assert library.get_vocab_size() == tokenizer.n_vocab

    @given(st.text() | st.lists(st.sampled_from(TEXTS)).map("".join))
    def ids_are_equal(text):
        assert library.encode(text).ids == encode_special(text, tokenizer, tokenizer.special_tokens_set).tolist()

    ids_are_equal()


def changed(document, field, value):
    """The document with one field changed; `...` removes it."""
    *path, last = field.split(".")
    inner = document
    for key in path:
        inner = inner[key]
    inner.pop(last) if value is ... else inner.update({last: value})
    return document


CLS = {"SpecialToken": {"id": "[CLS]", "type_id": 0}}


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("model.type", "Unigram", 'model.type is "Unigram"; it must be "BPE"'),
        ("model.dropout", 0.1, "model.dropout is 0.1; it must be null"),
        ("model.continuing_subword_prefix", "##", 'model.continuing_subword_prefix is "##"; it must be null'),
        ("model.end_of_word_suffix", "</w>", 'model.end_of_word_suffix is "</w>"; it must be null'),
        ("model.byte_fallback", True, "model.byte_fallback is true; it must be false"),
        ("model.ignore_merges", True, "model.ignore_merges is true; it must be false"),
        ("normalizer", {"type": "NFC"}, 'normalizer is "NFC"; it must be null'),
        ("pre_tokenizer", None, 'pre_tokenizer.type is null; it must be "ByteLevel"'),
        ("pre_tokenizer", {"type": "Metaspace"}, 'pre_tokenizer.type is "Metaspace"; it must be "ByteLevel"'),
        ("pre_tokenizer.add_prefix_space", True, "pre_tokenizer.add_prefix_space is true; it must be false"),
        ("pre_tokenizer.use_regex", False, "pre_tokenizer.use_regex is false; it must be true"),
        ("post_processor", {"type": "TemplateProcessing", "single": [CLS]}, "post_processor adds tokens"),
        ("post_processor", {"type": "RobertaProcessing", "sep": ["</s>", 2]}, "post_processor adds tokens"),
        (
            "added_tokens",
            [{"id": 264, "content": ENDOFTEXT, "lstrip": True}],
            "lstrip of the added token '<|endoftext|>'",
        ),
        (
            "added_tokens",
            [{"id": 300, "content": "a", "single_word": True}],
            "single_word of the added token 'a' is true",
        ),
    ],
)
def test_a_tokenizer_of_another_kind_is_refused_with_the_field(tiny, tmp_path, capsys, field, value, message):
    folder = shutil.copytree(tiny, tmp_path / "model")
    for file in PAIR:
        (folder / file).unlink()
    path = folder / "tokenizer.json"
    path.write_text(json.dumps(changed(json.loads(path.read_text()), field, value)))
    assert_one_error(run_in_process(main, capsys, "-m", folder, "a"), 1, f"{path}: ", message)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model.type", ...),
        ("model.dropout", 0.0),
        ("model.ignore_merges", ...),
        ("model.continuing_subword_prefix", None),
        ("model.unk_token", ENDOFTEXT),  # never used: all bytes are in the vocabulary
        ("pre_tokenizer.use_regex", ...),
        ("post_processor", None),
        ("post_processor", {"type": "TemplateProcessing", "single": [{"Sequence": {"id": "A", "type_id": 0}}]}),
        ("truncation", {"max_length": 4}),
        ("padding", {"pad_id": 0}),
        ("added_tokens", ...),
    ],
)
def test_settings_that_change_no_token_are_accepted(tiny, tmp_path, field, value):
    document = changed(json.loads((tiny / "tokenizer.json").read_text()), field, value)
    (tmp_path / "tokenizer.json").write_text(json.dumps(document))
    assert parts(load_tokenizer(tmp_path)) == parts(load_tokenizer(tiny))


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("model.vocab", ...),
        ("model.vocab", []),
        ("model.merges", ["t"]),
        ("model.merges", MERGES[:-1]),  # Ã© is not ASCII: it is no special token, its merge is lost
        ("model.merges", MERGES[::-1]),
        ("added_tokens", 5),
        ("added_tokens", [5]),
        ("added_tokens", [{"id": "300", "content": "a"}]),
        ("added_tokens", [{"id": -1, "content": "[PAD]"}]),
        ("added_tokens", [{"id": 5, "content": "[PAD]"}]),  # the id of another token
        ("added_tokens", [{"id": 300, "content": "the"}]),  # a second id
    ],
)
def test_a_damaged_tokenizer_json_is_an_error(tiny, tmp_path, field, value):
    document = changed(json.loads((tiny / "tokenizer.json").read_text()), field, value)
    (tmp_path / "tokenizer.json").write_text(json.dumps(document))
    with pytest.raises(ValueError, match=r"tokenizer\.json is not a GPT-2 tokenizer"):
        load_tokenizer(tmp_path)


@pytest.mark.parametrize("content", ["", "[]", "<html>", "null", '{"model": 5', '{"model": 5}', "[" * 100_000])
def test_a_tokenizer_json_without_a_tokenizer_is_an_error(tmp_path, content):
    (tmp_path / "tokenizer.json").write_text(content)
    with pytest.raises(ValueError, match=r"tokenizer\.json(: pre_tokenizer\.type is null| is not JSON)"):
        load_tokenizer(tmp_path)


# Added tokens beside vocab.json and merges.txt


def test_added_tokens_json_adds_special_tokens(tmp_path):
    n = write_tokenizer(tmp_path)
    (tmp_path / "added_tokens.json").write_text(json.dumps({"[PAD]": n, "日本": n + 1, "the": 257}))
    tokenizer = load_tokenizer(tmp_path)
    assert special_tokens(tokenizer) == {ENDOFTEXT: n - 1, "[PAD]": n, "日本": n + 1, "the": 257}
    assert prompt_ids("[PAD]th日本 other", tokenizer) == [n, 256, n + 1, 32, 111, 257, 114]


PAD = {"content": "[PAD]", "single_word": False, "lstrip": False, "rstrip": False}


@pytest.mark.parametrize(
    ("file", "content"),
    [
        ("tokenizer.json", {"added_tokens": [{"id": 265, **PAD}]}),
        ("tokenizer_config.json", {"added_tokens_decoder": {"265": PAD}}),
    ],
)
def test_added_tokens_of_other_files_are_read_beside_vocab_and_merges(tmp_path, file, content):
    n = write_tokenizer(tmp_path)
    (tmp_path / file).write_text(json.dumps(content))
    assert special_tokens(load_tokenizer(tmp_path)) == {ENDOFTEXT: n - 1, "[PAD]": 265}
    (tmp_path / "added_tokens.json").write_text(json.dumps({"[PAD]": 266}))
    with pytest.raises(ValueError, match="must have the same id for an added token"):
        load_tokenizer(tmp_path)
    (tmp_path / file).write_text(json.dumps(content).replace('"lstrip": false', '"lstrip": true'))
    with pytest.raises(ValueError, match=rf"{file}: lstrip of the added token '\[PAD\]' is true; it must be false"):
        load_tokenizer(tmp_path)


def test_a_prefix_space_beside_vocab_and_merges_is_refused(tmp_path):
    write_tokenizer(tmp_path)
    (tmp_path / "tokenizer_config.json").write_text('{"add_prefix_space": true}')
    with pytest.raises(ValueError, match=r"tokenizer_config\.json: add_prefix_space is true; it must be false"):
        load_tokenizer(tmp_path)


def test_saving_a_tokenizer_with_fewer_added_tokens_removes_the_others(tmp_path):
    write_reference(tmp_path / "chat", "chat")
    write_reference(tmp_path / "plain", "plain")
    save_model(tmp_path / "new", *load(tmp_path / "chat"))
    assert (tmp_path / "new" / "added_tokens.json").exists()
    save_model(tmp_path / "new", *load(tmp_path / "plain"))
    assert special_tokens(load(tmp_path / "new").tokenizer) == {ENDOFTEXT: 264}


def test_endoftext_in_a_prompt_is_ordinary_text(tiny):
    tokenizer = load_tokenizer(tiny)
    assert prompt_ids(f"a{ENDOFTEXT}", tokenizer) == tokenizer.encode_ordinary(f"a{ENDOFTEXT}")


def test_half_of_a_surrogate_pair_in_a_prompt_is_replaced(tiny):
    assert prompt_ids("a\ud800😀", load_tokenizer(tiny)) == [*"a\ufffd😀".encode()]


# The end of text, and ids that are never chosen


def generation_config(folder, **fields):
    (folder / "generation_config.json").write_text(json.dumps(fields))
    return load(folder)


def test_generation_config_takes_precedence_over_config(tmp_path):
    folder = write_model(tmp_path, eos_token_id=5, pad_token_id=6)
    assert (end_of_text(load(folder)), excluded_tokens(load(folder))) == ({5}, {6})
    for eos in (7, [7, 8]):
        model = generation_config(folder, eos_token_id=eos)
        assert end_of_text(model) == {7} if eos == 7 else {7, 8}
        assert excluded_tokens(model) == {6}
    model = generation_config(folder, eos_token_id=None, pad_token_id=9)
    assert (end_of_text(model), excluded_tokens(model)) == ({5}, {9})
    model = generation_config(folder, eos_token_id=[-1, 10**6, 9], pad_token_id=9)
    assert (end_of_text(model), excluded_tokens(model)) == ({9}, set())  # padding that ends a text is chosen


@pytest.mark.parametrize("pad", [-1, 10**6, None, 264])
def test_padding_without_a_token_of_its_own_excludes_nothing(tmp_path, pad):
    assert excluded_tokens(load(write_model(tmp_path, pad_token_id=pad))) == set()


@pytest.mark.parametrize("content", ["[]", "{", '{"eos_token_id": "x"}', '{"pad_token_id": {}}'])
def test_a_damaged_generation_config_is_an_error(tmp_path, content, capsys):
    folder = write_model(tmp_path)
    (folder / "generation_config.json").write_text(content)
    assert_one_error(run_in_process(main, capsys, "-m", folder, "a"), 1, folder / "generation_config.json")


def test_the_command_never_prints_padding_and_ends_at_the_generation_configs_token(tmp_path, capsys):
    folder = write_scripted_model(tmp_path / "model", [*b"ab!cd"])
    assert run_in_process(main, capsys, "-m", folder, "-n", 5, "--greedy", "x").out == "ab!cd\n"
    generation_config(folder, eos_token_id=ord("!"))
    assert run_in_process(main, capsys, "-m", folder, "-n", 5, "--greedy", "x").out == "ab\n"
    generation_config(folder, pad_token_id=ord("!"))
    for flags in (["--greedy"], ["--no-lookup", "-t", "9", "-k", "0", "--num-samples", "3"]):
        assert "!" not in run_in_process(main, capsys, "-m", folder, "-n", 60, *flags, "x").out


def test_ids_without_a_token_are_never_chosen(tmp_path):
    n = write_tokenizer(tmp_path / "tokenizer")
    (tmp_path / "tokenizer" / "added_tokens.json").write_text(json.dumps({"[PAD]": n + 3}))
    write_model(tmp_path / "model", vocab_size=n + 20)
    weights, config, _ = load(tmp_path / "model")
    weights["wte.weight"] = np.array(weights["wte.weight"])
    weights["wte.weight"][n:] *= 4
    save_model(tmp_path / "model", weights, config, load_tokenizer(tmp_path / "tokenizer"))
    model = load(tmp_path / "model")
    assert (model.tokenizer.n_vocab, excluded_tokens(model)) == (n + 4, {n, n + 1, n + 2})
    options = {"max_new_tokens": 200, "temperature": 2.0, "rng": 0, "n_vocab": n + 4}
    free = set(generate([1], *model[:2], **options))
    assert free & {n, n + 1, n + 2}
    chosen = set(generate([1], *model[:2], excluded=excluded_tokens(model), **options))
    assert not chosen & {n, n + 1, n + 2}


def test_unused_ids_are_found_where_a_special_token_is_an_ordinary_one_too():
    ranks = {bytes([byte]): byte for byte in range(256)}
    tokenizer = tiktoken.Encoding("x", pat_str=".", mergeable_ranks=ranks, special_tokens={"a": 97, "[PAD]": 300})
    assert unused_ids(tokenizer) == {*range(256, 300)}
