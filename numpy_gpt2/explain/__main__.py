"""The command: `python -m numpy_gpt2.explain "PROMPT"` writes the page. `--text` prints a report, `--serve` is live."""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import webbrowser
from pathlib import Path

from ..cli import Parser, argument_type, exit_status, load_model, nonempty_text, positive_int, read_prompt
from ..console import print_stderr, write
from ..files import staged_writes
from . import explain
from .analysis import MAX_TOKENS, read_tokens
from .size import check_size

PAGE = "explain.html"  # the default output

port = argument_type(int, lambda n: 1 <= n <= 65535, "a port, a whole number from 1 to 65535")

EXAMPLES = """\
examples:
  python -m numpy_gpt2.explain "The cat sat on the" --open
  python -m numpy_gpt2.explain "Paris is in" --target " France" --ablate
  python -m numpy_gpt2.explain -m shakespeare --text "To be, or not to"
  python -m numpy_gpt2.explain -m shakespeare --serve --open
"""


def make_parser() -> Parser:
    """The command line."""
    parser = Parser(
        prog="python -m numpy_gpt2.explain",
        usage="%(prog)s [options] [PROMPT]",
        description="Show how GPT-2 processes a prompt, step by step, on a page that works offline in any browser.",
        epilog=EXAMPLES,
    )
    parser.add_prompt("the text to explain")
    parser.add_model()
    add = parser.add_argument
    add("-o", "--output", metavar="PAGE.html", help=f"file to write the page to (default: {PAGE})")
    add("--open", action="store_true", help="open the page in the browser")
    add("--serve", action="store_true", help="serve a page with an input line on this computer, until Ctrl-C")
    add("--port", metavar="N", type=port, help="port of --serve (default: any free one)")
    add(
        "--target",
        metavar="TEXT",
        type=nonempty_text,
        help="explain the probability of TEXT; it usually starts with a space (default: the most probable next token)",
    )
    add("--ablate", action="store_true", help="remove each head and each MLP in turn, and measure the effect")
    add("--text", action="store_true", help="print a report instead of writing a page")
    add(
        "--max-tokens",
        metavar="N",
        type=positive_int,
        default=MAX_TOKENS,
        help=f"show at most the last N tokens of the prompt (default: {MAX_TOKENS})",
    )
    parser.add_with(needs_hook=True)
    return parser


def command(argv: list[str] | None) -> int:
    """Run the command line. Returns the exit status."""
    parser = make_parser()
    arguments = parser.parse_args(argv)
    if arguments.serve:
        check_serve(parser, arguments)
        return serve(arguments)
    if arguments.port is not None:
        parser.error("--port is a setting of --serve; add --serve, or leave out --port")
    parser.check_prompt(arguments.prompt)
    if arguments.text and (arguments.output is not None or arguments.open):
        parser.error("--text prints a report and makes no page; leave out --text, or leave out -o and --open")

    path = None if arguments.text else page_path(PAGE if arguments.output is None else arguments.output)
    prompt, model = read_prompt(arguments.prompt), load_model(arguments)
    if path is not None:
        tokens, _, _ = read_tokens(prompt, model, arguments.target, arguments.max_tokens)
        check_size(model.config, len(tokens))
    explanation = explain(
        prompt,
        model,
        target=arguments.target,
        ablate=arguments.ablate,
        max_tokens=arguments.max_tokens,
        progress=True,
    )
    if explanation.notice:
        chosen = len(explanation.tokens) == arguments.max_tokens
        print_stderr(f"note: {explanation.notice}; {'--max-tokens changes this' if chosen else 'they fill the window'}")
    if path is None:
        write(explanation.text(shutil.get_terminal_size((100, 24)).columns))
        return 0
    page = explanation.page()
    with staged_writes(path.parent) as staging:
        (staging / path.name).write_text(page, encoding="utf-8")
    write(f"{path}\n")
    if arguments.open:
        open_page(path.as_uri())
    return 0


def open_page(address: str) -> None:
    """Open a page in the browser, or say that there is none."""
    if not webbrowser.open(address):
        print_stderr("note: there is no browser to open the page with")


def check_serve(parser: Parser, arguments: argparse.Namespace) -> None:
    """Exit with an error if --serve stands beside an option that it excludes."""
    options = {"-o": arguments.output, "--text": arguments.text, "--target": arguments.target}
    given = [name for name, value in {**options, "--ablate": arguments.ablate}.items() if value]
    if given:
        parser.error(f"--serve excludes {given[0]}; leave out one of them")


def serve(arguments: argparse.Namespace) -> int:
    """Serve the live page until Ctrl-C, which ends the command with 130. Only PROMPT - reads standard input."""
    from .server import Server

    prompt = "" if arguments.prompt is None else read_prompt(arguments.prompt)
    dtype = "int8" if arguments.int8 else "float32"
    with Server(load_model(arguments), dtype, prompt, arguments.max_tokens, arguments.port or 0) as server:
        write(f"{server.address}\n")
        if arguments.open:
            open_page(server.address)
        server.serve_forever()
    return 0


def page_path(name: str) -> Path:
    """The file that the page is written to. Raises ValueError at once if it cannot be written."""
    path = Path(os.path.realpath(name))
    folder = next(parent for parent in (path.parent, *path.parents) if parent.exists())
    if not (folder.is_dir() and os.access(folder, os.W_OK)) or (path.exists() and not path.is_file()):
        raise ValueError(f"{path} cannot be written; choose another file with -o")
    return path


def main(argv: list[str] | None = None) -> int:
    """The command. Returns the exit status."""
    return exit_status(lambda: command(argv))


if __name__ == "__main__":
    sys.exit(main())
