"""Caches over a shared store: whoever is cut off, killed or stopped, there is one value for each key."""

from __future__ import annotations

import json
import signal
import textwrap
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from .machines import Place
from .proxy import Proxy
from .test_sharing import Hosts, hosts_at, program

SHORT_LEASES = """
    from bencher_job._shared import open_remote, waits
    open_remote.__kwdefaults__["lease_seconds"] = 1.0
    waits.ASK_EVERY = 0.5
"""

DRAW = """
    import json, random, warnings

    @cached_job(version="1", **OPTIONS)
    def draw(x):
        count("run")
        return random.getrandbits(64)

    def pushed(cached):
        return cached.cache.cache.behind.courier.flush(10) == 0
"""


def drawing(source: str, **options: object) -> str:
    return textwrap.dedent(DRAW).replace("OPTIONS", repr(options)) + textwrap.dedent(source)


def leased(source: str) -> str:
    """A program whose job takes as long as the test wants on machine a, with leases of a second."""
    waits = DRAW.replace("OPTIONS", "{}").replace(
        "return random", 'wait_for("go") if sys.argv[1] == "a" else None\n        return random'
    )
    return textwrap.dedent(SHORT_LEASES) + textwrap.dedent(waits) + textwrap.dedent(source)


@pytest.fixture
def hosts(tmp_path: Path, few: Place) -> Iterator[Hosts]:
    """Programs on one engine of names and on one of rows: what is above the engines is the same for all."""
    each = hosts_at(tmp_path, few)
    yield each
    each.end()


@pytest.fixture
def behind_proxy(network: tuple[Place, Place, Proxy], tmp_path: Path) -> Iterator[tuple[Hosts, Hosts, Proxy]]:
    """Programs that reach a server at once, and programs that reach it through a proxy."""
    direct, behind, proxy = network
    near = hosts_at(tmp_path, direct)
    far = Hosts(tmp_path)
    far.shared, far.environment = near.shared, dict(behind.environment)
    if direct.schema:
        server = direct.url.partition("@")[2].partition("/")[0]
        far.shared = near.shared.replace(server, f"127.0.0.1:{proxy.port}")
    yield near, far, proxy
    near.end()
    far.end()


def test_overwrite_replaces_the_shared_result(hosts: Hosts) -> None:
    show = drawing("print(draw(1)); assert pushed(draw)")
    first = hosts.output(hosts.on("a", show))
    assert hosts.output(hosts.on("b", show)) == first
    second = hosts.output(hosts.on("a", drawing("print(draw(1)); assert pushed(draw)", overwrite=True)))
    assert second != first
    assert hosts.output(hosts.on("c", show)) == second
    look = drawing(
        """
        deadline = time.monotonic() + 60
        while draw(1) != int(sys.argv[2]) and time.monotonic() < deadline:
            time.sleep(0.01)
        print(draw(1))
        """
    )
    assert hosts.output(hosts.on("b", look, second)) == second
    assert hosts.count("run") == 2


def test_what_is_computed_after_a_removal_replaces(hosts: Hosts) -> None:
    """Though the removal may still be on its way."""
    again = drawing(
        """
        before = draw(1)
        assert pushed(draw)
        assert draw.cache.clear_cache() == 1
        after = draw(1)
        assert after != before and draw(1) == after
        assert pushed(draw)
        print(after)
        """
    )
    after = hosts.output(hosts.on("a", again))
    assert hosts.output(hosts.on("b", drawing("print(draw(1))"))) == after


def test_jobs_with_keys_made_by_hand_are_shared_pulled_and_removed(hosts: Hosts) -> None:
    use = """
    def seven():
        count("run")
        return 7

    cache = FutureCache(overwrite=False)
    future = cache.submit(Job("a", seven, {}, job_key="made by hand"))
    assert future.result() == 7
    store = cache.cache.behind
    assert store.courier.flush(10) == 0
    assert store.pull("e/") == 0
    """
    hosts.output(hosts.on("a", use))
    hosts.output(hosts.on("b", use))
    assert hosts.count("run") == 1
    remove = (
        use
        + """
    assert store.remove(["made by hand"]) == 1
    assert store.courier.flush(10) == 0
    """
    )
    hosts.output(hosts.on("a", remove))
    see = """
    cache = FutureCache()
    deadline = time.monotonic() + 60
    while "made by hand" in cache.cache and time.monotonic() < deadline:
        time.sleep(0.01)
    assert "made by hand" not in cache.cache
    """
    hosts.output(hosts.on("b", see))


def test_an_expired_result_gives_way(hosts: Hosts) -> None:
    show = "print(draw(1)); assert pushed(draw)"
    first = hosts.output(hosts.on("a", drawing(show)))
    assert hosts.output(hosts.on("b", drawing(show, ttl=600))) == first
    between = time.time()
    second = hosts.output(hosts.on("b", drawing(show, ttl=1e-9)))
    assert second != first
    assert hosts.output(hosts.on("c", drawing(show))) == second
    assert hosts.count("run") == 2
    # Who still has the first one, and finds it too old, gets the second.
    choosy = f"print(draw.with_options(ttl=time.time() - {between})(1))"
    assert hosts.output(hosts.on("a", drawing(choosy))) == second
    assert hosts.count("run") == 2


def test_a_result_that_lost_gives_way_in_the_call_itself(hosts: Hosts) -> None:
    """If it is stored before the call returns."""
    late = drawing(
        """
        from bencher_job._shared.tier import SharedStore
        draw(0)
        SharedStore.ask = lambda *_, **__: ({}, set())  # as without leases
        wait_for("go")
        value = draw(1)
        assert draw(1) == value
        print(value, draw.cache.info().shared.superseded)
        """
    )
    running = hosts.on("a", late, BENCHER_JOB_SHARED_WRITE="through")
    first = hosts.output(hosts.on("b", drawing("print(draw(1)); assert pushed(draw)")))
    hosts.tell("go")
    assert hosts.output(running) == f"{first} 1"


def test_lost_answers_cost_nothing(behind_proxy: tuple[Hosts, Hosts, Proxy]) -> None:
    """Whichever answer is lost, of a job that is computed and of a hit."""
    near, far, proxy = behind_proxy
    source = drawing(
        """
        warnings.simplefilter("ignore")
        draw(0)
        assert pushed(draw)
        drawn = []
        for x in range(1, 8):
            tell(f"is ready for {x}")
            wait_for(f"{NAME} {x}")
            drawn.append(draw(x))
            deadline = time.monotonic() + 60
            while (now := draw.cache.info().shared).outbox or now.problem:
                assert time.monotonic() < deadline, now
                time.sleep(0.01)
        print(drawn)
        """
    )
    drawn = {}
    for name in ("a", "b"):
        running = far.on(name, source)
        for number in range(1, 8):
            far.wait_for(f"{name}.is ready for {number}")
            proxy.lose_at = number
            far.tell(f"{name} {number}")
        drawn[name] = json.loads(far.output(running))
        proxy.lose_at = 0
    look = drawing("print([draw(x) for x in range(1, 8)])")
    assert json.loads(near.output(near.on("c", look))) == drawn["a"]
    # What was lost for good may be the answer to the question itself; then the job runs, and its result gives way.
    assert sum(one != other for one, other in zip(drawn["a"], drawn["b"], strict=True)) <= 3


def test_what_a_killed_process_has_not_pushed_is_pushed_by_the_next(hosts: Hosts) -> None:
    victim = drawing(
        """
        from bencher_job._shared.courier import Courier
        draw(0)
        assert pushed(draw)
        Courier._push_group = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
        draw(1)
        time.sleep(20)
        """
    )
    assert hosts.on("a", victim).wait(60) == -signal.SIGKILL
    value = hosts.output(hosts.on("a", drawing("print(draw(1)); assert pushed(draw)")))
    assert hosts.output(hosts.on("b", drawing("print(draw(1))"))) == value
    assert hosts.count("run") == 2


def test_two_processes_push_one_outbox(hosts: Hosts) -> None:
    fill = drawing(
        """
        from bencher_job._shared.courier import Courier
        Courier._push_group = lambda *_: None
        print(sum(draw.map(range(300))))
        os._exit(0)
        """
    )
    filler = hosts.on("a", fill)
    total = filler.communicate(timeout=60)[0].strip()
    both = [hosts.on("a", drawing("draw(0); assert pushed(draw)")) for _ in range(2)]
    for each in both:
        hosts.output(each)
    look = drawing("print(sum(draw.map(range(300))), draw.cache.info().shared.superseded)")
    if total:
        assert hosts.output(hosts.on("b", look)) == f"{total} 0"
        assert hosts.count("run") == 300


def test_an_owner_that_is_killed_is_taken_over_while_another_waits(hosts: Hosts) -> None:
    source = leased("draw(1)")
    first = hosts.on("a", source)
    hosts_until(lambda: hosts.count("run") == 1)
    second = hosts.on("b", source)
    time.sleep(1.5)  # it waits, for the owner lives
    assert second.poll() is None
    assert hosts.count("run") == 1
    hosts.kill(first)
    hosts.output(second)
    assert hosts.count("run") == 2


def hosts_until(holds: Callable[[], bool]) -> None:
    from tests.programs import until

    assert until(holds)


def test_an_owner_that_was_stopped_takes_the_result_of_the_next(hosts: Hosts) -> None:
    source = leased("""
    draw(1)
    assert pushed(draw)
    print(draw(1), draw.cache.info().shared.superseded)
    """)
    stopped = hosts.on("a", source)
    hosts_until(lambda: hosts.count("run") == 1)
    stopped.send_signal(signal.SIGSTOP)
    value = hosts.output(hosts.on("b", source)).split()[0]
    hosts.tell("go")
    stopped.send_signal(signal.SIGCONT)
    assert hosts.output(stopped) == f"{value} 1"
    assert hosts.count("run") == 2


def test_a_cut_longer_than_a_lease_leaves_one_value(behind_proxy: tuple[Hosts, Hosts, Proxy]) -> None:
    near, far, proxy = behind_proxy
    source = leased("""
    warnings.simplefilter("ignore")
    draw(1)
    tell("has computed")
    wait_for("all")
    deadline = time.monotonic() + 60
    while (left := draw.cache.info().shared.outbox) and time.monotonic() < deadline:
        time.sleep(0.01)
    print(draw(1), left)
    """)
    cut = far.on("a", source)
    hosts_until(lambda: far.count("run") == 1)
    proxy.is_cut = True
    other = near.on("b", source)
    near.wait_for("b.has computed")
    far.tell("go")
    far.wait_for("a.has computed")
    proxy.is_cut = False
    far.tell("all")
    assert near.output(other) == far.output(cut)


@pytest.mark.parametrize("url", ["postgresql://nobody@127.0.0.1:9/none", "s3://bucket/none"])
def test_a_server_that_never_existed_costs_nearly_nothing(tmp_path: Path, url: str) -> None:
    pytest.importorskip("psycopg" if url.startswith("p") else "obstore", exc_type=ImportError)
    hosts = Hosts(tmp_path)
    hosts.shared = url
    hosts.environment = {
        "AWS_ENDPOINT_URL": "http://127.0.0.1:9",
        "AWS_ACCESS_KEY_ID": "key",
        "AWS_SECRET_ACCESS_KEY": "secret",
    }
    source = drawing(
        """
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            draw(0)
            clock = time.monotonic()
            for x in range(200):
                draw(x)
            spent = time.monotonic() - clock
            told = [each for each in caught if "can't be reached" in str(each.message)]
        print(json.dumps([len(told), spent]))
        """
    )
    try:
        told, spent = json.loads(hosts.output(hosts.on("a", source)))
        assert told == 1
        assert spent < 200 * 0.005 * 4  # of a machine that is not idle
    finally:
        hosts.end()


def test_eight_processes_compute_each_of_300_keys_once(tmp_path: Path) -> None:
    hosts = Hosts(tmp_path)
    hosts.shared, hosts.environment = str(tmp_path / "team"), {}
    source = program(
        """
    wait_for("go")
    at = int(NAME[1:]) * 37
    xs = [(at + x) % 300 for x in range(300)]
    assert [work(x) for x in xs] == expected(xs)
    """,
        0.05,
    )
    try:
        running = [hosts.on(f"h{number}", source) for number in range(8)]
        hosts.tell("go")
        for each in running:
            hosts.output(each)
        assert hosts.count("run") == 300
    finally:
        hosts.end()


def test_round_trips_are_counted(behind_proxy: tuple[Hosts, Hosts, Proxy]) -> None:
    near, far, proxy = behind_proxy
    near.output(near.on("b", drawing("draw(1); draw(2); assert pushed(draw)")))
    is_rows = far.shared.startswith("postgresql")
    source = drawing(
        """
        def after(step):
            assert pushed(draw)
            tell(f"{step} done")
            wait_for(f"after {step}")

        draw(0)
        time.sleep(0.5)
        after("warm")
        draw(1)
        after("hit")
        draw.cache.cache.behind._seconds.clear()
        draw(3)
        after("computed")
        draw(3)
        after("local")
        """
    )
    running = far.on("a", source)
    spent = {}
    before = 0
    for step in ("warm", "hit", "computed", "local"):
        far.wait_for(f"a.{step} done")
        spent[step], before = proxy.round_trips - before, proxy.round_trips
        far.tell(f"after {step}")
    far.output(running)
    del spent["warm"]
    assert spent["hit"] <= 1
    assert spent["local"] == 0
    assert spent["computed"] <= (2 if is_rows else 5), spent


@pytest.mark.parametrize("network", ["postgres"], indirect=True)
def test_many_hits_take_few_round_trips(behind_proxy: tuple[Hosts, Hosts, Proxy]) -> None:
    """One for a thousand; objects take one each."""
    near, far, proxy = behind_proxy
    near.output(near.on("b", drawing("sum(draw.map(range(3000)))"), BENCHER_JOB_SHARED=""))
    near.output(near.on("b", drawing("assert draw.cache.cache.behind.push_all() == 3000")))
    source = drawing(
        """
        keys = [draw.key(x) for x in range(3000)]
        tell("is ready")
        wait_for("go")
        draw.cache.cache
        time.sleep(0.5)
        tell("is open")
        wait_for(f"{NAME} on")
        assert len(draw.cache.prefetch(keys)) == 3000
        tell("has all")
        wait_for(f"{NAME} end")
        """
    )
    spent = {}
    for name, act in {
        "a": source,
        "c": source.replace("draw.cache.prefetch(keys)", "list(draw.map(range(3000)))"),
    }.items():
        running = far.on(name, act)
        far.tell("go")
        far.wait_for(f"{name}.is open")
        before = proxy.round_trips
        far.tell(f"{name} on")
        far.wait_for(f"{name}.has all")
        spent[name] = proxy.round_trips - before
        far.tell(f"{name} end")
        far.output(running)
    assert near.count("run") == 3000
    assert spent["a"] <= 4
    assert spent["c"] <= 18, spent  # the first groups are small


def test_a_copy_that_waits_to_be_stored_is_dropped_with_its_entry(hosts: Hosts) -> None:
    """Another process of the machine has removed it; what it leaves alone is still a hit, and stored in the end."""
    hosts.output(hosts.on("a", drawing("draw(0); draw(1); draw(2); assert pushed(draw)")))
    late = drawing(
        """
        from bencher_job._shared import tier
        tier.COMMIT_AFTER = 60
        for x in (0, 1, 2):
            draw(x)
        tell("has copies")
        wait_for("is removed")
        draw(1), draw(2)
        info = draw.cache.info()
        print(info.computed, info.shared.hits, info.entries, draw.explain(2).is_hit)
        """
    )
    running = hosts.on("b", late)
    hosts.wait_for("b.has copies")
    remove = drawing("draw(1); assert draw.cache.cache.remove([draw.key(1)]) == 1; assert pushed(draw)")
    hosts.output(hosts.on("b", remove, "another"))
    hosts.tell("is removed")
    assert hosts.output(running) == "1 3 3 True"
    assert hosts.count("run") == 4


def test_a_copy_that_waits_to_be_stored_gives_way_to_what_replaces_it(hosts: Hosts) -> None:
    hosts.output(hosts.on("a", drawing("draw(0); assert pushed(draw)")))
    late = drawing(
        """
        from bencher_job._shared import tier
        tier.COMMIT_AFTER = 60
        draw.remember(7, 1), draw.remember(8, 1)  # a store in which nothing was ever replaced keeps nothing in memory
        assert draw(0) == draw(0)
        tell("has a copy")
        wait_for("is replaced")
        print(draw(0), draw(0), draw.peek(0))
        """
    )
    running = hosts.on("b", late)
    hosts.wait_for("b.has a copy")
    hosts.output(hosts.on("b", drawing("draw.remember(5, 0)"), "another"))
    hosts.tell("is replaced")
    assert hosts.output(running) == "5 5 5"


def test_forget_reaches_what_only_others_have(hosts: Hosts) -> None:
    """The shared store, and the memory of another process of the machine."""
    hosts.output(hosts.on("a", drawing("draw(0); draw(1); draw(2); assert pushed(draw)")))
    late = drawing(
        """
        from bencher_job._shared import tier
        tier.COMMIT_AFTER = 60
        draw(0), draw(1)
        tell("has copies")
        wait_for("is forgotten")
        draw(1)
        print(draw.cache.info().computed)
        """
    )
    running = hosts.on("b", late)
    hosts.wait_for("b.has copies")
    forget = "assert draw.forget(1) and draw.forget(2) and not draw.forget(3) and pushed(draw)"
    hosts.output(hosts.on("b", drawing(forget), "another"))
    hosts.tell("is forgotten")
    assert hosts.output(running) == "1"
    hosts.output(hosts.on("c", drawing("draw(0), draw(2)")))
    assert hosts.count("run") == 5


def test_what_is_removed_while_it_is_fetched_is_not_kept(hosts: Hosts) -> None:
    """Neither as a copy in memory nor, as larger values are, in the local store."""
    make = """
        @cached_job(version="1")
        def table(x):
            count("run")
            return os.urandom(100_000)
    """
    hosts.output(
        hosts.on("a", drawing("draw(0); draw(1)") + textwrap.dedent(make) + "table(1); assert pushed(draw)")
    )
    fetch = drawing(make) + textwrap.dedent(
        """
        draw(0)
        draw.cache.cache.behind.copies.commit()
        remote = draw.cache.cache.behind.breaker.remote
        for name in ("get_many", "ask"):
            def late(addresses, request=getattr(remote, name)):
                answer = request(addresses)
                if not os.path.exists(HERE / "is removed"):
                    tell("has bytes")
                    wait_for("is removed")
                return answer
            setattr(remote, name, late)
        draw(1) if sys.argv[2] == "copy" else table(1)
        print(draw.cache.info().computed + table.cache.info().computed)
        """
    )
    for kind, forget in {"copy": "draw", "large": "table"}.items():
        running = hosts.on(f"b {kind}", fetch, kind)
        hosts.wait_for(f"b {kind}.has bytes")
        hosts.output(hosts.on(f"b {kind}", drawing(make) + f"assert {forget}.forget(1)", "another"))
        hosts.tell("is removed")
        assert hosts.output(running) == "1"
        (hosts.folder / "is removed").unlink()


def test_a_forked_child_and_its_parent_go_on(hosts: Hosts) -> None:
    source = drawing(
        """
        first = draw(1)
        child = os.fork()
        if not child:
            try:
                assert draw(1) == first
                draw(2)
                os._exit(0)  # objects are left to the parent
            finally:
                os._exit(4)
        draw(3)
        _, status = os.waitpid(child, 0)
        assert status == 0, status
        assert pushed(draw)
        print([draw(x) for x in (1, 2, 3)])
        """
    )
    drawn = hosts.output(hosts.on("a", source, PYTHONWARNINGS="ignore"))
    assert hosts.output(hosts.on("b", drawing("print([draw(x) for x in (1, 2, 3)])"))) == drawn
    assert hosts.count("run") == 3


def test_readers_look_up_and_push_nothing(hosts: Hosts) -> None:
    value = hosts.output(hosts.on("a", drawing("print(draw(1)); assert pushed(draw)")))
    read = drawing("print(draw(1)); draw(2); assert draw.cache.info().shared.outbox == 0")
    assert hosts.output(hosts.on("b", read, BENCHER_JOB_SHARED_MODE="read")) == value
    hosts.output(hosts.on("c", drawing("draw(2)")))
    assert hosts.count("run") == 3


def test_large_files_and_coroutines_are_shared(hosts: Hosts) -> None:
    source = """
    import asyncio

    @cached_job(version="1")
    async def write(x):
        count("run")
        path = gen_path("large", suffix=".bin")
        Path(path).write_bytes(bytes([x]) * 17_000_000)
        return [path]

    (path,) = asyncio.run(write(7))
    assert Path(path).is_relative_to(write.cache.directory)
    assert Path(path).read_bytes() == bytes([7]) * 17_000_000
    write.cache.close()
    """
    hosts.output(hosts.on("a", source))
    hosts.output(hosts.on("b", source))
    assert hosts.count("run") == 1


def test_caching_that_is_off_or_elsewhere_leaves_the_shared_store_alone(tmp_path: Path) -> None:
    hosts = Hosts(tmp_path)
    hosts.shared, hosts.environment = str(tmp_path / "team"), {}
    source = drawing(
        """
        from bencher_job.testing import temporary_cache
        if NAME == "off":
            draw(1)
        else:
            with temporary_cache():
                draw(1)
                assert draw.cache.info().shared is None
        assert not (HERE / "team").exists()
        """
    )
    try:
        hosts.output(hosts.on("off", source, BENCHER_JOB="off"))
        hosts.output(hosts.on("temporary", source))
    finally:
        hosts.end()


def test_each_flipped_byte_makes_an_entry_a_miss(tmp_path: Path) -> None:
    """Of its head, value and files; as do a cut, and the entry of another job."""
    make = """
    from bencher_job._shared import shared_signature
    from bencher_job._shared.entry import Writer, read_entries
    from bencher_job._shared.tier import Copies

    @cached_job(version="1")
    def write(x):
        if x < 3:
            Path(gen_path("picture")).write_text(f"picture {x}")
        return {"x": x}

    write(1), write(2), write(3)
    shared = HERE / "team"
    paths = [path for path in (shared / "e").rglob("*") if path.is_file()]
    store, signature = write.cache.cache.behind.local, shared_signature(str(shared))
    write.cache.cache.behind.end()
    store.clear()
    store.get("")
    writer = Writer(store, lambda _: None)
    copies = Copies(store, writer, write.cache.cache.behind.courier)

    def take(content):
        entries, taken = read_entries({address: content}, signature)
        others = copies.keep(entries, copies.moment())
        copied = len(entries) - len(others)
        copies.commit()
        writer.store(others, taken)
        return copied, len(taken.keys)

    ways = set()
    for path in paths:
        address, content = str(path.relative_to(shared)), path.read_bytes()
        other = next(each for each in paths if each != path)
        forged = [content[:at] + bytes([content[at] ^ 1]) + content[at + 1 :] for at in range(len(content))]
        forged += [content[:at] for at in range(0, len(content), 7)] + [other.read_bytes(), content + b"x"]
        accepted = [number for number, each in enumerate(forged) if any(take(each))]
        assert not accepted, (accepted, len(content))
        assert len(store) == 0
        ways.add(take(content))
        assert len(store) == 1
        store.clear()
    assert ways == {(1, 0), (0, 1)}
    """
    hosts = Hosts(tmp_path)
    hosts.shared, hosts.environment = str(tmp_path / "team"), {}
    try:
        hosts.output(hosts.on("a", make))
        unsigned = {
            "BENCHER_JOB_SHARED": str(tmp_path / "unsigned"),
            "BENCHER_JOB_CACHE_DIR": str(tmp_path / "b"),
        }
        hosts.output(hosts.start("a", make.replace("team", "unsigned"), **unsigned))
    finally:
        hosts.end()


def test_ctrl_c_ends_a_job_and_those_who_wait_go_on(hosts: Hosts) -> None:
    """At once, though a lease lasts a minute."""
    source = leased("draw(1); assert pushed(draw)").replace(
        '["lease_seconds"] = 1.0', '["lease_seconds"] = 60.0'
    )
    first = hosts.on("a", source)
    hosts_until(lambda: hosts.count("run") == 1)
    waiting = [hosts.on(name, source + "\ntell('is done')") for name in ("b", "c")]
    time.sleep(0.5)  # both wait, as far as can be seen from outside
    waiting[0].send_signal(signal.SIGINT)
    assert waiting[0].wait(60) != 0
    assert first.poll() is None
    assert waiting[1].poll() is None
    first.send_signal(signal.SIGINT)
    assert first.wait(60) != 0
    hosts.output(waiting[1])
    assert hosts.count("run") == 2
