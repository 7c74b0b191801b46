"""What somebody sees in a terminal: tables that fit, colours where they are wanted, questions, and a quiet Ctrl-C."""

from __future__ import annotations

import re

import pexpect
import pytest

from tests.shell import PATIENCE, PROGRAM, Shell

ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")


def typed(shell: Shell, *words: str, columns: int = 80, **environment: str) -> pexpect.spawn:
    """Type a command in a terminal."""
    known = {name: value for name, value in shell.environment.items() if name not in {"COLUMNS", "NO_COLOR"}}
    return pexpect.spawn(
        str(PROGRAM),
        [*words],
        cwd=str(shell.folder),
        env={**known, "TERM": "xterm-256color", **environment},
        dimensions=(40, columns),
        encoding="utf-8",
        timeout=PATIENCE,
    )


def seen(shell: Shell, *words: str, columns: int = 80, **environment: str) -> str:
    """Give what a terminal shows of a command that ends well."""
    terminal = typed(shell, *words, columns=columns, **environment)
    text = terminal.read().replace("\r\n", "\n")
    terminal.close()
    assert terminal.exitstatus == 0, text
    return text


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> Shell:
    """A shell in a folder with long names and many entries, for commands that only read."""
    shell = Shell(tmp_path_factory.mktemp("long"))
    shell.program(
        """
        from bencher_job import cached_job

        @cached_job(tag="nightly")
        def a_function_with_quite_a_long_name(first_argument, second_argument, third_argument):
            return first_argument

        for number in range(60):
            a_function_with_quite_a_long_name("a long text " * 3, number, third_argument=[1, 2, 3])
        """,
        name="a_module_with_a_long_name",
    )
    return shell


@pytest.mark.parametrize("columns", [50, 80])
@pytest.mark.parametrize(
    "words", [["ls"], ["show", "--results"], ["stats"], ["du"], ["verify"], ["--help"], ["ls", "--help"]]
)
def test_nothing_is_wider_than_the_terminal(long: Shell, words: list[str], columns: int) -> None:
    if words == ["show", "--results"]:
        words = [*words, "--limit", "3"]
    text = ESCAPES.sub("", seen(long, *words, columns=columns))
    if words not in (["stats"], ["verify"]):  # which tell a path
        lines = [line for line in text.splitlines() if not line.startswith("bencher-job: ")]  # on stderr
        assert max(map(len, lines)) <= columns


@pytest.mark.parametrize("words", [["ls"], ["show", "--limit", "1"], ["show", "--results", "--limit", "1"]])
def test_a_narrow_terminal_leaves_columns_out_and_says_so(long: Shell, words: list[str]) -> None:
    lines = ESCAPES.sub("", seen(long, *words, columns=50)).splitlines()
    assert len(lines) < 18  # no column is so narrow that each letter has a line
    assert any("not shown in so narrow a terminal" in line for line in lines)
    assert "not shown" not in seen(long, *words, columns=160)


def test_a_wide_terminal_shows_each_record_in_one_line(long: Shell) -> None:
    lines = ESCAPES.sub("", seen(long, "show", columns=160)).splitlines()
    heading, titles, *records = lines
    name = "a_module_with_a_long_name.a_function_with_quite_a_long_name"
    assert re.fullmatch(rf"{name}, 50 entries, tag nightly, code [0-9a-f]{{10}}", heading)
    assert titles.split() == ["key", "begun", "took", "size", "arguments"]
    assert len(records) == 51
    assert records[-1] == "bencher-job: these are only the latest 50. Add --limit 0 for all."


def test_fields_of_a_config_that_are_the_same_stand_in_the_heading(shell: Shell) -> None:
    shell.program("""
        from bencher_job import cached_job

        @cached_job
        def train(cfg, seed):
            return seed

        base = {f"field_{number}": number for number in range(9)}
        train.sweep({"cfg.field_3": [1, 2]}, cfg=base, seed=1).run(progress=False)
    """)
    heading, rows = ESCAPES.sub("", seen(shell, "show", "train", columns=160)).split("key", 1)
    assert "cfg.field_8=8" in heading
    assert sorted(re.findall(r"cfg.*", rows)) == ["cfg.field_3=1, seed=1", "cfg.field_3=2, seed=1"]


def test_keys_are_short_in_a_terminal_and_lead_to_their_entry(long: Shell) -> None:
    line = ESCAPES.sub("", seen(long, "show", "--limit", "1", columns=160)).splitlines()[2]
    key = line.split()[0]
    assert len(key) == 10
    assert "second_argument=59" in seen(long, "show", key)


def test_colours_are_left_out_where_nobody_wants_them(study: Shell) -> None:
    assert "\x1b[" in seen(study, "ls")
    for environment in ({"NO_COLOR": "1"}, {"TERM": "dumb"}):
        assert "\x1b[3" not in seen(study, "ls", **environment)
    assert "\x1b" not in study.out("ls")


def test_without_rich_a_terminal_shows_plain_text(study: Shell) -> None:
    hidden = study.folder / "hidden"
    (hidden / "rich").mkdir(parents=True)
    (hidden / "rich" / "__init__.py").write_text("raise ImportError('hidden')")
    path = f"{hidden}:{study.environment['PYTHONPATH']}"
    for words in (["ls"], ["show"], ["stats"]):
        text = seen(study, *words, PYTHONPATH=path)
        assert "\x1b" not in text
        assert "study.score" in text or words == ["stats"]


@pytest.mark.parametrize(
    ("answer", "code", "left"), [("y", 0, 1), ("yes", 0, 1), ("n", 1, 5), ("", 1, 5), ("yy", 1, 5)]
)
def test_a_question_comes_before_anything_is_removed(study: Shell, answer: str, code: int, left: int) -> None:
    terminal = typed(study, "clear", "score")
    terminal.expect_exact("Remove 4 entries? [y/N] ")
    terminal.sendline(answer)
    said = terminal.read()
    terminal.close()
    assert terminal.exitstatus == code
    assert ("removed 4 entries" if code == 0 else "nothing is removed") in said
    assert len(study.document("show")["records"]) == left


def test_ctrl_c_at_a_question_removes_nothing_and_is_quiet(study: Shell) -> None:
    terminal = typed(study, "clear", "score")
    terminal.expect_exact("[y/N] ")
    terminal.sendintr()
    said = terminal.read()
    terminal.close()
    assert terminal.exitstatus == 130
    assert said.strip() in {"", "^C"}
    assert len(study.document("show")["records"]) == 5


def test_the_end_of_input_at_a_question_is_no(study: Shell) -> None:
    terminal = typed(study, "clear", "--all")
    terminal.expect_exact("[y/N] ")
    terminal.sendeof()
    assert "nothing is removed" in terminal.read()
    terminal.close()
    assert terminal.exitstatus == 1


def test_an_explanation_is_drawn_with_its_diff(shell: Shell) -> None:
    source = "from bencher_job import cached_job\n\n@cached_job\ndef score(x):\n    return x * {}\n"
    module = shell.folder / "model.py"
    module.write_text(source.format(2))
    shell.program("from model import score\nscore(1)")
    module.write_text(source.format(3))
    terminal = typed(shell, "explain", "model:score", "--arg", "x=1")
    text = ESCAPES.sub("", terminal.read())
    terminal.close()
    assert terminal.exitstatus == 1
    assert "a miss, the code has changed" in text
    assert "+    return x * 3" in text
