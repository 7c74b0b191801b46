"""Parse a command line, run its command, and offer completion to shells."""

from __future__ import annotations

import os
import re
import shutil
import sys
import textwrap
import warnings
from argparse import ArgumentParser, Namespace, RawDescriptionHelpFormatter
from collections.abc import Callable, Sequence
from io import TextIOWrapper
from typing import Any, Final

from .._errors import CacheWarning
from .._text import did_you_mean
from .._version import VERSION
from .command import Command, Exit, Failed, Misused
from .places import FAILURES, complain, failure_of, warn

SHELLS: Final = ("bash", "zsh", "fish")


def offer_completion(parser: ArgumentParser) -> None:
    """Print completions and end the process if a shell asks for them."""
    if "_ARGCOMPLETE" in os.environ:
        import argcomplete  # installed, since the shell runs its script

        argcomplete.autocomplete(parser)


def _configure(parser: ArgumentParser) -> None:
    parser.add_argument("shell", choices=SHELLS, help="which shell")


def _completion(arguments: Namespace) -> int:
    try:
        from argcomplete.shell_integration import shellcode
    except ImportError as error:
        raise Failed(
            "completion needs argcomplete, which is not installed. Run: pip install 'bencher_job[cli]'"
        ) from error
    print(shellcode(["bencher-job"], shell=arguments.shell))
    return 0


COMPLETION: Final = Command(
    "completion",
    "print the script that lets a shell complete commands, options, functions, keys and tags",
    _configure,
    _completion,
    (
        'eval "$(bencher-job completion bash)"                                    # in ~/.bashrc',
        'autoload -U compinit && compinit; eval "$(bencher-job completion zsh)"   # in ~/.zshrc',
        "bencher-job completion fish | source                                     # in config.fish",
    ),
)


def parser_of(commands: Sequence[Command]) -> ArgumentParser:
    """Make the parser of all commands."""
    parser = ArgumentParser(
        prog="bencher-job",
        description="Look after a cache of bencher_job. Reading commands change nothing, and none but those that take "
        "MODULE:FUNCTION imports code.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"bencher-job {VERSION}")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", dest="command", required=True)
    width = shutil.get_terminal_size().columns - 2  # as argparse wraps all else; the examples stay whole
    for command in commands:
        subparser = subparsers.add_parser(
            command.name,
            help=command.summary,
            description=textwrap.fill(f"{command.summary[0].upper()}{command.summary[1:]}.", width),
            epilog="\n  ".join(("examples:", *command.examples)) if command.examples else None,
            formatter_class=RawDescriptionHelpFormatter,
            allow_abbrev=False,  # so that new options don't change the meaning of scripts
        )
        command.configure(subparser)
        subparser.set_defaults(run=command.run, parser=subparser)
    return parser


def run(commands: Sequence[Command], words: Sequence[str] | None = None) -> int:
    """Run the command of a command line, by default this process's, and return its exit code.

    Raises:
        SystemExit: when the command line is invalid, or asks for help.
    """
    parser = parser_of(commands)
    offer_completion(parser)
    if isinstance(sys.stdout, TextIOWrapper):  # the terminal's encoding may lack characters of an argument
        sys.stdout.reconfigure(errors="backslashreplace")
    with warnings.catch_warnings():
        warnings.simplefilter("always", CacheWarning)
        warnings.showwarning = _show_warning
        return _ended(lambda: _run(_parsed(parser, commands, words)))


def _run(arguments: Namespace) -> int:
    status: int = arguments.run(arguments)
    sys.stdout.flush()
    return status


def _parsed(parser: ArgumentParser, commands: Sequence[Command], words: Sequence[str] | None) -> Namespace:
    """Parse a command line. Functions and keys may follow options, which argparse doesn't support itself."""
    words = sys.argv[1:] if words is None else words
    names = [command.name for command in commands]
    if words and not words[0].startswith("-") and words[0] not in names:
        raise Misused(
            f"no command is called {words[0]}{did_you_mean(words[0], names) or '.'} --help lists them."
        )
    arguments, others = parser.parse_known_args(words)
    if others and (not hasattr(arguments, "targets") or any(word.startswith("-") for word in others)):
        wrong = next((word for word in others if word.startswith("-")), others[0])
        known = re.findall(r"--[a-z-]+", arguments.parser.format_usage())
        hint = did_you_mean(wrong.partition("=")[0], known)
        arguments.parser.print_usage(sys.stderr)
        raise Misused(f"{arguments.command} doesn't take {wrong}{hint or '.'} --help lists what it takes.")
    if others:
        arguments.targets = [*arguments.targets, *others]
    return arguments


def _ended(work: Callable[[], int]) -> int:
    try:
        return work()
    except KeyboardInterrupt:
        if sys.stderr.isatty():
            print(file=sys.stderr)  # move on from the line with ^C
        return Exit.INTERRUPTED
    except BrokenPipeError:
        # The reader has closed the pipe. Without this, Python would report it again at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return Exit.DONE
    except Misused as error:
        complain(str(error))
        return Exit.USAGE
    except FAILURES as error:
        failure = failure_of(error)
    except Failed as error:
        failure = error
    complain(str(failure))
    return failure.code


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    warn(str(message))
