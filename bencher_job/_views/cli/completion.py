"""Knows how a shell comes to complete the words of `bencher-job`: a script that it reads once, made by argcomplete."""

from __future__ import annotations

import os
from argparse import ArgumentParser, Namespace
from typing import Final

from .command import Command, Failed

__all__ = ["COMPLETION", "offer_completion"]

SHELLS: Final = ("bash", "zsh", "fish")


def offer_completion(parser: ArgumentParser) -> None:
    """Answer a shell that asks for completions, and end the process; do nothing where none asks."""
    if "_ARGCOMPLETE" in os.environ:
        import argcomplete  # only a shell that read its script asks

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
