"""The reference names every command, option, exit code and field, and none that there isn't."""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path

import pytest

from bencher_job._cli import COMMANDS
from bencher_job._cli.command import Command, Exit
from bencher_job._cli.parser import parser_of
from bencher_job._stores.verification import Fault
from tests.shell import Shell

PAGE = (Path(__file__).parents[3] / "docs" / "reference" / "cli.md").read_text()
SECTIONS = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE))
SHARED = {
    name: {*re.findall(r"`(--?[a-z][a-z-]*)", SECTIONS[name])} for name in ("Which cache", "Which entries")
}

each_command = pytest.mark.parametrize("command", COMMANDS, ids=lambda command: command.name)


def options_of(command: Command) -> set[str]:
    parser = parser_of([command])
    (subparsers,) = (a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    actions = subparsers.choices[command.name]._actions
    return {option for action in actions for option in action.option_strings} - {"-h", "--help"}


def named(text: str) -> set[str]:
    """The words in code of a text."""
    return {word for code in re.findall(r"`([^`]+)`", text) for word in re.findall(r"[\w-]+", code)}


@each_command
def test_a_command_has_a_section_with_its_own_options(command: Command) -> None:
    section = SECTIONS[command.name]
    own = {*re.findall(r"^\| .*?\|", section, re.MULTILINE)}
    documented = {option for row in own for option in re.findall(r"`(--?[a-z][a-z-]*)", row)}
    options = options_of(command)
    expected = options - SHARED["Which cache"]
    if "--where" in options:
        expected -= SHARED["Which entries"]
    assert documented == expected


@each_command
def test_the_options_that_say_which_cache_are_all_commands(command: Command) -> None:
    has = options_of(command) & SHARED["Which cache"]
    wanted = {"--cache-dir", "--cache-name", "--trust", "--wait"}
    assert has == (set() if command.name == "completion" else wanted)


def test_no_section_is_of_a_command_that_there_is_not() -> None:
    small = {name for name in SECTIONS if name.islower()}
    assert small == {command.name for command in COMMANDS}


def test_every_exit_code_is_told() -> None:
    told = {int(code) for code in re.findall(r"^\| (\d+) \|", SECTIONS["Exit codes"], re.MULTILINE)}
    assert told == {int(code) for code in Exit}


def test_every_fault_is_told() -> None:
    assert {fault.name.lower() for fault in Fault} <= named(SECTIONS["verify"])


def fields_in(document: object) -> set[str]:
    """The names of all fields, but for those that arguments and results have."""
    if isinstance(document, list):
        return set().union(*map(fields_in, document))
    if isinstance(document, dict):
        inner = (
            fields_in(item)
            for name, item in document.items()
            if name not in {"arguments", "result", "value", "removed"}
        )
        return set(document).union(*inner)
    return set()


@pytest.mark.parametrize(
    "words",
    [
        ["ls"],
        ["show", "--results"],
        ["show", "KEY", "--value"],
        ["stats"],
        ["du"],
        ["verify"],
        ["explain", "model:score", "--arg", "c=3"],
    ],
    ids=" ".join,
)
def test_every_field_of_a_document_is_told(study: Shell, words: list[str]) -> None:
    (study.folder / "model.py").write_text(
        "from bencher_job import cached_job\n\n@cached_job\ndef score(c):\n    return c\n"
    )
    study.program("from model import score\nscore(1)")
    key = study.document("show", "model.score")["records"][0]["key"]
    ended = study.run(*(key if word == "KEY" else word for word in words), "--json")
    document = json.loads(ended.stdout)
    told = named(SECTIONS[words[0]]) | named(SECTIONS["JSON"])
    if words[0] == "explain":
        told |= named(SECTIONS["show"])
    assert fields_in(document) <= told
