"""Caches, sweeps and tables work on a store without a folder as they do on the embedded one."""

from __future__ import annotations

import pytest

from bencher_job import _stores
from tests import test_adopt, test_cache, test_explain
from tests.dict_store import DictStore
from tests.sweeps import test_results, test_stream, test_sweep
from tests.views import test_dataset, test_table

NEEDS_A_FOLDER = {
    "test_a_cache_that_is_dropped_without_close_leaves_no_thread_process_or_descriptor",
    "test_a_change_of_the_current_folder_moves_no_cache",
    "test_a_damaged_entry_is_not_in_the_container",
    "test_a_damaged_entry_is_told_and_left_as_it_is",
    "test_a_damaged_entry_that_was_set_aside_is_told",
    "test_a_store_that_can_not_be_opened_costs_the_memory_but_not_the_value",
    "test_a_store_that_could_not_be_opened_for_a_moment_is_opened_later",
    "test_a_sweep_that_is_killed_and_started_again_runs_only_what_is_missing",
    "test_a_warning_made_an_error_costs_no_other_job_its_value",
    "test_an_entry_that_was_removed_tells_why_and_when",
    "test_another_release_of_a_distribution_is_told_and_is_no_cause",
    "test_attributes_that_differ_between_processes_are_named",
    "test_damaged_digests_of_attributes_name_none",
    "test_entries_move_as_one_file_and_the_store_that_gets_them_is_clean",
    "test_entries_whose_keys_were_made_in_another_way",
    "test_importing_imports_no_pandas",
    "test_media_live_as_long_as_any_entry_that_was_made_of_theirs",
    "test_results_are_kept_when_the_program_ends_without_reading_them",
    "test_the_attribute_is_named_that_makes_an_object_another_at_each_call",
    "test_the_attribute_of_self_is_named_that_a_method_writes_to",
}
"""Tests that look at files, at other processes, or at what only a folder has, such as arguments before a run."""


@pytest.fixture(autouse=True)
def _dict_stores(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have every cache of this process keep its results in a dict."""
    monkeypatch.setattr(_stores._open_stores, "make", lambda _: DictStore())


_CACHES = test_cache, test_adopt, test_explain
_SWEEPS = test_results, test_stream, test_sweep
for _module in (*_CACHES, *_SWEEPS, test_dataset, test_table):
    for _name, _value in list(vars(_module).items()):
        _is_fixture = hasattr(_value, "_pytestfixturefunction") or hasattr(_value, "_fixture_function_marker")
        if _is_fixture or (_name.startswith("test_") and _name not in NEEDS_A_FOLDER):
            globals()[_name] = _value
