"""Recordings from the published archives: download, verify, extract, each once, whatever is interrupted."""

import gzip
import logging
import os
import shutil
import sys
import tarfile
import zlib
from pathlib import Path, PurePosixPath

from kws.audio import folders
from kws.base.errors import UserError
from kws.base.files import errors_name, lock

DATA_URL = "http://download.tensorflow.org/data/speech_commands_v0.02.tar.gz"
TEST_SET_URL = "http://download.tensorflow.org/data/speech_commands_test_set_v0.02.tar.gz"
SHA256 = {  # of the published archives
    DATA_URL: "af14739ee7dc311471de98f5f9d2c9191b18aedfe957f4a6ff791c709868ff58",
    TEST_SET_URL: "cc2a00c1147c2254e9be3fa0f779d8c17421dc349b86366567a8edfa9acd51df",
}
# Hidden, so that neither is taken for the folder of a word.
DOWNLOADS_FOLDER = ".downloads"
UNFINISHED_FOLDER = ".extracting"


def prepare_recordings(data_dir, data_url: str, wanted_words=()) -> Path:
    """Download and extract recordings into `data_dir`, one folder per word, if there are none yet.

    Returns the folder. Raises UserError if there are no recordings and none can be had. A single folder with
    nothing but folders in it is a word with its speakers only if it is one of `wanted_words`.
    """
    folder = Path(data_dir)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is not a folder")
    populated = is_populated(folder, data_url)
    if not populated:
        if not data_url:
            raise UserError(f"{folder} has no recordings, and there is no --data_url to get them from")
        fetch_archive(data_url, folder)
    # no words: perhaps they are one folder further down, or in files of other kinds
    if not folders.word_folders(folder) or _is_wrapped(folder, wanted_words):
        expected = f"{folder}/<word>/<clip>.wav{folders.hint(folder, wanted_words) or folders.hint(folder)}"
        if populated:
            others = folders.unused_files(folder, folders.subfolders(folder))
            unused = ", ".join(filter(None, [others, *folders.left_out(folder)]))
            unused = f"; it has {unused}" if unused else ""
            raise UserError(f"{folder} has no recordings: expected {expected}{unused}")
        raise UserError(f"{data_url} has no recordings at {expected}")
    if populated:
        shutil.rmtree(folder / DOWNLOADS_FOLDER, ignore_errors=True)  # a killed run left it
    return folder


def is_populated(folder: Path, url: str) -> bool:
    """Return whether `folder` holds more than the archive at `url`, and no extraction was interrupted."""
    archive = PurePosixPath(url).name
    # a user may have put the archive there
    others = any(not folders.is_system_folder(name) and name != archive for name in folders.entries(folder))
    return others and not (folder / UNFINISHED_FOLDER).exists()


def _is_wrapped(folder, wanted_words):
    """Return whether the only folder in `folder` is one around the words, not a word with its speakers."""
    words = folders.word_folders(folder)
    if len(words) != 1 or words[0] in wanted_words:
        return False
    return all("/" in name for name, _, _ in folders.list_recordings(folders.folder_of(folder, words[0])))


def fetch_archive(url: str, folder: Path):
    """Download the archive at `url`, verify it and extract it into `folder`.

    An archive that is in `folder` already is used. If another process is doing the same, waits for it. Raises
    UserError if the download fails, has the wrong hash, or holds what an archive of recordings must not; the
    download is deleted then.
    """
    downloads = folder / DOWNLOADS_FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    with lock(folder / ".lock", f"waiting for another run that downloads to {folder}"):
        try:
            # another process may have filled it while this one waited
            if not is_populated(folder, url):
                _fetch_archive(url, folder, downloads)
        except UserError:
            shutil.rmtree(downloads, ignore_errors=True)
            raise
        shutil.rmtree(downloads, ignore_errors=True)


def _fetch_archive(url, folder, downloads):
    import pooch

    archive, expected = folder / PurePosixPath(url).name, SHA256.get(url)
    if not archive.exists():
        print(f"no recordings in {folder} yet: downloading {url}", file=sys.stderr)
        archive = _download(url, expected, downloads)
    elif expected and pooch.file_hash(archive) != expected:
        raise UserError(f"{archive} is not the published archive, or not all of it: delete it to download it")
    try:
        extract(archive, folder)
    # tarfile passes on what its decompressors raise
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile, UserError) as error:
        raise UserError(f"{archive} cannot be extracted: {error}") from None


def _download(url, expected, downloads):
    """Download the archive at `url` into the folder `downloads`; return the file."""
    import pooch
    import requests

    # its log would stand between this script's lines
    pooch.get_logger().setLevel(logging.ERROR)
    try:
        # 30 s without a byte, not of the whole download
        downloader = pooch.HTTPDownloader(progressbar=True, timeout=30)
        known = expected and f"sha256:{expected}"
        return Path(pooch.retrieve(url, known, PurePosixPath(url).name, downloads, downloader=downloader))
    # ValueError: another hash, or no protocol that pooch knows
    except (requests.RequestException, ValueError) as error:
        offline = isinstance(error, (requests.ConnectionError, requests.Timeout))
        reason = "no connection to its server" if offline else error
        by_hand = f"put {PurePosixPath(url).name}, downloaded by other means, into {downloads.parent}"
        if url == DATA_URL:
            by_hand += ", or try without recordings: --data_dir sample_data --data_url ''"
        raise UserError(f"cannot download {url}: {reason}; {by_hand}") from None


def extract(archive: Path, folder: Path):
    """Extract the regular files of a tar archive; they appear in `folder` only when all are complete.

    Raises UserError, and extracts nothing, if a member would land outside or is a link or device.
    """
    from tqdm import tqdm

    unfinished = folder / UNFINISHED_FOLDER
    shutil.rmtree(unfinished, ignore_errors=True)
    unfinished.mkdir(parents=True)
    try:
        with errors_name(folder), tarfile.open(archive) as tar:
            for member in tqdm(tar, desc="extracting", unit=" files", disable=None):
                target = unfinished / _safe_path(member)
                if member.isfile():
                    target.parent.mkdir(parents=True, exist_ok=True)
                    with open(target, "wb") as file:
                        shutil.copyfileobj(tar.extractfile(member), file)
    # Ctrl-C too: a folder left here marks an interrupted extraction
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    # all complete: each folder moves in one step, in place of one that an interrupted run moved
    for name in folders.entries(unfinished):
        if (folder / name).is_dir():
            shutil.rmtree(folder / name)
        os.replace(unfinished / name, folder / name)
    unfinished.rmdir()


def _safe_path(member):
    path = PurePosixPath(member.name)
    if path.is_absolute() or ".." in path.parts:
        raise UserError(f"{member.name} would be written outside the target folder")
    if not (member.isfile() or member.isdir()):
        raise UserError(f"{member.name} is a link or a device")
    return path
