"""TrainConfig: defaults, ranges, and the flags that come from it."""

import dataclasses
import math
import subprocess
import sys

import pytest

from numpy_gpt2.train import TrainConfig
from numpy_gpt2.train import __main__ as command
from numpy_gpt2.train.config import CHANGEABLE, FLAGS, in_words


def test_no_flags_give_the_defaults():
    arguments, given = command.parse_arguments(["text.txt", "--out", "folder"])
    assert given == {}
    assert (arguments.corpus, arguments.out, arguments.resume, arguments.threads) == (
        ["text.txt"],
        "folder",
        False,
        None,
    )


@pytest.mark.parametrize("field", FLAGS, ids=lambda field: field.name)
def test_each_setting_has_a_flag_that_gives_its_value(field):
    values = {"tokenizer": "bpe:300", "init_from": "gpt2", "train": "all", "schedule": "linear", "val_file": "a.txt"}
    value = (values | {"average": False}).get(field.name, 0.5 if field.type.startswith("float") else 3)
    _, given = command.parse_arguments(["text.txt", "--out", "folder", command.flag(field.name), in_words(value)])
    assert given == {field.name: value}
    assert type(given[field.name]) is type(value)
    assert getattr(TrainConfig(**given), field.name) == value


def test_all_settings_except_the_text_are_flags():
    names = [field.name for field in dataclasses.fields(TrainConfig)]
    assert [field.name for field in FLAGS] == [name for name in names if name != "corpus"]
    assert set(CHANGEABLE) < set(names)
    assert all(field.metadata["help"] for field in FLAGS)


def test_settings_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        TrainConfig().lr = 1.0


def test_min_lr_is_a_tenth_of_lr_unless_given():
    assert TrainConfig(lr=0.03).min_lr == 0.003
    assert TrainConfig(lr=0.03, min_lr=0.0).min_lr == 0.0


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("dropout", 1.0),
        ("dropout", -0.1),
        ("lr", 0.0),
        ("lr", math.nan),
        ("lr", math.inf),
        ("min_lr", -1.0),
        ("batch_size", 0),
        ("batch_size", 2.5),
        ("batch_size", 10**4 + 1),
        ("max_steps", 0),
        ("epochs", 0),
        ("epochs", 2e6),
        ("average", 1),
        ("schedule", "step"),
        ("n_layer", "two"),
        ("lr", "fast"),
        ("warmup", -1),
        ("beta2", 1.0),
        ("tokenizer", "bpe:3"),
        ("tokenizer", ""),
        ("time_limit", 0.0),
    ],
)
def test_impossible_values_are_errors_that_name_the_setting(name, value):
    with pytest.raises(ValueError, match=rf"^{name} is {value!r}; it must be "):
        TrainConfig(**{name: value})


def test_importing_training_loads_neither_requests_nor_tqdm():
    modules = "{'requests', 'tqdm', 'tokenizers'}"
    script = f"import sys, numpy_gpt2.train, numpy_gpt2.train.__main__; assert not {modules} & sys.modules.keys()"
    subprocess.run([sys.executable, "-c", script], check=True)


@pytest.mark.parametrize("field", [field for field in FLAGS if field.metadata["kind"].convert is int])
def test_a_count_of_401_digits_is_an_error(field, capsys):
    """Python's floats end at 309 digits. A seed may be longer."""
    arguments = ["text.txt", "--out", "folder", command.flag(field.name), "9" * 401]
    if field.name == "seed":
        assert command.parse_arguments(arguments)[1] == {"seed": int("9" * 401)}
        return
    with pytest.raises(SystemExit, match="2"):
        command.parse_arguments(arguments)
    assert f"{field.metadata['kind'].wanted}; see --help" in capsys.readouterr().err
    with pytest.raises(ValueError, match="it must be a whole number from"):
        TrainConfig(**{field.name: 10**401})
