"""The versions of formats in the reference are those of the code."""

from __future__ import annotations

from pathlib import Path

from bencher_job._keys import KEY_VERSION
from bencher_job._stores.archive import ARCHIVE_VERSION
from bencher_job._stores.codec import CODEC_VERSION
from bencher_job._stores.database import IN_ROW_BELOW
from bencher_job._stores.schema import STORE_VERSION

REFERENCE = Path(__file__).parents[1] / "docs" / "reference"


def test_the_versions_in_the_reference_are_those_of_the_code() -> None:
    page = (REFERENCE / "on-disk.md").read_text()
    assert f"`user_version` is {STORE_VERSION}." in page
    assert f"| version of this format, {CODEC_VERSION} |" in page
    assert f"version of the key format, which is {KEY_VERSION}," in page
    assert f"a tar file of version {ARCHIVE_VERSION}," in page
    assert f"below {IN_ROW_BELOW >> 10} KiB lies in its row" in page
