"""Files and folders count by their content, and unchanged ones are not read again."""

import contextlib
import errno
import os
import subprocess
import sys
import time
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import pytest
from blake3 import blake3

from bencher_job._keys import files
from bencher_job._keys.files import absolute, by_content, content_digest
from bencher_job._keys.fingerprint import CodeTracker, fingerprint

HOUR = 3600


@pytest.fixture(autouse=True)
def memory(monkeypatch):
    """An empty memory of digests."""
    monkeypatch.setattr(files, "_digests", files._Digests(files._REMEMBERED))


@pytest.fixture
def reads(monkeypatch):
    """The paths that are opened for reading."""
    opened = []

    def noting(path, *args, **kwargs):
        opened.append(Path(path).name)
        return open(path, *args, **kwargs)

    monkeypatch.setattr(files, "open", noting, raising=False)
    return opened


@pytest.fixture
def later(monkeypatch):
    """Let an hour pass, after which recent changes have settled."""

    def pass_an_hour():
        now = time.time_ns()
        monkeypatch.setattr(files.time, "time_ns", lambda: now + HOUR * 10**9)

    return pass_an_hour


def file_of(path, content=b"content"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


class TestFiles:
    @pytest.mark.parametrize("size", [0, 1, 1 << 20, (3 << 20) + 7])
    def test_the_digest_is_the_blake3_of_the_bytes(self, tmp_path, size):
        content = bytes(range(251)) * (size // 251 + 1)
        assert content_digest(file_of(tmp_path / "a", content[:size])) == blake3(content[:size]).digest()

    def test_the_name_and_the_place_of_a_file_do_not_count(self, tmp_path):
        assert content_digest(file_of(tmp_path / "a")) == content_digest(file_of(tmp_path / "b" / "c"))

    def test_a_path_may_be_a_string_or_relative(self, tmp_path, monkeypatch):
        path = file_of(tmp_path / "a")
        monkeypatch.chdir(tmp_path)
        assert content_digest("a") == content_digest(str(path)) == content_digest(path)

    def test_a_relative_path_depends_on_the_current_folder(self, tmp_path, monkeypatch, later):
        one, two = file_of(tmp_path / "1" / "a", b"1"), file_of(tmp_path / "2" / "a", b"2")
        later()
        monkeypatch.chdir(one.parent)
        before = content_digest("a")
        monkeypatch.chdir(two.parent)
        assert content_digest("a") != before

    def test_a_link_counts_as_its_target(self, tmp_path, later):
        one, two, link = file_of(tmp_path / "1", b"1"), file_of(tmp_path / "2", b"2"), tmp_path / "link"
        later()
        for target in (one, two, one):
            link.unlink(missing_ok=True)
            link.symlink_to(target)
            assert content_digest(link) == content_digest(target)

    def test_dots_after_a_link_are_resolved_as_by_the_system(self, tmp_path):
        file_of(tmp_path / "there" / "a", b"there")
        (tmp_path / "there" / "inner").mkdir()
        file_of(tmp_path / "a", b"here")
        (tmp_path / "link").symlink_to(tmp_path / "there" / "inner")
        assert content_digest(tmp_path / "link" / ".." / "a") == blake3(b"there").digest()

    @pytest.mark.parametrize("name", ["missing", "missing/file", "dangling", ""])
    def test_a_missing_file_is_an_error(self, tmp_path, monkeypatch, name):
        (tmp_path / "dangling").symlink_to("nowhere")
        monkeypatch.chdir(tmp_path)
        with pytest.raises(FileNotFoundError):
            content_digest(name)

    def test_a_special_file_is_refused(self, tmp_path):
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(OSError, match="is neither a file nor a folder"):
            content_digest(tmp_path / "pipe")

    def test_a_forked_child_makes_the_same_digest(self, tmp_path):
        path = file_of(tmp_path / "large", bytes(20 << 20))
        program = (
            "import os, signal, sys; from bencher_job._keys.files import content_digest as digest\n"
            "made = digest(sys.argv[1])\n"
            "child = os.fork()\n"
            "if child == 0:\n"
            "    signal.alarm(60); os._exit(digest(sys.argv[1]) != made)\n"
            "sys.exit(os.waitpid(child, 0)[1] != 0)\n"
        )
        subprocess.run([sys.executable, "-W", "ignore", "-c", program, path], check=True)


class TestMemory:
    def test_an_unchanged_file_is_read_once(self, tmp_path, reads, later):
        path = file_of(tmp_path / "a")
        later()
        assert content_digest(path) == content_digest(path)
        assert reads == ["a"]

    def test_a_file_that_has_just_changed_is_read_again(self, tmp_path, reads):
        path = file_of(tmp_path / "a")
        assert content_digest(path) == content_digest(path)
        assert reads == ["a", "a"]

    def test_a_change_within_one_tick_is_noticed(self, tmp_path):
        path = file_of(tmp_path / "a", b"1")
        made = []
        for content in (b"1", b"2", b"3"):
            path.write_bytes(content)
            made.append(content_digest(path))
        assert len(set(made)) == 3

    @pytest.mark.parametrize("tick", [1, 2], ids=["one second", "two seconds, as FAT's"])
    def test_a_coarse_clock_hides_no_change(self, tmp_path, monkeypatch, tick):
        """The file changes again at the end of the tick that its times show."""
        path = file_of(tmp_path / "a", b"1")
        clock = 1_000_000_000 * 10**9
        monkeypatch.setattr(files, "_stamps", lambda status: (clock, clock, status.st_size))
        monkeypatch.setattr(files.time, "time_ns", lambda: clock + tick * 10**9 - 1)
        before = content_digest(path)
        path.write_bytes(b"2")
        assert content_digest(path) != before

    def test_a_modification_time_that_is_set_back_hides_no_change(self, tmp_path, later):
        path = file_of(tmp_path / "a", b"1")
        os.utime(path, (HOUR, HOUR))
        later()
        before = content_digest(path)
        path.write_bytes(b"2")
        os.utime(path, (HOUR, HOUR))
        assert content_digest(path) != before

    def test_a_file_that_is_replaced_is_read_again(self, tmp_path, later):
        path, other = file_of(tmp_path / "a", b"1"), file_of(tmp_path / "b", b"2")
        os.utime(path, (HOUR, HOUR))
        os.utime(other, (HOUR, HOUR))
        later()
        before = content_digest(path)
        os.replace(other, path)
        assert content_digest(path) != before

    def test_a_file_with_a_time_in_the_future_is_always_read(self, tmp_path, reads):
        path = file_of(tmp_path / "a")
        os.utime(path, (time.time() + HOUR,) * 2)
        assert content_digest(path) == content_digest(path)
        assert reads == ["a", "a"]

    def test_a_file_that_is_swapped_while_it_is_read_is_not_remembered(self, tmp_path, monkeypatch, later):
        one, two, link = file_of(tmp_path / "1", b"1"), file_of(tmp_path / "2", b"2"), tmp_path / "link"
        later()
        link.symlink_to(one)

        def swapping(path, *args, **kwargs):
            return open(two if Path(path) == link else path, *args, **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(files, "open", swapping, raising=False)
            assert content_digest(link) == blake3(b"2").digest()
        assert content_digest(link) == blake3(b"1").digest()

    def test_digests_of_recent_paths_are_remembered(self, tmp_path, monkeypatch, reads, later):
        monkeypatch.setattr(files, "_digests", files._Digests(2))
        paths = [file_of(tmp_path / name) for name in "abc"]
        later()
        for index in (0, 1, 0, 2, 0, 1):
            content_digest(paths[index])
        assert reads == ["a", "b", "c", "b"]


class TestFolders:
    @staticmethod
    def folder(root):
        file_of(root / "a", b"1")
        file_of(root / "inner" / "b", b"2")
        return root

    CHANGES = {
        "content": lambda root: file_of(root / "inner" / "b", b"3"),
        "a file more": lambda root: file_of(root / "c"),
        "a file less": lambda root: (root / "a").unlink(),
        "a name": lambda root: (root / "a").rename(root / "z"),
        "the name of a folder": lambda root: (root / "inner").rename(root / "other"),
        "a place": lambda root: (root / "a").rename(root / "inner" / "a"),
        "contents that are swapped": lambda root: (
            file_of(root / "a", b"2"),
            file_of(root / "inner" / "b", b"1"),
        ),
        "a link to a file": lambda root: (root / "c").symlink_to(root / "a"),
        "a link to a folder": lambda root: (root / "c").symlink_to(root / "inner"),
    }

    @pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES)
    def test_each_part_counts(self, tmp_path, change, later):
        root = self.folder(tmp_path / "root")
        later()
        before = content_digest(root)
        change(root)
        assert content_digest(root) != before

    def test_a_copy_of_a_folder_counts_the_same(self, tmp_path):
        one, two = self.folder(tmp_path / "1"), tmp_path / "2"
        file_of(two / "inner" / "b", b"2")
        (two / "empty").mkdir()
        (two / "a").symlink_to(one / "a")
        (two / "dangling").symlink_to("nowhere")
        assert content_digest(one) == content_digest(two)

    def test_a_folder_differs_from_a_file_and_from_an_empty_one(self, tmp_path):
        (tmp_path / "empty").mkdir()
        values = [self.folder(tmp_path / "root"), tmp_path / "root" / "a", tmp_path / "empty"]
        assert len(set(map(content_digest, [*values, file_of(tmp_path / "nothing", b"")]))) == 4

    def test_an_unchanged_folder_is_read_once_and_a_changed_file_alone(self, tmp_path, reads, monkeypatch):
        root = self.folder(tmp_path / "root")
        now = time.time_ns()
        monkeypatch.setattr(files.time, "time_ns", lambda: now + HOUR * 10**9)
        content_digest(root)
        content_digest(root)
        assert sorted(reads) == ["a", "b"]
        file_of(root / "a", b"changed")
        content_digest(root)
        assert sorted(reads) == ["a", "a", "b"]

    def test_a_folder_that_is_linked_twice_counts_twice(self, tmp_path):
        root = self.folder(tmp_path / "root")
        (root / "again").symlink_to(root / "inner")
        copied = self.folder(tmp_path / "copied")
        file_of(copied / "again" / "b", b"2")
        assert content_digest(root) == content_digest(copied)

    def test_a_circular_link_is_an_error(self, tmp_path):
        root = self.folder(tmp_path / "root")
        (root / "inner" / "up").symlink_to(root)
        with pytest.raises(OSError, match="leads back") as caught:
            content_digest(root)
        assert caught.value.errno == errno.ELOOP

    def test_undecodable_names_count(self, tmp_path):
        made = []
        for name in (b"\xff", b"\xfe"):
            folder = tmp_path / name.hex()
            folder.mkdir()
            with open(os.fsencode(folder) + b"/" + name, "wb"):
                made.append(content_digest(folder))
        assert len(set(made)) == 2

    def test_an_unreadable_folder_is_an_error(self, tmp_path):
        inner = self.folder(tmp_path / "root") / "inner"
        inner.chmod(0)
        child = os.fork()
        if child == 0:  # root may read everything, so change the user
            with contextlib.suppress(PermissionError):
                os.setuid(65534)
            try:
                content_digest(tmp_path / "root")
            except PermissionError:
                os._exit(0)
            finally:
                os._exit(1)
        _, status = os.waitpid(child, 0)
        inner.chmod(0o700)
        assert os.waitstatus_to_exitcode(status) == 0


class TestByContent:
    def test_a_path_counts_by_its_content(self, tmp_path):
        path = file_of(tmp_path / "a")
        assert by_content(path) == by_content(str(path)) == ("content", content_digest(path))

    def test_none_is_itself(self):
        assert by_content(None) is None

    @pytest.mark.parametrize("kind", [list, tuple])
    def test_each_path_in_a_list_counts(self, tmp_path, kind):
        one, two = file_of(tmp_path / "a", b"1"), file_of(tmp_path / "b", b"2")
        assert by_content(kind([one, None, two])) == (by_content(one), None, by_content(two))
        assert by_content(kind([one, two])) != by_content(kind([two, one]))

    @pytest.mark.parametrize("value", [3, b"a", {"a": "b"}, [["a"]], [3], {"a"}])
    def test_other_types_are_refused(self, value):
        with pytest.raises(TypeError, match="must be a path, None, or a list or a tuple of these, not "):
            by_content(value)


class TestDependsOn:
    def test_the_place_of_a_file_does_not_count(self, tmp_path):
        one, two = file_of(tmp_path / "1" / "data"), file_of(tmp_path / "2" / "data")
        assert fingerprint(len, depends_on=[one]) == fingerprint(len, depends_on=[two])

    def test_a_large_file_is_not_read_at_each_check(self, tmp_path, reads, later):
        tracker = CodeTracker(len, depends_on=[file_of(tmp_path / "data")])
        later()
        made = tracker.current()
        assert tracker.current() is made
        assert reads == ["data"]

    def test_an_unreadable_path_is_an_error(self, tmp_path):
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(
            ValueError, match=r"pipe', which can't be read: .* is neither a file nor a folder"
        ):
            fingerprint(len, depends_on=[tmp_path / "pipe"])


class Pair(NamedTuple):
    one: str
    two: Path


class TestAbsolute:
    def test_relative_paths_keep_their_target(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        here = tmp_path / "data"
        assert absolute("data") == str(here)
        assert absolute(Path("data")) == here
        assert absolute(PurePosixPath("data")) == PurePosixPath(here)
        assert absolute(["data", Path("data"), None]) == [str(here), here, None]
        assert absolute(("data",)) == (str(here),)
        pair = Pair("data", Path("data"))
        assert absolute(pair) == (str(here), here)
        assert type(absolute(pair)) is type(pair)

    @pytest.mark.parametrize("value", [None, 3, "/a/../b", Path("/a"), [], (), ["/a"]])
    def test_other_values_stay_as_they_are(self, value):
        assert absolute(value) == value
        assert type(absolute(value)) is type(value)
