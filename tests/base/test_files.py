"""Files appear when they are complete, locks hold, leftovers go; the faults tests kill real runs."""

import os

import pytest

from kws.base import files
from kws.base.files import appears_complete, delete_leftovers, errors_name, fingerprint, lock, write_text

pytestmark = pytest.mark.fast

NOBODY = 2**22 + 1  # larger than any process number


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_file_appears_when_it_is_complete(tmp_path):
    with appears_complete(tmp_path / "x.txt") as partial:
        partial.write_text("half")
        assert not (tmp_path / "x.txt").exists() and partial.suffix == ".txt"
        partial.write_text("whole")
    assert names(tmp_path) == ["x.txt"] and (tmp_path / "x.txt").read_text() == "whole"


def test_an_error_leaves_what_there_was(tmp_path):
    write_text(tmp_path / "x.txt", "old")
    with pytest.raises(RuntimeError), appears_complete(tmp_path / "x.txt") as partial:
        partial.write_text("half")
        raise RuntimeError
    assert names(tmp_path) == ["x.txt"] and (tmp_path / "x.txt").read_text() == "old"


def test_a_folder_replaces_one_that_is_not_empty(tmp_path):
    for content in ("old", "new"):
        with appears_complete(tmp_path / "folder") as partial:
            partial.mkdir()
            (partial / content).write_text("")
    assert names(tmp_path) == ["folder"] and names(tmp_path / "folder") == ["new"]


def test_leftovers_of_killed_processes_go_and_those_of_running_ones_stay(tmp_path):
    killed, running = f"x.partial-{NOBODY}.txt", f"x.partial-{os.getppid()}.txt"
    others = [f"y.partial-{NOBODY}.txt", "x.partial-notes.txt"]
    for name in (killed, running, *others):
        (tmp_path / name).write_text("half")
    delete_leftovers(tmp_path / "x.txt")
    assert names(tmp_path) == sorted([running, *others])
    delete_leftovers(tmp_path / "*.txt")
    assert names(tmp_path) == sorted([running, others[1]])


def test_names_with_wildcards_are_taken_as_they_are(tmp_path):
    (tmp_path / f"ab.partial-{NOBODY}.txt").write_text("half")
    delete_leftovers(tmp_path / "a[b].txt")
    assert names(tmp_path) == [f"ab.partial-{NOBODY}.txt"]


def test_a_held_lock_is_refused_and_free_afterwards(tmp_path):
    with lock(tmp_path / "lock"), pytest.raises(BlockingIOError), lock(tmp_path / "lock"):
        pass
    with lock(tmp_path / "lock"):
        assert names(tmp_path) == ["lock"]


def test_errors_of_the_system_name_the_file(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(NotADirectoryError) as error:
        write_text(tmp_path / "file" / "x.txt", "")
    assert error.value.filename == str(tmp_path / "file" / "x.txt")
    with pytest.raises(OSError) as error, errors_name("here"):
        raise OSError(28, "No space left on device", "there")
    assert error.value.filename == "here"


def test_a_fingerprint_is_of_contents(tmp_path):
    for name, content in (("a", "1"), ("b", "1"), ("c", "2")):
        (tmp_path / name).write_text(content)
    prints = [fingerprint([tmp_path / name]) for name in "abc"]
    assert prints[0] == prints[1] != prints[2]


def test_without_locks_of_the_system_a_line_says_so_and_nothing_is_deleted(tmp_path, monkeypatch, capfd):
    monkeypatch.setattr(files, "fcntl", None)
    (tmp_path / f"x.partial-{NOBODY}.txt").write_text("half")
    with lock(tmp_path / "lock"), lock(tmp_path / "lock"):
        delete_leftovers(tmp_path / "x.txt")
    (line, _) = capfd.readouterr().err.splitlines()
    assert line == f"no locks on this system: start no second run that writes to {tmp_path}"
    assert names(tmp_path) == [f"x.partial-{NOBODY}.txt"]
