"""A program on another machine: it obeys lines of JSON, and answers each with one.

    python client.py PLACE [SCHEMA]

["ask", key], ["put", key, value], ["get", key], ["close"]
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

from bencher_job._shared import Remote, Unreachable, entry_address, open_remote

LEASE_SECONDS = float(os.environ.get("LEASE_SECONDS", "1"))


def remote_at(place: str, schema: str = "", lease_seconds: float = LEASE_SECONDS) -> Remote:
    if not schema:
        return open_remote(place, lease_seconds=lease_seconds)
    from bencher_job._shared.rows import RowRemote

    remote = RowRemote(place, schema=schema, lease_seconds=lease_seconds)
    try:
        remote.open()
    except Unreachable:
        pass
    return remote


def obey(remote: Remote, verb: str, key: str = "", value: Any = None) -> object:
    address = entry_address("f", key)
    if verb == "ask":
        asked = remote.ask([address])
        return [asked.found[address].decode() if address in asked.found else None, address in asked.leases]
    if verb == "put":
        return [each.decode() for each in remote.put_many({address: value.encode()}).values()]
    if verb == "get":
        return [each.decode() for each in remote.get_many([address]).values()]
    assert verb == "close"
    return remote.close()


def race(remote: Remote, keys: list[str], start: int, window: int) -> tuple[int, dict[str, str]]:
    """Get the values of all keys, and compute those that nobody else does; how many were computed, and the values."""
    order, runs, values = keys[start:] + keys[:start], 0, dict[str, str]()
    while left := [key for key in order if key not in values]:
        some = {entry_address("f", key): key for key in left[:window]}
        asked = remote.ask(some)
        values |= {some[address]: content.decode() for address, content in asked.found.items()}
        made = {address: os.urandom(8).hex() for address in asked.leases}
        runs += len(made)
        winners = remote.put_many({address: value.encode() for address, value in made.items()})
        made |= {address: content.decode() for address, content in winners.items()}
        values |= {some[address]: value for address, value in made.items()}
        others = [address for address, key in some.items() if key not in values]
        if others and not made and not asked.found:
            time.sleep(0.01)
    return runs, values


def main() -> None:
    remote = remote_at(*sys.argv[1:])
    print(json.dumps(remote.session), flush=True)
    for line in sys.stdin:
        verb, *arguments = json.loads(line)
        try:
            if verb == "race":
                keys, start, window, at = arguments
                while time.time() < at:
                    time.sleep(0.001)
                answer: object = race(remote, keys, start, window)
            else:
                answer = obey(remote, verb, *arguments)
        except Unreachable as error:
            answer = {"unreachable": str(error)}
        print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main()
