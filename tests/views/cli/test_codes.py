"""The reference names every exit code and every fault."""

from __future__ import annotations

import re

from bencher_job._cli.command import Exit
from bencher_job._stores.verification import Fault

from .test_reference import SECTIONS, named


def test_every_exit_code_is_told() -> None:
    told = {int(code) for code in re.findall(r"^\| (\d+) \|", SECTIONS["Exit codes"], re.MULTILINE)}
    assert told == {int(code) for code in Exit}


def test_every_fault_is_told() -> None:
    assert {fault.name.lower() for fault in Fault} <= named(SECTIONS["verify"])
