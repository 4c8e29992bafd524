"""Make the pictures of the explain page's README with a Chromium: `python -m tests.reference.make_pictures`."""

import tempfile
from pathlib import Path

from numpy_gpt2.explain import explain

from ..browser import Browser, Page, find

PROMPT = "KING RICHARD III:\nA horse! a horse! my kingdom for a"
FOLDER = Path(__file__).parents[2] / "numpy_gpt2" / "explain"


def picture(page: Page, path: Path, first: str, last: str, width: int) -> None:
    """Save the part of the page from one element to another, with a margin."""
    edges = "(x => document.querySelector(x).getBoundingClientRect())"
    left, top = page.evaluate(f"(box => [box.left + scrollX, box.top + scrollY])({edges}('{first}'))")
    bottom = page.evaluate(f"{edges}('{last}').bottom + scrollY")
    page.screenshot(path, int(left) - 12, int(top) - 8, width, int(bottom - top) + 16)


def main() -> None:
    executable = find()
    if executable is None:
        raise SystemExit("error: the pictures need a Chromium, and none was found")
    browser = Browser(executable)
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "explain.html"
        file.write_text(explain(PROMPT, "shakespeare", target=" king", ablate=True).page(), encoding="utf-8")
        page = browser.open(file.as_uri(), width=1280, height=1000)
        # A head that often looks at the previous token.
        page.evaluate("choose({ layer: 4, head: 2, position: 13, key: 12 })")
        page.evaluate("document.querySelector('.picker').style.position = 'static'")  # otherwise it covers the map
        picture(page, FOLDER / "attention.png", "#map-legend", "#map-output", 960)
        picture(page, FOLDER / "lens.png", "#lens", "#lens .two", 1016)
        browser.close()


if __name__ == "__main__":
    main()
