from math import factorial

from dask.distributed import Client

from bencher_job import cached_job


def study(n: int) -> int:
    return factorial(n)


if __name__ == "__main__":
    with Client(n_workers=2, threads_per_worker=1, dashboard_address=None) as client:
        remembered = cached_job(executor=client)(study)
        print(list(remembered.map([3, 4, 5])))
        remembered.cache.close()
