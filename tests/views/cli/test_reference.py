"""The reference names every command, option, exit code and field, and none that there isn't."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from tests.shell import Shell

PAGE = (Path(__file__).parents[3] / "docs" / "reference" / "cli.md").read_text()
SECTIONS = dict(re.findall(r"^## (.+?)\n(.*?)(?=^## |\Z)", PAGE, re.DOTALL | re.MULTILINE))
SHARED = {
    name: {*re.findall(r"`(--?[a-z][a-z-]*)", SECTIONS[name])} for name in ("Which cache", "Which entries")
}

COMMANDS = sorted(name for name in SECTIONS if name.islower())

each_command = pytest.mark.parametrize("command", COMMANDS)


def options_of(shell: Shell, command: str) -> set[str]:
    text = shell.out(command, "--help").partition("\nexamples:")[0]
    options = re.findall(r"^  (--?[a-z][a-z-]*)(?:.*?, (--?[a-z][a-z-]*))?", text, re.MULTILINE)
    return {option for pair in options for option in pair if option} - {"-h", "--help"}


def named(text: str) -> set[str]:
    """The words in code of a text."""
    return {word for code in re.findall(r"`([^`]+)`", text) for word in re.findall(r"[\w-]+", code)}


@each_command
def test_a_command_has_a_section_with_its_own_options(shell: Shell, command: str) -> None:
    section = SECTIONS[command]
    own = {*re.findall(r"^\| .*?\|", section, re.MULTILINE)}
    documented = {option for row in own for option in re.findall(r"`(--?[a-z][a-z-]*)", row)}
    options = options_of(shell, command)
    expected = options - SHARED["Which cache"]
    if "--where" in options:
        expected -= SHARED["Which entries"]
    assert documented == expected


@each_command
def test_the_options_that_say_which_cache_are_all_commands(shell: Shell, command: str) -> None:
    has = options_of(shell, command) & SHARED["Which cache"]
    wanted = {"--cache-dir", "--cache-name", "--trust", "--wait"}
    assert has == (set() if command == "completion" else wanted)


def test_each_command_has_a_section_and_no_section_is_of_another(shell: Shell) -> None:
    commands = shell.out("--help").partition("\ncommands:\n")[2]
    assert sorted(re.findall(r"^    ([a-z]+)", commands, re.MULTILINE)) == COMMANDS


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
