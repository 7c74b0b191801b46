"""A soak: programs work, are killed, stopped and started, and others clear, while an oracle checks each value.

pytest tests/test_soak.py --soak 60
"""

from __future__ import annotations

import random
import signal
import subprocess
import time
from collections import Counter

import pytest

from tests.programs import Programs

WORK = """
    import random, warnings
    warnings.simplefilter("ignore")
    chance = random.Random(NAME)

    def note(what, x):
        with open(HERE / f"{what}.log", "ab", buffering=0) as file:
            file.write(f"{x}\\n".encode())

    def expected(x):
        return {"x": x, "text": str(x) * 10, "bytes": bytes([x % 256]) * (100_000 if x % 7 == 0 else 10)}

    EXECUTOR = os.environ["EXECUTOR"]

    @cached_job(code="none", executor=EXECUTOR, max_workers=None if EXECUTOR == "serial" else 2)
    def kept(x):
        note("begun", x)
        return expected(x)

    @cached_job(code="none", executor=EXECUTOR, max_workers=None if EXECUTOR == "serial" else 2)
    def cleared(x):
        return expected(x)

    @cached_job(code="none")
    def pictured(x):
        path = gen_path("picture")
        Path(path).write_text(str(x))
        return path
"""

SUBMIT = f"""{WORK}
    if __name__ == "__main__":
        tell("ready")
        while not (HERE / "stop").exists():
            x = chance.randrange(2000)
            match chance.randrange(6):
                case 0 | 1:
                    good = kept(x) == expected(x)
                    note("done", x)
                case 2:
                    some = [chance.randrange(2000) for _ in range(10)]
                    futures = [kept.submit(each) for each in some]
                    good = [future.result() for future in futures] == [expected(each) for each in some]
                    for each in some:
                        note("done", each)
                case 3:
                    some = [chance.randrange(2000) for _ in range(20)]
                    good = list(cleared.map(some)) == [expected(each) for each in some]
                case 4:
                    good = cleared(x) == expected(x)
                case 5:
                    path = pictured(x % 50)
                    try:
                        good = Path(path).read_text() == str(x % 50)
                    except FileNotFoundError:  # cleared since
                        good = True
            if not good:
                note("wrong", x)
            note("values", x)
"""

CLEAR = f"""{WORK}
    if __name__ == "__main__":
        tell("ready")
        while not (HERE / "stop").exists():
            match chance.randrange(4):
                case 0:
                    cleared.cache.clear_cache()
                case 1:
                    pictured.cache.clear_cache()
                case 2:
                    list(kept.cache.records())
                case 3:
                    kept.cache.verify()
            time.sleep(chance.random() / 5)
"""

CHECK = f"""{WORK}
    if __name__ == "__main__":
        done = {{int(line) for line in (HERE / "done.log").read_text().split()}}
        print(len([x for x in done if not kept.is_cached(x)]), len([x for x in done if kept(x) != expected(x)]))
        kept.cache.verify(repair=True)
        print(kept.cache.verify().is_clean)
"""


@pytest.mark.timeout(0)
def test_no_value_is_wrong_or_lost_while_programs_are_killed(
    programs: Programs, request: pytest.FixtureRequest
) -> None:
    seconds: float = request.config.getoption("--soak")
    if not seconds:
        pytest.skip("it takes a minute: give --soak 60")
    seed = random.randrange(1 << 32)
    print("seed", seed)
    chance = random.Random(seed)
    numbers = iter(range(1 << 30))
    kills = 0

    def start() -> subprocess.Popen[str]:
        number = next(numbers)
        source = CLEAR if number % 4 == 3 else SUBMIT
        executor = chance.choice(["serial", "threads", "multiprocessing"])
        return programs.start(f"p{number}", source, EXECUTOR=executor)

    running = [start() for _ in range(4)]
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(chance.random())
        victim = chance.randrange(len(running))
        program = running[victim]
        assert program.poll() is None, programs.errors()
        blow = chance.choice([signal.SIGKILL, signal.SIGKILL, signal.SIGSTOP])
        program.send_signal(blow)
        if blow == signal.SIGSTOP:
            time.sleep(chance.random())
            program.send_signal(signal.SIGCONT)
        else:
            kills += 1
            program.communicate()
            running[victim] = start()
    programs.tell("stop")
    for program in running:
        programs.output(program)
    wrong = programs.folder / "wrong.log"
    assert not wrong.exists(), wrong.read_text()
    begun = Counter((programs.folder / "begun.log").read_text().split())
    values = len((programs.folder / "values.log").read_text().split())
    print(f"{values} values, {kills} kills, {begun.total() - len(begun)} jobs begun again")
    assert values > seconds
    # A killed program takes its jobs in flight along, 2 workers' and 10 that were handed out before.
    assert begun.total() - len(begun) <= 12 * kills
    assert programs.output(programs.start("check", CHECK, EXECUTOR="serial")) == "0 0\nTrue"
