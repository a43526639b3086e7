"""Archives over HTTP: downloaded, verified, extracted."""

import hashlib
import io
import os
import shutil
import tarfile
from pathlib import Path

import pytest

import input_data
from conftest import ON_OFF, SPEAKERS, call_here, make_words, web_server
from kws.audio import folders
from kws.base.errors import UserError
from kws.base.settings import Settings
from kws.data import download

pytestmark = pytest.mark.fast


@pytest.fixture
def server(tmp_path):
    """Serve the folder tmp_path/www; the address of the server."""
    (tmp_path / "www").mkdir()
    with web_server(tmp_path / "www") as address:
        yield address


def pack(tmp_path, name="words.tar.gz", members=()):
    """Pack a small data set as an archive, with more members for mischief."""
    make_words(tmp_path / "source")
    with tarfile.open(tmp_path / "www" / name, "w:gz") as tar:
        tar.add(tmp_path / "source", arcname=".")
        for member in members:
            tar.addfile(member, io.BytesIO(b"mischief"[: member.size]))
    return tmp_path / "www" / name


def test_an_archive_is_downloaded_extracted_and_not_needed_again(tmp_path, server, data_options):
    archive = pack(tmp_path)
    args = data_options(data_dir=tmp_path / "data", data_url=f"{server}/words.tar.gz")
    first = input_data.open_data(args, ON_OFF)
    archive.unlink()
    assert not (tmp_path / "data" / download.DOWNLOADS_FOLDER).exists()
    assert input_data.open_data(args, ON_OFF).training.names == first.training.names


def test_an_archive_that_lies_there_already_is_used(tmp_path, server, data_options):
    archive = pack(tmp_path)
    (tmp_path / "data").mkdir()
    shutil.move(archive, tmp_path / "data")
    args = data_options(data_dir=tmp_path / "data", data_url=f"{server}/words.tar.gz")
    assert len(input_data.open_data(args, ON_OFF).training)


def test_an_archive_with_one_folder_around_the_words_says_where_they_are(tmp_path, server):
    make_words(tmp_path / "source" / "outer", speakers=SPEAKERS[:1])
    with tarfile.open(tmp_path / "www" / "words.tar.gz", "w:gz") as tar:
        tar.add(tmp_path / "source", arcname=".")
    with pytest.raises(UserError, match="did you mean --data_dir .*outer"):
        download.prepare_recordings(tmp_path / "data", f"{server}/words.tar.gz")


def test_the_canonical_test_set_is_downloaded_where_its_folder_is_missing(tmp_path, server, monkeypatch):
    url = f"{server}/speech_commands_test_set_v0.02.tar.gz"
    monkeypatch.setattr(input_data, "TEST_SET_URL", url)
    archive = pack(tmp_path, "speech_commands_test_set_v0.02.tar.gz")
    monkeypatch.setitem(download.SHA256, url, hashlib.sha256(archive.read_bytes()).hexdigest())
    words = Settings(wanted_words=("on", "off", "cat"))
    clips = input_data.open_test_dir(tmp_path / "speech_commands_test_set_v0.02", words)
    assert len(clips) == 120
    with pytest.raises(UserError, match="--test_dir .*my_tests is not a folder"):
        input_data.open_test_dir(tmp_path / "my_tests", words)


def test_a_right_hash_is_accepted(tmp_path, server, monkeypatch):
    archive = pack(tmp_path)
    url = f"{server}/words.tar.gz"
    monkeypatch.setitem(download.SHA256, url, hashlib.sha256(archive.read_bytes()).hexdigest())
    assert folders.word_folders(download.prepare_recordings(tmp_path / "data", url)) == ["cat", "off", "on"]


def test_a_wrong_hash_leaves_nothing_behind(tmp_path, server, monkeypatch):
    pack(tmp_path)
    url = f"{server}/words.tar.gz"
    monkeypatch.setitem(download.SHA256, url, hashlib.sha256(b"something else").hexdigest())
    with pytest.raises(UserError, match="cannot download .*hash"):
        download.prepare_recordings(tmp_path / "data", url)
    assert os.listdir(tmp_path / "data") == [".lock"]


def test_a_wrong_archive_that_lies_there_already_is_an_error_and_stays(tmp_path, server, monkeypatch):
    (tmp_path / "data").mkdir()
    shutil.copy(pack(tmp_path), tmp_path / "data")
    url = f"{server}/words.tar.gz"
    monkeypatch.setitem(download.SHA256, url, hashlib.sha256(b"something else").hexdigest())
    with pytest.raises(UserError, match="is not the published archive"):
        download.prepare_recordings(tmp_path / "data", url)
    assert (tmp_path / "data" / "words.tar.gz").exists()


def test_what_a_killed_download_left_is_in_nobodys_way(tmp_path, server):
    pack(tmp_path)
    (tmp_path / "data" / download.DOWNLOADS_FOLDER).mkdir(parents=True)
    (tmp_path / "data" / download.DOWNLOADS_FOLDER / "tmpabc").write_bytes(b"half")
    folder = download.prepare_recordings(tmp_path / "data", f"{server}/words.tar.gz")
    assert sorted(path.name for path in folder.iterdir()) == [".lock", "cat", "off", "on"]


def test_a_broken_archive_leaves_nothing_behind_and_the_next_run_downloads_again(tmp_path, server):
    archive = pack(tmp_path)
    whole = archive.read_bytes()
    archive.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(UserError, match="cannot be extracted"):
        download.prepare_recordings(tmp_path / "data", f"{server}/words.tar.gz")
    assert os.listdir(tmp_path / "data") == [".lock"]
    archive.write_bytes(whole)
    download.prepare_recordings(tmp_path / "data", f"{server}/words.tar.gz")


def test_an_interrupted_extraction_is_done_again(tmp_path, server):
    pack(tmp_path)
    folder = download.prepare_recordings(tmp_path / "data", f"{server}/words.tar.gz")
    shutil.rmtree(folder / "cat")
    (folder / download.UNFINISHED_FOLDER).mkdir()
    download.prepare_recordings(folder, f"{server}/words.tar.gz")
    assert folders.word_folders(folder) == ["cat", "off", "on"]


def test_no_server_and_no_page_are_one_clear_line(tmp_path, server):
    for url in (f"{server}/nothing.tar.gz", "http://127.0.0.1:9/words.tar.gz"):
        with pytest.raises(UserError, match="cannot download"):
            download.prepare_recordings(tmp_path / "data", url)
        assert os.listdir(tmp_path / "data") == [".lock"]


def test_who_is_offline_is_told_where_to_put_the_archive_and_how_to_try_without(tmp_path, monkeypatch):
    url = "http://127.0.0.1:9/words.tar.gz"
    monkeypatch.setattr(download, "DATA_URL", url)
    result = call_here("input_data.py", "--data_dir", tmp_path / "data", "--data_url", url, check=False)
    downloading, error = result.stderr.splitlines()
    assert result.returncode == 2 and "no connection" in error
    assert f"put words.tar.gz, downloaded by other means, into {tmp_path / 'data'}" in error
    assert "try without recordings: --data_dir sample_data --data_url ''" in error
    with pytest.raises(UserError) as other:  # of an archive that the sample data cannot stand for
        download.prepare_recordings(tmp_path / "data", "http://127.0.0.1:9/others.tar.gz")
    assert "put others.tar.gz" in str(other.value) and "sample_data" not in str(other.value)


def member(name, kind=tarfile.REGTYPE, link=""):
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.size = kind, link, 8 if kind == tarfile.REGTYPE else 0
    return info


MISCHIEF = {
    "a path upwards": member("../outside.wav"),
    "a path upwards from inside": member("on/../../outside.wav"),
    "an absolute path": member("/tmp/outside.wav"),
    "a symbolic link": member("on/link.wav", tarfile.SYMTYPE, "/etc/passwd"),
    "a hard link": member("on/link.wav", tarfile.LNKTYPE, "off/00000000_nohash_0.wav"),
    "a device": member("on/device.wav", tarfile.CHRTYPE),
    "a fifo": member("on/fifo.wav", tarfile.FIFOTYPE),
}


@pytest.mark.parametrize("kind", MISCHIEF)
def test_an_archive_with_mischief_is_refused(tmp_path, server, kind):
    pack(tmp_path, members=[MISCHIEF[kind]])
    with pytest.raises(UserError, match="outside the target folder|is a link or a device"):
        download.prepare_recordings(tmp_path / "data", f"{server}/words.tar.gz")
    assert os.listdir(tmp_path / "data") == [".lock"]
    assert not (tmp_path / "outside.wav").exists() and not Path("/tmp/outside.wav").exists()
