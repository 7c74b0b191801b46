"""What can be seen of one computation from inside the store only: who is waited for, and when a stopped owner loses."""

from __future__ import annotations

import signal
from contextlib import closing

from bencher_job._options import StoreOptions
from bencher_job._stores import Lease, open_store
from tests.leasing import is_waited_for
from tests.programs import Programs, until
from tests.test_one_computation import SLOW


def test_an_owner_that_was_stopped_for_long_does_not_replace_its_successors_entry(
    programs: Programs,
) -> None:
    owner = programs.start("owner", SLOW)
    programs.wait_for("owner.begun")
    impatient = """
    from bencher_job._stores import leases
    leases.STOPPED_PATIENCE = 1.0
    """
    other = programs.start("other", impatient + SLOW)
    assert until(lambda: programs.opens(other, "owners"))
    owner.send_signal(signal.SIGSTOP)
    programs.wait_for("other.begun")
    programs.tell("go_on")
    assert programs.output(other) == "other"
    owner.send_signal(signal.SIGCONT)
    assert programs.output(owner) == "owner", "the value always arrives"
    assert programs.output(programs.start("next", SLOW)) == "other"
    assert programs.count("1") == 2


def test_overwriting_shares_what_is_in_flight(programs: Programs) -> None:
    source = SLOW.replace('code="none"', 'code="none", overwrite=True')
    owner = programs.start("owner", source.replace("print", '(HERE / "key").write_text(slow.key(1)); print'))
    programs.wait_for("owner.begun")
    key = (programs.folder / "key").read_text()
    other = programs.start("other", source)
    with closing(
        open_store(programs.folder / "cachedir" / StoreOptions.cache_name, size_limit=10**9)
    ) as store:
        lease = Lease(key)
        lease.number = store.leases.owner_of(key).number
        assert until(lambda: is_waited_for(store, lease))
    programs.tell("go_on")
    assert {programs.output(owner), programs.output(other)} == {"owner"}
    assert programs.count("1") == 1
    assert programs.output(programs.start("next", source)) == "next"
