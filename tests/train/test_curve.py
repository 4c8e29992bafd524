"""The picture of the loss: lines, labels and marks are at the right places."""

import math
import re
import xml.etree.ElementTree as ET

import pytest
from hypothesis import given
from hypothesis import strategies as st

from numpy_gpt2.train.curve import LINES, loss_curve, ticks

SVG = "{http://www.w3.org/2000/svg}"
GRAY, RED = (color for _, color in LINES.values())


def rows(train, held_out, interval=10):
    losses = zip(train, held_out, strict=True)
    return [{"step": interval * i, "train_loss": t, "val_loss": v} for i, (t, v) in enumerate(losses, start=1)]


def picture(*arguments):
    """Return the lines by color as (x, y) points, the texts, and the circle at the minimum or None."""
    root = ET.fromstring(loss_curve(*arguments))
    lines = {
        line.get("stroke"): [tuple(map(float, point.split(","))) for point in line.get("points").split()]
        for line in root.iter(SVG + "polyline")
    }
    assert_inside(root)
    return lines, {text.text: text for text in root.iter(SVG + "text")}, root.find(SVG + "circle")


def assert_inside(root):
    """All texts and lines are inside the picture. A letter counts as 0.6 times the font size wide."""
    _, _, width, height = map(float, root.get("viewBox").split())
    for text in root.iter(SVG + "text"):
        x, y, size = float(text.get("x")), float(text.get("y")), float(text.get("font-size", 12))
        length = 0.6 * size * len(text.text)
        start = x - {"start": 0, "middle": length / 2, "end": length}[text.get("text-anchor", "start")]
        if "rotate" in text.get("transform", ""):
            assert 0 <= y - length / 2 < y + length / 2 <= height
        else:
            assert 0 <= start < start + length <= width, text.text
            assert size <= y <= height
    for line in root.iter(SVG + "polyline"):
        for point in line.get("points").split():
            x, y = map(float, point.split(","))
            assert 0 <= x <= width
            assert 0 <= y <= height


def test_both_lines_and_the_lowest_validation_loss_are_drawn():
    lines, texts, circle = picture(rows([4, 3, 2, 1], [4.5, 3.25, 3.5, 4]), "mine: loss")
    assert {"mine: loss", "training", "held out", "steps", "nats per token", "3.250"} <= set(texts)
    assert len(lines[GRAY]) == len(lines[RED]) == 4
    assert (float(circle.get("cx")), float(circle.get("cy"))) == lines[RED][1]


def test_the_names_of_the_lines_are_above_them():
    lines, texts, _ = picture(rows([4, 4], [4, 4]), "t")  # both lines are as high as possible
    highest = min(y for points in lines.values() for _, y in points)
    names = [texts["training"], texts["held out"]]
    assert all(float(name.get("y")) < highest for name in names)
    end, start = (float(name.get("x")) for name in names)
    assert end - start > 0.6 * 12 * len("training")


def test_lines_are_to_scale():
    lines, texts, _ = picture(rows([4, 3, 2, 1], [4.5, 3.25, 3.5, 4], interval=250), "t")
    points = [*zip(range(250, 1001, 250), [4, 3, 2, 1], lines[GRAY], strict=True)]
    points += [*zip(range(250, 1001, 250), [4.5, 3.25, 3.5, 4], lines[RED], strict=True)]
    at = {text: (float(element.get("x")), float(element.get("y")) - 4) for text, element in texts.items()}
    for step, loss, (x, y) in points:  # compared with the labels of the axes
        assert x == pytest.approx(at["0"][0] + step / 1000 * (at["1,000"][0] - at["0"][0]), abs=0.15)
        assert y == pytest.approx(at["1"][1] + (loss - 1) / 3 * (at["4"][1] - at["1"][1]), abs=0.3)
    assert at["4"][1] < at["1"][1]
    assert at["0"][0] < at["1,000"][0]


@pytest.mark.parametrize(
    ("train", "held_out"),
    [
        ([5.5], [5.6]),
        ([5.5], [5.5]),
        ([2, 2, 2], [2, 2, 2]),
        ([1e-9, 1e-9], [0, 0]),
        ([3e6, 11], [2e6, 9]),
        ([7], [99]),
    ],
)
def test_one_row_and_equal_or_very_different_losses_are_drawn(train, held_out):
    lines, texts, circle = picture(rows(train, held_out), "t")
    assert [len(points) for points in lines.values()] == [len(train)] * 2
    assert f"{min(held_out):.3f}" in texts
    assert (float(circle.get("cx")), float(circle.get("cy"))) in lines[RED]


def test_row_of_step_0_is_the_first_point():
    first = {"step": 0, "train_loss": None, "val_loss": 5}
    assert picture([first], "t")[2] is not None
    lines, _, _ = picture([first, *rows([4, 3], [4.5, 3.25])], "t")
    assert (len(lines[GRAY]), len(lines[RED]), lines[RED][0][0]) == (2, 3, 64)


def test_without_held_out_text_there_is_one_line():
    lines, texts, circle = picture(rows([3, 2, 1], [None] * 3), "t")
    assert len(lines[GRAY]) == 3
    assert not lines.get(RED)
    assert circle is None
    assert "held out" not in texts


def test_title_may_have_any_character():
    title = "a<b & \"c\" 'd' é →: loss"
    assert title in picture(rows([1], [1]), title)[1]


@pytest.mark.parametrize("last", [1, 2, 3, 4, 5, 7, 2500])
def test_labels_of_steps_are_different_whole_numbers(last):
    svg = loss_curve([{"step": last, "train_loss": 2, "val_loss": 1}], "t")
    labels = re.findall(r'y="372\.0" text-anchor="middle">([\d,]+)<', svg)
    assert labels[0] == "0"
    assert len(labels) == len(set(labels)) > 1


@given(low=st.floats(-1, 100), width=st.floats(1e-2, 1e6))
def test_ticks_are_round_and_inside(low, width):
    high = low + width
    values = ticks(low, high)
    slack = 1e-9 * max(abs(low), abs(high))
    assert 2 <= len(values) <= 6
    assert all(low - slack <= value <= high + slack for value in values)
    step = (values[-1] - values[0]) / (len(values) - 1)
    assert all(value / step == pytest.approx(round(value / step), abs=1e-3) for value in values)
    mantissa = step / 10 ** math.floor(math.log10(step * 1.0001))
    assert min(abs(mantissa - round_number) for round_number in (1, 2, 5)) < 1e-3
    assert values[0] - step < low + slack
    assert high - slack < values[-1] + step  # no tick is missing at the ends
