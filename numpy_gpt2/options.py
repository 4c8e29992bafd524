"""The options of `python -m numpy_gpt2`, and the checks of its command line."""

from __future__ import annotations

import argparse
import dataclasses
import secrets
import sys

from .arguments import LIMITS, PROBABILITY
from .cli import Parser, argument_type, non_negative_int, nonempty_text, positive_int
from .samples import Settings
from .tokenizer import ENDOFTEXT

EXAMPLES = """\
examples:
  python -m numpy_gpt2 "Alan Turing theorized that computers would one day"
  python -m numpy_gpt2 --greedy -n 40 "The dog"            always the same text
  python -m numpy_gpt2 --greedy --no-repeat-ngram 3 "Run"  no 3 tokens twice
  python -m numpy_gpt2 -m gpt2-xl -t 1 -k 0 -p 0.9 "Once"  nucleus sampling
  python -m numpy_gpt2 -m shakespeare --seed 7 "ROMEO:"    the bundled model
  python -m numpy_gpt2 --num-samples 3 --stop . "I think"  up to a full stop
  python -m numpy_gpt2 --json --stats - < prompt.txt       the prompt is a file
  python -m numpy_gpt2 -n 20 --prompts prompts.txt         a prompt per line
  python -m numpy_gpt2 -i                                  type prompts, one after another
  python -m numpy_gpt2 --params                            GPT-2's parameters

other programs, each with its own --help:
  python -m numpy_gpt2 train …     train a model on a text
  python -m numpy_gpt2 evaluate …  measure how well a model predicts a text
  python -m numpy_gpt2 explain …   show a prompt inside the model
  python -m numpy_gpt2 learn …     write GPT-2's functions yourself
A prompt that is one of these four words follows --, as in: -- train
"""


def parse_arguments(argv: list[str] | None) -> argparse.Namespace:
    """Read and check the command line."""
    temperature = argument_type(float, *LIMITS["temperature"][1:])
    probability = argument_type(float, *PROBABILITY[1:])
    n_top = argument_type(int, lambda k: 0 <= k <= 1_000, "a whole number from 0 to 1,000")
    penalty = argument_type(float, *LIMITS["repetition_penalty"][1:])
    n_samples = argument_type(int, lambda n: 1 <= n <= 10_000, "a whole number from 1 to 10,000")
    n_beams = argument_type(int, lambda n: 1 <= n <= 100, "a whole number from 1 to 100")
    length_penalty = argument_type(float, *LIMITS["length_penalty"][1:])

    parser = Parser(
        prog="python -m numpy_gpt2",
        usage="%(prog)s [options] [PROMPT]",
        description="Continue a text with GPT-2. The text goes to stdout, messages go to stderr.",
        epilog=EXAMPLES,
    )
    add = parser.add_argument
    parser.add_prompt("the text to continue")
    help = (
        "each line of FILE is a prompt, a JSON string if it begins with a quotation mark; - is standard input;"
        ' implies --json: the results come in the order of the lines, {"error": …} for a bad line'
    )
    add("--prompts", metavar="FILE", help=help)
    help = (
        "a session: each line that is typed is a prompt, and an empty line continues the text so far; Ctrl-C stops"
        " a text, Ctrl-D ends the session"
    )
    add("-i", "--interactive", action="store_true", help=help)
    parser.add_model()
    help = "generate at most N tokens (default: 100)"
    add("-n", "--max-new-tokens", metavar="N", type=positive_int, default=100, help=help)
    help = "end before TEXT; can be given several times; TEXT is literal: in bash, two line ends are $'\\n\\n'"
    add("--stop", metavar="TEXT", type=nonempty_text, action="append", default=[], help=help)
    help = f"do not end at the model's end of text: any eos_token_id of its config, else {ENDOFTEXT}"
    add("--ignore-eos", action="store_true", help=help)
    help = "draft tokens from earlier text; same output, faster where the text repeats (default: on)"
    add("--lookup", action=argparse.BooleanOptionalAction, default=True, help=help)
    parser.add_with()

    add = parser.add_argument_group("sampling").add_argument
    help = (
        "lower values prefer probable tokens more strongly; 0 always takes the most probable one, and then -k, -p and"
        " --min-p have no effect (default: 0.8)"
    )
    add("-t", "--temperature", metavar="X", type=temperature, help=help)
    help = "sample from the K most probable tokens; 0 turns this off (default: 40)"
    add("-k", "--top-k", metavar="K", type=non_negative_int, help=help)
    help = "sample from the smallest set of most probable tokens whose total is P or more (default: off)"
    add("-p", "--top-p", metavar="P", type=probability, help=help)
    help = "sample from tokens with at least P times the probability of the most probable one (default: off)"
    add("--min-p", metavar="P", type=probability, help=help)
    help = "always take the most probable token; contradicts -t, -k, -p and --min-p"
    add("--greedy", action="store_true", help=help)
    help = "above 1, tokens that are in the prompt or the text become less probable; 1 turns this off (default: 1)"
    add("--repetition-penalty", metavar="X", type=penalty, default=1.0, help=help)
    help = "never repeat N tokens in a row from the prompt or the text; 0 turns this off (default: 0)"
    add("--no-repeat-ngram", metavar="N", type=non_negative_int, default=0, help=help)
    help = "random seed; the same seed gives the same text; prompt i of --prompts or -i has N + i - 1 (default: random)"
    add("-s", "--seed", metavar="N", type=non_negative_int, help=help)
    help = "generate N continuations as one batch, with a line before each (default: 1)"
    add("--num-samples", metavar="N", type=n_samples, default=1, help=help)

    add = parser.add_argument_group("beam search").add_argument
    help = "search with B beams, then print the best text that was found; --stop cuts this text; --lookup has no effect"
    add("--beams", metavar="B", type=n_beams, help=help)
    help = "with --beams: a text of n tokens has the score ln p / n^X; a larger X prefers longer texts (default: 1)"
    add("--length-penalty", metavar="X", type=length_penalty, help=help)

    add = parser.add_argument_group("output").add_argument
    add("--json", action="store_true", help="print each sample as a JSON object in one line")
    help = "with --json: the log-probability and the rank of each token, and the K most probable tokens there"
    add("--logprobs", metavar="K", type=n_top, help=help)
    add("--echo", action="store_true", help="with --logprobs: the same for the tokens of the prompt")
    add("--stats", action="store_true", help="print the seed, timings, speed and memory on stderr")
    add("--params", action="store_true", help="print a table of the model's parameters and exit")

    arguments = parser.parse_args(argv)
    if arguments.params:  # other options have no effect
        return arguments
    check_sources(parser, arguments)
    if arguments.logprobs is not None and not arguments.json:
        parser.error("--logprobs adds a list to the JSON object of a sample; it needs --json")
    if arguments.echo and arguments.logprobs is None:
        parser.error("--echo adds the log-probabilities of the prompt; it needs --logprobs K")
    check_decoding(parser, arguments)
    defaults = {"temperature": 0.0 if arguments.greedy else 0.8, "top_k": 40, "length_penalty": 1.0}
    for name, value in {**defaults, "seed": secrets.randbits(32)}.items():
        if getattr(arguments, name) is None:
            setattr(arguments, name, value)
    return arguments


def check_sources(parser: Parser, arguments: argparse.Namespace) -> None:
    """Exit with an error unless prompts come from one place, and have one way out. `--prompts` implies `--json`."""
    if arguments.prompts is not None:
        if arguments.prompt is not None or arguments.interactive:
            parser.error(
                "--prompts FILE has all the prompts, so it contradicts PROMPT and -i; leave out one or the other"
            )
        if arguments.prompts == "-" and sys.stdin is None:
            parser.error("standard input is closed; give the name of a file instead of -")
        arguments.json = True
    elif arguments.interactive:
        others = {"--json": arguments.json, "--num-samples": arguments.num_samples > 1}
        if flags := [flag for flag, given in others.items() if given]:
            parser.error(f"-i prints one text after each line that is typed, so it contradicts {', '.join(flags)}")
        if arguments.prompt == "-" or sys.stdin is None:
            problem = "is closed" if sys.stdin is None else "is not one prompt; PROMPT cannot be -"
            parser.error(f"-i reads lines from standard input, which {problem}")
    else:
        parser.check_prompt(arguments.prompt)


def check_decoding(parser: Parser, arguments: argparse.Namespace) -> None:
    """Exit with an error if options contradict `--greedy` or `--beams`, or need `--beams`."""
    sampling = {
        "-t": arguments.temperature,
        "-k": (arguments.top_k or 1) > 1,
        "-p": (arguments.top_p or 1) < 1,
        "--min-p": arguments.min_p,
    }
    others = {
        "-t": arguments.temperature is not None,  # 0 is greedy
        "--greedy": arguments.greedy,
        "--seed": arguments.seed is not None,
        "--num-samples": arguments.num_samples > 1,
        "--logprobs": arguments.logprobs is not None,
    }
    for chosen, reason, contradicted in (
        (arguments.greedy, "--greedy does not sample", sampling),
        (arguments.beams, "--beams prints the best text of a search", sampling | others),
    ):
        if chosen and (flags := [flag for flag, given in contradicted.items() if given]):
            parser.error(f"{reason}, so it contradicts {', '.join(flags)}; leave out one or the other")
    if arguments.length_penalty is not None and not arguments.beams:
        parser.error("--length-penalty is for the scores of a beam search; it needs --beams B")


def settings_of(arguments: argparse.Namespace) -> Settings:
    """The settings of generation among the arguments."""
    return Settings(**{field.name: getattr(arguments, field.name) for field in dataclasses.fields(Settings)})
