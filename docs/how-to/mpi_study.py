from math import factorial

from mpi4py.futures import MPIPoolExecutor

from bencher_job import cached_job


def study(n: int) -> int:
    return factorial(n)


if __name__ == "__main__":
    with MPIPoolExecutor() as executor:
        remembered = cached_job(executor=executor)(study)
        print(list(remembered.map([3, 4, 5])))
        remembered.cache.close()
