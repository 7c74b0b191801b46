"""Files and folders count by their content, and unchanged ones are not read again."""

import builtins
import contextlib
import errno
import os
import subprocess
import sys
import time
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import pytest

from bencher_job import UnkeyableArgument, cached_job

from .keys import code_key, tracked

HOUR = 3600


@cached_job(by_content="path")
def given(path):
    return path


def key_of(path):
    return given.key(path)


def error_of(path):
    with pytest.raises(UnkeyableArgument) as caught:
        key_of(path)
    return caught.value


@pytest.fixture
def reads(tmp_path, monkeypatch):
    """The paths that are opened for reading."""
    opened, real = [], open

    def noting(path, *args, **kwargs):
        if str(path).startswith(str(tmp_path)):
            opened.append(Path(path).name)
        return real(path, *args, **kwargs)

    monkeypatch.setattr(builtins, "open", noting)
    return opened


@pytest.fixture
def later(monkeypatch):
    """Let an hour pass, after which recent changes have settled."""

    def pass_time(seconds=HOUR):
        now = time.time_ns()
        monkeypatch.setattr(time, "time_ns", lambda: now + seconds * 10**9)

    return pass_time


def file_of(path, content=b"content"):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return path


class TestFiles:
    @pytest.mark.parametrize("size", [0, 1, 1 << 20, (3 << 20) + 7])
    def test_all_bytes_count(self, tmp_path, size):
        content = (bytes(range(251)) * (size // 251 + 1))[:size]
        others = content + b"\0", content[:-1] + b"\xff", b"\xff" + content[1:]
        one, same, *changed = (
            key_of(file_of(tmp_path / str(n), each)) for n, each in enumerate((content, content, *others))
        )
        assert one == same
        assert one not in changed

    def test_the_name_and_the_place_of_a_file_do_not_count(self, tmp_path):
        assert key_of(file_of(tmp_path / "a")) == key_of(file_of(tmp_path / "b" / "c"))

    def test_a_path_may_be_a_string_or_relative(self, tmp_path, monkeypatch):
        path = file_of(tmp_path / "a")
        monkeypatch.chdir(tmp_path)
        assert key_of("a") == key_of(str(path)) == key_of(path)

    def test_a_relative_path_depends_on_the_current_folder(self, tmp_path, monkeypatch, later):
        one, two = file_of(tmp_path / "1" / "a", b"1"), file_of(tmp_path / "2" / "a", b"2")
        later()
        monkeypatch.chdir(one.parent)
        before = key_of("a")
        monkeypatch.chdir(two.parent)
        assert key_of("a") != before

    def test_a_link_counts_as_its_target(self, tmp_path, later):
        one, two, link = file_of(tmp_path / "1", b"1"), file_of(tmp_path / "2", b"2"), tmp_path / "link"
        later()
        for target in (one, two, one):
            link.unlink(missing_ok=True)
            link.symlink_to(target)
            assert key_of(link) == key_of(target)

    def test_dots_after_a_link_are_resolved_as_by_the_system(self, tmp_path):
        file_of(tmp_path / "there" / "a", b"there")
        (tmp_path / "there" / "inner").mkdir()
        file_of(tmp_path / "a", b"here")
        (tmp_path / "link").symlink_to(tmp_path / "there" / "inner")
        assert key_of(tmp_path / "link" / ".." / "a") == key_of(tmp_path / "there" / "a")

    @pytest.mark.parametrize("name", ["missing", "missing/file", "dangling", ""])
    def test_a_missing_file_is_an_error(self, tmp_path, monkeypatch, name):
        (tmp_path / "dangling").symlink_to("nowhere")
        monkeypatch.chdir(tmp_path)
        assert isinstance(error_of(name).__cause__, FileNotFoundError)

    def test_a_special_file_is_refused(self, tmp_path):
        os.mkfifo(tmp_path / "pipe")
        assert "is neither a file nor a folder" in error_of(tmp_path / "pipe").reason

    def test_a_forked_child_makes_the_same_digest(self, tmp_path):
        path = file_of(tmp_path / "large", bytes(20 << 20))
        program = (
            "import os, signal, sys; from bencher_job import cached_job\n"
            "digest = cached_job(by_content='path')(lambda path: path).key\n"
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
        assert key_of(path) == key_of(path)
        assert reads == ["a"]

    def test_a_file_that_has_just_changed_is_read_again(self, tmp_path, reads):
        path = file_of(tmp_path / "a")
        assert key_of(path) == key_of(path)
        assert reads == ["a", "a"]

    def test_a_change_within_one_tick_is_noticed(self, tmp_path):
        path = file_of(tmp_path / "a", b"1")
        made = []
        for content in (b"1", b"2", b"3"):
            path.write_bytes(content)
            made.append(key_of(path))
        assert len(set(made)) == 3

    @pytest.mark.parametrize(("seconds", "times"), [(1, 2), (2, 2), (3, 1)])
    def test_a_coarse_clock_hides_no_change(self, tmp_path, reads, later, seconds, times):
        """The times of FAT show two seconds, in which the file may change once more."""
        path = file_of(tmp_path / "a")
        later(seconds)
        assert key_of(path) == key_of(path)
        assert reads == ["a"] * times

    def test_a_modification_time_that_is_set_back_hides_no_change(self, tmp_path, later):
        path = file_of(tmp_path / "a", b"1")
        os.utime(path, (HOUR, HOUR))
        later()
        before = key_of(path)
        path.write_bytes(b"2")
        os.utime(path, (HOUR, HOUR))
        assert key_of(path) != before

    def test_a_file_that_is_replaced_is_read_again(self, tmp_path, later):
        path, other = file_of(tmp_path / "a", b"1"), file_of(tmp_path / "b", b"2")
        os.utime(path, (HOUR, HOUR))
        os.utime(other, (HOUR, HOUR))
        later()
        before = key_of(path)
        os.replace(other, path)
        assert key_of(path) != before

    def test_a_file_with_a_time_in_the_future_is_always_read(self, tmp_path, reads):
        path = file_of(tmp_path / "a")
        os.utime(path, (time.time() + HOUR,) * 2)
        assert key_of(path) == key_of(path)
        assert reads == ["a", "a"]

    def test_a_file_that_is_swapped_while_it_is_read_is_not_remembered(self, tmp_path, monkeypatch, later):
        one, two, link = file_of(tmp_path / "1", b"1"), file_of(tmp_path / "2", b"2"), tmp_path / "link"
        later()
        link.symlink_to(one)

        real = open

        def swapping(path, *args, **kwargs):
            return real(two if str(path) == str(link) else path, *args, **kwargs)

        with monkeypatch.context() as patch:
            patch.setattr(builtins, "open", swapping)
            assert key_of(link) == key_of(two)
        assert key_of(link) == key_of(one)


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
        before = key_of(root)
        change(root)
        assert key_of(root) != before

    def test_a_copy_of_a_folder_counts_the_same(self, tmp_path):
        one, two = self.folder(tmp_path / "1"), tmp_path / "2"
        file_of(two / "inner" / "b", b"2")
        (two / "empty").mkdir()
        (two / "a").symlink_to(one / "a")
        (two / "dangling").symlink_to("nowhere")
        assert key_of(one) == key_of(two)

    def test_a_folder_differs_from_a_file_and_from_an_empty_one(self, tmp_path):
        (tmp_path / "empty").mkdir()
        values = [self.folder(tmp_path / "root"), tmp_path / "root" / "a", tmp_path / "empty"]
        assert len(set(map(key_of, [*values, file_of(tmp_path / "nothing", b"")]))) == 4

    def test_an_unchanged_folder_is_read_once_and_a_changed_file_alone(self, tmp_path, reads, later):
        root = self.folder(tmp_path / "root")
        later()
        key_of(root)
        key_of(root)
        assert sorted(reads) == ["a", "b"]
        file_of(root / "a", b"changed")
        key_of(root)
        assert sorted(reads) == ["a", "a", "b"]

    def test_a_folder_that_is_linked_twice_counts_twice(self, tmp_path):
        root = self.folder(tmp_path / "root")
        (root / "again").symlink_to(root / "inner")
        copied = self.folder(tmp_path / "copied")
        file_of(copied / "again" / "b", b"2")
        assert key_of(root) == key_of(copied)

    def test_a_circular_link_is_an_error(self, tmp_path):
        root = self.folder(tmp_path / "root")
        (root / "inner" / "up").symlink_to(root)
        error = error_of(root)
        assert "leads back" in error.reason
        assert error.__cause__.errno == errno.ELOOP

    def test_undecodable_names_count(self, tmp_path):
        made = []
        for name in (b"\xff", b"\xfe"):
            folder = tmp_path / name.hex()
            folder.mkdir()
            with open(os.fsencode(folder) + b"/" + name, "wb"):
                made.append(key_of(folder))
        assert len(set(made)) == 2

    def test_an_unreadable_folder_is_an_error(self, tmp_path):
        inner = self.folder(tmp_path / "root") / "inner"
        inner.chmod(0)
        child = os.fork()
        if child == 0:  # root may read everything, so change the user
            with contextlib.suppress(PermissionError):
                os.setuid(65534)
            try:
                os._exit(not isinstance(error_of(tmp_path / "root").__cause__, PermissionError))
            finally:
                os._exit(1)
        _, status = os.waitpid(child, 0)
        inner.chmod(0o700)
        assert os.waitstatus_to_exitcode(status) == 0


class TestByContent:
    def test_a_path_counts_by_its_content(self, tmp_path):
        path = file_of(tmp_path / "a")
        assert key_of(path) == key_of(str(path)) != key_of(file_of(tmp_path / "b", b"another"))

    def test_none_is_itself(self, tmp_path):
        assert key_of(None) not in {key_of(file_of(tmp_path / "a", b"")), key_of([None])}

    @pytest.mark.parametrize("kind", [list, tuple])
    def test_each_path_in_a_list_counts(self, tmp_path, kind):
        one, two, same = (file_of(tmp_path / name, name[1:].encode()) for name in ("a1", "b2", "c1"))
        assert key_of(kind([one, None, two])) == key_of(kind([same, None, two]))
        keys = [
            key_of(kind(paths)) for paths in ([one, None, two], [one, two], [two, one], [one, one], [one])
        ]
        assert len({*keys, key_of(one)}) == 6

    @pytest.mark.parametrize("value", [3, b"a", {"a": "b"}, [["a"]], [3], {"a"}])
    def test_other_types_are_refused(self, value):
        assert "must be a path, None, or a list or a tuple of these, not " in error_of(value).reason


class TestDependsOn:
    def test_the_place_of_a_file_does_not_count(self, tmp_path):
        one, two = file_of(tmp_path / "1" / "data"), file_of(tmp_path / "2" / "data")
        assert code_key(len, depends_on=[one]) == code_key(len, depends_on=[two])

    def test_a_large_file_is_not_read_at_each_check(self, tmp_path, reads, later):
        tracker = tracked(len, depends_on=[file_of(tmp_path / "data")])
        later()
        assert tracker() == tracker()
        assert reads == ["data"]

    def test_an_unreadable_path_is_an_error(self, tmp_path):
        os.mkfifo(tmp_path / "pipe")
        with pytest.raises(
            ValueError, match=r"pipe', which can't be read: .* is neither a file nor a folder"
        ):
            code_key(len, depends_on=[tmp_path / "pipe"])


class Pair(NamedTuple):
    one: str
    two: Path


class TestRelativePaths:
    def test_a_job_gets_them_with_their_target(self, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        here = file_of(tmp_path / "data")
        assert given("data") == str(here)
        for made, expected in (
            (Path("data"), here),
            (PurePosixPath("data"), PurePosixPath(here)),
            (["data", Path("data"), None], [str(here), here, None]),
            (("data",), (str(here),)),
            (Pair("data", Path("data")), Pair(str(here), here)),
        ):
            got = given.refresh(made)
            assert got == expected
            assert type(got) is type(made)

    def test_other_values_stay_as_they_are(self, tmp_path):
        file_of(tmp_path / "a")
        above = f"{tmp_path}/../{tmp_path.name}/a"
        for value in (None, above, Path(above), [], (), [above]):
            got = given.refresh(value)
            assert got == value
            assert type(got) is type(value)
