"""After an upgrade of a library its users' jobs run again, and nothing is kept under a wrong version."""

from __future__ import annotations

from pathlib import Path

import pytest

from bencher_job import cached_job
from tests.distributions import Site

LEARN = "def fit(x):\n    return x, '{}'\n"


@pytest.fixture
def site(tmp_path: Path) -> Site:
    site = Site(tmp_path / "environment")
    site.install("scikit-learn", "1.6.1", sklearnish____init__=LEARN.format("1.6.1"))
    return site


def upgrade(site: Site, version: str = "1.7.0") -> None:
    site.install("scikit-learn", version, sklearnish____init__=LEARN.format(version))


STUDY = """
    import sklearnish
    from bencher_job import cached_job

    @cached_job
    def score(x):
        return sklearnish.fit(x)
"""


def test_after_an_upgrade_jobs_run_again_and_the_old_results_are_there_after_a_downgrade(site: Site) -> None:
    program = STUDY + "\n    print(score.is_cached(1), score(1))"
    assert site.run(program) == ["False (1, '1.6.1')"]
    assert site.run(program) == ["True (1, '1.6.1')"]
    upgrade(site)
    assert site.run(program)[-1] == "False (1, '1.7.0')"
    assert site.run(program) == ["True (1, '1.7.0')"]
    upgrade(site, "1.6.1")
    assert site.run(program) == ["True (1, '1.6.1')"]


def test_explain_names_both_versions(site: Site) -> None:
    site.run(STUDY + "\n    score(1)")
    upgrade(site)
    told = site.run(STUDY + "\n    print(score.explain(1)); print(score.explain(1).distributions_changed)")
    assert told[0] == "study.score(x=1): a miss, a library has another version"
    assert "  scikit-learn 1.6.1 -> 1.7.0" in told
    assert told[-1] == "(('scikit-learn', '1.6.1', '1.7.0'),)"
    without = site.run(STUDY.replace("cached_job\n\n    def", "cached_job(libraries=False)\n    def"))
    assert without == []


def test_a_first_miss_names_the_remedy_once_and_it_gives_the_old_results(site: Site) -> None:
    site.run(STUDY + "\n    score(1), score(2), score(3)")
    upgrade(site)
    warned, *told = site.run(STUDY + "\n    print(score(1)); print(score(2))")
    assert warned == (
        "warning: Results of study.score were computed with another version of a library, scikit-learn 1.6.1 -> 1.7.0, "
        "so its jobs run again. To accept those results without computing, call score.cache.adopt()."
    )
    assert told == ["(1, '1.7.0')", "(2, '1.7.0')"]
    assert site.run(STUDY + "\n    print(score(1), score(4))") == ["(1, '1.7.0') (4, '1.7.0')"], "4 is new"
    assert site.run(STUDY + "\n    print(score.cache.adopt()); print(score(3))") == ["1", "(3, '1.6.1')"]
    assert site.run(STUDY + "\n    print(score.cache.clear_cache())")


def test_a_call_that_has_an_old_result_is_told_of_though_others_have_run_since(site: Site) -> None:
    site.run(STUDY + "\n    score(1), score(2)")
    upgrade(site)
    site.run(STUDY + "\n    score(1)")
    assert "score.cache.adopt()" in site.run(STUDY + "\n    score(3), score(2)")[0]
    assert site.run(STUDY + "\n    score(1)") == []


def test_the_remedy_names_the_results_that_it_means(site: Site) -> None:
    site.run(STUDY + "\n    score(1)")
    site.run(STUDY.replace("fit(x)", "fit(-x)") + "\n    score(1)")
    upgrade(site)
    (warned,) = site.run(STUDY + "\n    score(1)")
    remedy = warned.rpartition("call ")[2].rstrip(".")
    assert remedy.startswith("score.cache.adopt('")
    site.run(STUDY + "\n    score.forget(1)")
    assert site.run(STUDY + f"\n    print({remedy}); print(score(1))") == ["1", "(1, '1.6.1')"]


@pytest.mark.parametrize("what", ["overwrite=True", "libraries=False", "version=2", "executor='threads'"])
def test_who_is_warned(site: Site, what: str) -> None:
    site.run(STUDY + "\n    score(1)")
    upgrade(site)
    told = site.run(STUDY.replace("@cached_job", f"@cached_job({what})") + "\n    score(1)")
    assert bool(told) is (what == "executor='threads'")


def test_a_sweep_is_warned_once(site: Site) -> None:
    site.run(STUDY + "\n    list(score.map([1, 2, 3]))")
    upgrade(site)
    told = site.run(STUDY + "\n    print(list(score.map([1, 2, 3]))[2])")
    assert [line.partition(",")[0] for line in told] == [
        "warning: Results of study.score were computed with another version of a library",
        "(3",
    ]


def test_no_library_counts_with_the_option_off(site: Site) -> None:
    program = STUDY.replace("@cached_job", "@cached_job(libraries=False)") + "\n    print(score(1))"
    assert site.run(program) == ["(1, '1.6.1')"]
    upgrade(site)
    assert site.run(program) == ["(1, '1.6.1')"]


CLASSES = """
    import sys, sklearnish
    from bencher_job import cached_job

    class Model:
        def fit(self, x):
            return sklearnish.fit(x)

    @cached_job({})
    def run(model):
        return model.fit(1)
    print(run(Model()))
"""


@pytest.mark.parametrize("options", ["", "libraries=False", "libraries=['numpy']"])
def test_libraries_of_the_classes_of_arguments_count_as_the_function_says(site: Site, options: str) -> None:
    site.run(CLASSES.format(options))
    upgrade(site)
    assert site.run(CLASSES.format(options)) == [f"(1, '{'1.6.1' if options else '1.7.0'}')"]


PLAIN = """
    import sklearnish
    from bencher_job import cached_job

    @cached_job
    def evaluate(function, model):
        return model.value
    print(evaluate.key(sklearnish.fit, sklearnish.Model()))
"""


def test_objects_and_functions_of_libraries_that_are_arguments_count_by_value(site: Site) -> None:
    keys = set()
    for version in ("1.6.1", "1.7.0"):
        code = "class Model:\n    value = 1\ndef fit(x): return x\n"
        site.install("scikit-learn", version, sklearnish____init__=code)
        keys |= set(site.run(PLAIN))
    assert len(keys) == 1


UPGRADED = """
    import sys, time
    started = time.time()
    import sklearnish
    from bencher_job import cached_job
    from pathlib import Path
    from tests.distributions import Site

    @cached_job({})
    def score(x):
        return sklearnish.fit(x)

    site = object.__new__(Site)
    site.folder = Path(sys.argv[1])
    while time.time() < started + 0.2:  # a process that has just started has loaded nothing
        time.sleep(0.01)
    {}
    print(score(1), score(2))
    print(score.is_cached(1), score.is_cached(2), score.cache.info().unsaved)
"""
UPGRADE = "site.install('scikit-learn', '1.7.0', sklearnish____init__='def fit(x): return x')"


@pytest.mark.parametrize("executor", ["", "executor='threads'"])
@pytest.mark.parametrize(
    "change", [UPGRADE, f"score.key(1); {UPGRADE}", "score.key(1); site.uninstall('scikit-learn')"]
)
def test_after_an_upgrade_without_a_restart_results_arrive_and_are_not_kept(
    site: Site, change: str, executor: str
) -> None:
    program = UPGRADED.format(executor, change)
    warned, *told = site.run(program, arguments=(str(site.folder),))
    assert "scikit-learn was installed, upgraded or removed after this process started" in warned
    assert told == ["(1, '1.6.1') (2, '1.6.1')", "False False 2"]


WORKERS = """
    import sys
    if __name__ == "__mp_main__":  # in workers that a plain executor has spawned
        sys.path.insert(0, sys.argv[2])
    import sklearnish
    from bencher_job import cached_job

    def prefer(folder):
        sys.path.insert(0, folder)

    class Model:
        def fit(self, x):
            return sklearnish.fit(x)

    if __name__ == "__main__":
        from concurrent.futures import ProcessPoolExecutor
        import multiprocessing
        name, other = sys.argv[1:]
        workers = {"initializer": prefer, "initargs": (other,), "max_workers": 2}
        if name == "ProcessPoolExecutor":
            context = multiprocessing.get_context("spawn")
            workers = {"executor": ProcessPoolExecutor(mp_context=context, **workers)}
        else:
            workers["executor"] = name

        @cached_job(**workers)
        def score(x):
            return sklearnish.fit(x)

        @cached_job(**workers)
        def of_a_model(model, x):
            return model.fit(x)

        @cached_job(**workers, libraries=False)
        def careless(x):
            return sklearnish.fit(x)

        print(list(score.map([1, 2]))[1])
        print(score.is_cached(1), score.cache.info().unsaved)
        print(of_a_model.submit(Model(), 1).result())
        print(of_a_model.is_cached(Model(), 1))
        print(careless.submit(1).result(), careless.is_cached(1))
"""


@pytest.mark.parametrize("executor", ["multiprocessing", "ProcessPoolExecutor"])
def test_the_value_of_a_worker_with_another_version_arrives_and_is_not_kept(
    site: Site, tmp_path: Path, executor: str
) -> None:
    other = Site(tmp_path / "other")
    other.install("scikit-learn", "1.7.0", sklearnish____init__=LEARN.format("1.7.0"))
    told = site.run(WORKERS, arguments=(executor, str(other.folder)))
    warnings = [line for line in told if line.startswith("warning")]
    assert [line for line in told if line not in warnings] == [
        "(2, '1.7.0')",
        "False 2",
        "(1, '1.7.0')",
        "False",
        "(1, '1.7.0') True",
    ]
    assert [line.partition(". The caller")[0] for line in warnings] == [
        f"warning: The result of study.{name} is not kept: a worker has scikit-learn 1.7.0 instead of 1.6.1. "
        "Install the same versions there"
        for name in ("score", "of_a_model")
    ]


def test_a_worker_with_the_same_versions_keeps_its_results(site: Site) -> None:
    told = site.run(WORKERS, arguments=("multiprocessing", str(site.folder)))
    assert told == ["(2, '1.6.1')", "True 0", "(1, '1.6.1')", "True", "(1, '1.6.1') True"]


OWN_POOL = """
    import pickle, sys
    if __name__ == "__mp_main__":
        sys.path.insert(0, sys.argv[1])
    import sklearnish
    from bencher_job import CodeMismatch, FutureCache, Job, JobFuture, cached_job, run_job

    def prefer(folder):
        sys.path.insert(0, folder)

    class Model:
        def fit(self, x):
            return sklearnish.fit(x)

    def score(x):
        return sklearnish.fit(x)

    def of_a_model(model):
        return model.fit(1)

    @cached_job(libraries=False)
    def careless(x):
        return sklearnish.fit(x)

    def plain(x):
        return x

    if __name__ == "__main__":
        from concurrent.futures import ProcessPoolExecutor
        import multiprocessing
        jobs = [
            Job("plain", plain, {"x": 1}),
            Job("careless", careless, {"x": 1}),
            Job("score", score, {"x": 1}),
            Job("model", of_a_model, {"model": Model()}),
        ]
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool, FutureCache() as cache:
            for job in jobs:
                future = JobFuture(job, future=pool.submit(run_job, job), cache=cache)
                try:
                    print(job.job_id, future.result(), cache.has(job.job_key))
                except CodeMismatch as error:
                    print(job.job_id, *error.differs, "same versions" in str(error), cache.has(job.job_key))
        options = {"initializer": prefer, "initargs": (sys.argv[1],), "cache_name": "own"}
        with FutureCache("multiprocessing", **options) as cache:
            job = pickle.loads(pickle.dumps(jobs[2]))
            print("unpickled", cache.submit(job).result())
            cache.wait()
            print(cache.has(job.job_key))
"""


def test_a_job_in_a_pool_of_the_user_s_runs_with_the_versions_in_its_key_only(
    site: Site, tmp_path: Path
) -> None:
    assert site.run(OWN_POOL, arguments=(str(site.folder),)) == [
        "plain 1 True",
        "careless (1, '1.6.1') True",
        "score (1, '1.6.1') True",
        "model (1, '1.6.1') True",
        "unpickled (1, '1.6.1')",
        "True",
    ]
    other = Site(tmp_path / "other")
    other.install("scikit-learn", "1.7.0", sklearnish____init__=LEARN.format("1.7.0"))
    told = site.run(OWN_POOL, arguments=(str(other.folder),), BENCHER_JOB_CACHE_DIR=str(tmp_path / "second"))
    assert [line for line in told if not line.startswith("warning")] == [
        "plain 1 True",
        "careless (1, '1.7.0') True",
        "score scikit-learn 1.7.0 instead of 1.6.1 True False",
        "model scikit-learn 1.7.0 instead of 1.6.1 True False",
        "unpickled (1, '1.7.0')",
        "False",
    ]
    (warning,) = (line for line in told if line.startswith("warning"))
    assert "a worker has scikit-learn 1.7.0 instead of 1.6.1" in warning


def test_nothing_of_importlib_metadata_is_loaded(site: Site) -> None:
    before = "import sys; before = set(sys.modules)"
    told = site.run(
        before + STUDY.replace("\n    ", "\n") + "\nscore(1); print('importlib.metadata' in sys.modules)"
    )
    assert told[-1] == "False"


@pytest.mark.parametrize("libraries", [None, 1, ["numpy", 2], object()])
def test_the_option_takes_names(libraries: object) -> None:
    with pytest.raises(TypeError, match=r"libraries must be True, False or names of distributions, not "):
        cached_job(libraries=libraries)(len)
