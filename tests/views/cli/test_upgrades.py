"""A database of an earlier version is refused until a repair brings it up to date."""

from __future__ import annotations

import itertools
from contextlib import closing

from bencher_job._stores.database import Database
from bencher_job._stores.schema import UPGRADES
from tests.shell import Shell


def test_a_database_of_an_earlier_version_is_brought_up_to_date_by_a_repair(shell: Shell) -> None:
    directory = shell.folder / "cachedir" / "fcache"
    directory.mkdir(parents=True, mode=0o700)
    with closing(Database(str(directory))) as old:
        old.make()
        for statement in itertools.chain.from_iterable(UPGRADES[:2]):
            old.execute(statement)
        old.execute("PRAGMA user_version = 2")
    code, sentence = shell.failure("ls")
    assert code == 5
    assert "tables are of version 2" in sentence
    assert "bencher-job verify --repair brings it up to date" in sentence
    shell.out("verify", "--repair")
    assert shell.out("ls") == "no entries\n"
