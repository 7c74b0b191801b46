"""An executor that runs each call in an interpreter of its own, as a batch system would."""

import pickle
import subprocess
import sys
from concurrent.futures import Executor, Future, ThreadPoolExecutor

RUN = """
import os, pickle, sys
answer = os.fdopen(os.dup(1), "wb")
os.dup2(2, 1)  # what a job prints is no part of its answer
function, args, kwargs = pickle.load(sys.stdin.buffer)
pickle.dump(function(*args, **kwargs), answer)
"""


class Interpreters(Executor):
    def __init__(self, number: int) -> None:
        self._threads = ThreadPoolExecutor(number)

    def submit(self, function, /, *args, **kwargs) -> Future:
        return self._threads.submit(run, pickle.dumps((function, args, kwargs)))

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        self._threads.shutdown(wait, cancel_futures=cancel_futures)


def run(call: bytes) -> object:
    ended = subprocess.run([sys.executable, "-c", RUN], input=call, stdout=subprocess.PIPE, check=False)
    if ended.returncode:
        raise RuntimeError(f"the interpreter ended with {ended.returncode}")
    return pickle.loads(ended.stdout)
