"""Draw the loss curve of a training run as an SVG picture."""

from __future__ import annotations

import html
import math
from collections.abc import Sequence
from typing import Any

WIDTH, HEIGHT = 720, 400
LEFT, RIGHT, TOP, BOTTOM = 64, 24, 48, 48  # margins
LINES = {"train_loss": ("training", "#8a8a8a"), "val_loss": ("held out", "#c0392b")}


def loss_curve(rows: Sequence[dict[str, Any]], title: str) -> str:
    """Return the SVG of the training and validation loss over the steps, with the lowest validation loss marked.

    `rows` are the rows of the log, `train.jsonl`.
    """
    lines = {name: [(row["step"], row[name]) for row in rows if row[name] is not None] for name in LINES}
    losses = [loss for points in lines.values() for _, loss in points]
    last, low, high = max(1, rows[-1]["step"]), min(losses), max(losses)
    low, high = low - 0.05 * (high - low or 1), high + 0.05 * (high - low or 1)

    def x(step: float) -> float:
        return LEFT + step / last * (WIDTH - LEFT - RIGHT)

    def y(loss: float) -> float:
        return TOP + (high - loss) / (high - low) * (HEIGHT - TOP - BOTTOM)

    def text(at_x: float, at_y: float, words: str, more: str = "") -> str:
        return f'<text x="{at_x:.1f}" y="{at_y:.1f}" {more}>{html.escape(words)}</text>'

    parts = [text(LEFT, 24, title, 'font-size="15" font-weight="bold"')]
    for loss in ticks(low, high):
        parts.append(f'<path d="M{LEFT} {y(loss):.1f}H{WIDTH - RIGHT}" stroke="#e4e4e4"/>')
        parts.append(text(LEFT - 8, y(loss) + 4, f"{loss:g}", 'text-anchor="end"'))
    for step in ticks(0, last, least=1):
        parts.append(text(x(step), HEIGHT - BOTTOM + 20, f"{step:,.0f}", 'text-anchor="middle"'))
    parts.append(text(WIDTH / 2, HEIGHT - 8, "steps", 'text-anchor="middle"'))
    parts.append(
        text(16, HEIGHT / 2, "nats per token", f'text-anchor="middle" transform="rotate(-90 16 {HEIGHT / 2})"')
    )
    for i, (name, points) in enumerate((name, points) for name, points in lines.items() if points):
        label, color = LINES[name]
        path = " ".join(f"{x(step):.1f},{y(loss):.1f}" for step, loss in points)
        parts.append(f'<polyline points="{path}" fill="none" stroke="{color}" stroke-width="2"/>')
        parts.append(text(WIDTH - RIGHT - 60 * i, TOP - 8, label, f'text-anchor="end" fill="{color}"'))
    if lines["val_loss"]:
        step, loss = min(lines["val_loss"], key=lambda point: point[1])
        parts.append(f'<circle cx="{x(step):.1f}" cy="{y(loss):.1f}" r="4" fill="{LINES["val_loss"][1]}"/>')
        parts.append(text(x(step), y(loss) - 10, f"{loss:.3f}", f'text-anchor="end" fill="{LINES["val_loss"][1]}"'))
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}"'
    style = 'font-family="sans-serif" font-size="12" fill="#333"><rect width="100%" height="100%" fill="#fff"/>'
    return "\n".join([f"{head} {style}", *parts, "</svg>\n"])


def ticks(low: float, high: float, least: float = 0) -> list[float]:
    """Return about five round numbers from `low` to `high`, with a distance of at least `least`.

    >>> ticks(0, 10)
    [0, 2, 4, 6, 8, 10]
    """
    exact = max((high - low) / 5, least)
    power = 10 ** math.floor(math.log10(exact))
    step = next(power * factor for factor in (1, 2, 5, 10) if power * factor >= exact)
    return [n * step for n in range(math.ceil(low / step), math.floor(high / step) + 1)]
