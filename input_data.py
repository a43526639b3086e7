"""From an archive of recordings to batches of (MFCC features, label).

In the order the data takes: download -> folders of recordings -> decoded PCM -> partitions of labelled clips
-> variation and noise -> MFCC -> batches. Nothing here needs TensorFlow.
"""

import contextlib
import errno
import fcntl
import functools
import gzip
import hashlib
import itertools
import json
import logging
import math
import os
import re
import shutil
import sys
import tarfile
import zlib
from collections import Counter, deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import NamedTuple

import numpy as np
from threadpoolctl import threadpool_limits

from settings import (
    MEL_CHANNELS,
    MEL_LOWER_HZ,
    MEL_UPPER_HZ,
    SILENCE_INDEX,
    UNKNOWN_INDEX,
    Settings,
    UserError,
    add_setting,
    bounded,
    errors_name,
    new_parser,
    partial_path,
    resolve,
    run,
    word_list,
    write_text,
)

DATA_URL = "http://download.tensorflow.org/data/speech_commands_v0.02.tar.gz"
TEST_SET_URL = "http://download.tensorflow.org/data/speech_commands_test_set_v0.02.tar.gz"
SHA256 = {
    DATA_URL: "af14739ee7dc311471de98f5f9d2c9191b18aedfe957f4a6ff791c709868ff58",
    TEST_SET_URL: "cc2a00c1147c2254e9be3fa0f779d8c17421dc349b86366567a8edfa9acd51df",
}
DEFAULT_DATA_DIR = Path(__file__).resolve().parent / "data" / "speech_commands_v0.02"
AUDIO_SUFFIXES = (".wav", ".flac", ".ogg", ".mp3")
NOISE_FOLDER = "_background_noise_"
CACHE_FOLDER = ".pcm_cache"
CACHE_VERSION = 3  # of what is done to recordings before they are kept
DOWNLOADS_FOLDER = ".downloads"
UNFINISHED_FOLDER = ".extracting"
PARTITIONS = ("training", "validation", "testing")
BAD_FILES_TOLERATED = (
    0.1  # share of a data set; beyond it, something is wrong with the set and not with a file
)
BATCHES_AHEAD = 100
ECHO_BYTES = 2**30  # for the features that data echoing keeps
LOWEST_RATE = 1000  # Hz; lower ones come from damaged headers
BLOCK_SAMPLES = 2**16  # of a recording that are decoded at once
CLIPS_AT_ONCE = 20  # their frames fit into a core's cache


def add_arguments(parser):
    """Add the flags that say which recordings are used, how they are varied, and how they become features."""
    data = parser.add_argument_group("data")
    data.add_argument(
        "--data_url",
        default=DATA_URL,
        metavar="URL",
        help="archive to download where --data_dir has no recordings; '' for none",
    )
    data.add_argument(
        "--data_dir",
        default=str(DEFAULT_DATA_DIR),
        metavar="DIR",
        help="folder with one folder of recordings for each word",
    )
    add_setting(
        data,
        "wanted_words",
        "words to tell apart, comma-separated; the others are _unknown_",
        type=word_list,
        metavar="WORDS",
    )
    percent = bounded(float, 0, 100)
    data.add_argument(
        "--silence_percentage",
        type=percent,
        default=10,
        metavar="P",
        help="clips of silence, in %% of the wanted words' clips",
    )
    data.add_argument(
        "--unknown_percentage",
        type=percent,
        default=10,
        metavar="P",
        help="clips of unknown words, in %% of the wanted words' clips",
    )
    add_setting(
        data, "validation_percentage", "share of speakers for validation, in %%", type=percent, metavar="P"
    )
    add_setting(data, "testing_percentage", "share of speakers for testing, in %%", type=percent, metavar="P")

    features = parser.add_argument_group("features (MFCC)")
    add_setting(features, "sample_rate", "of the recordings, in Hz", type=int, metavar="HZ")
    add_setting(features, "clip_duration_ms", "audio the model sees at once", type=int, metavar="MS")
    add_setting(features, "window_size_ms", "length of a frame", type=float, metavar="MS")
    add_setting(features, "window_stride_ms", "time from frame to frame", type=float, metavar="MS")
    add_setting(features, "dct_coefficient_count", "MFCCs per frame", type=int, metavar="N")


def add_augmentation_arguments(parser):
    """Add the flags that say how training clips are varied."""
    group = parser.add_argument_group("augmentation (training clips only)")
    group.add_argument(
        "--background_volume",
        type=bounded(float, 0, 1),
        default=0.1,
        metavar="V",
        help="loudest background noise, 0 to 1",
    )
    group.add_argument(
        "--background_frequency",
        type=bounded(float, 0, 1),
        default=0.8,
        metavar="P",
        help="share of clips that get background noise",
    )
    group.add_argument(
        "--time_shift_ms",
        type=bounded(float, 0),
        default=100,
        metavar="MS",
        help="clips are moved by up to this much, either way",
    )
    group.add_argument(
        "--speed_change",
        type=bounded(float, 0, 50),
        default=0,
        metavar="P",
        help="clips are played faster or slower by up to this many %%, which changes their pitch too",
    )
    group.add_argument(
        "--volume_change_db",
        type=bounded(float, 0, 60),
        default=0,
        metavar="DB",
        help="clips are made louder or quieter by up to this much",
    )
    group.add_argument(
        "--silence_volume",
        type=bounded(float, 0, 1),
        metavar="V",
        help="loudest background noise in clips of silence; --background_volume if not given",
    )
    group.add_argument(
        "--training_unknown_percentage",
        type=bounded(float, 0),
        metavar="P",
        help="clips of unknown words in a pass of training, in %% of the wanted words' clips; "
        "--unknown_percentage if not given",
    )


# ---- the recordings: download, verify, extract ----


def find_recordings(data_dir, data_url: str) -> Path:
    """The folder with one folder of recordings per word, downloaded and extracted where there is none yet.

    Raises UserError where there are no recordings and none can be had.
    """
    folder = Path(data_dir)
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is not a folder")
    filled = _is_filled(folder, data_url)
    if filled and word_folders(folder):
        shutil.rmtree(folder / DOWNLOADS_FOLDER, ignore_errors=True)  # of a run that was killed
        return folder
    if filled:
        raise UserError(f"{folder} has no recordings: expected {folder}/<word>/<clip>.wav{_hint(folder)}")
    if not data_url:
        raise UserError(f"{folder} has no recordings, and no --data_url says where to get some")
    fetch_archive(data_url, folder)
    if not word_folders(folder):
        raise UserError(f"{data_url} has no recordings at {folder}/<word>/<clip>.wav{_hint(folder)}")
    return folder


def word_folders(folder: Path) -> list[str]:
    """Names of the folders in `folder` that hold recordings of words, sorted; no '_' or '.' leads them."""
    return [
        name
        for name in _entries(folder)
        if name[0] not in "._" and list_recordings(folder / name, first=True)
    ]


def _entries(folder):
    return sorted(os.listdir(folder)) if folder.is_dir() else []


def _is_filled(folder, url):
    """Whether anything is in `folder` but the archive at `url`, and that archive's extraction has ended."""
    archive = PurePosixPath(url).name
    others = any(not name.startswith(".") and name != archive for name in _entries(folder))
    return others and not (folder / UNFINISHED_FOLDER).exists()


def _hint(folder):
    inside = [name for name in _entries(folder) if (folder / name).is_dir() and word_folders(folder / name)]
    return f" (did you mean --data_dir {folder / inside[0]}?)" if inside else ""


def fetch_archive(url: str, folder: Path):
    """Download `url`, verified, and extract it into `folder`; an archive that lies in `folder` is used.

    Where another process is doing the same, waits for it. Raises UserError where the download fails, has the
    wrong hash, or holds what an archive of recordings must not; nothing of it is left then.
    """
    downloads = folder / DOWNLOADS_FOLDER
    folder.mkdir(parents=True, exist_ok=True)
    with _lock(folder / ".lock", f"waiting for another run that fills {folder}"):
        try:
            if not _is_filled(folder, url):
                _fetch_archive(url, folder, downloads)
        except UserError:
            shutil.rmtree(downloads, ignore_errors=True)
            raise
        shutil.rmtree(downloads, ignore_errors=True)


def _lock(path, notice):
    """The file `path`, locked for this process until it is closed; say `notice` where that takes waiting.

    It stays where it is, as another process may be waiting for it. Where the file system has no locks, there
    is none.
    """
    with errors_name(path):
        lock = open(path, "a")  # noqa: SIM115  (closing it unlocks it)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print(notice, file=sys.stderr)
            fcntl.flock(lock, fcntl.LOCK_EX)
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
                raise
    return lock


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
    except (tarfile.TarError, EOFError, zlib.error, gzip.BadGzipFile, UserError) as error:
        raise UserError(f"{archive} cannot be extracted: {error}") from None


def _download(url, expected, downloads):
    """The archive at `url` as a file in the folder `downloads`."""
    import pooch
    import requests

    pooch.get_logger().setLevel(logging.ERROR)
    try:
        name = pooch.retrieve(
            url,
            known_hash=expected and f"sha256:{expected}",
            fname=PurePosixPath(url).name,
            path=downloads,
            downloader=pooch.HTTPDownloader(progressbar=True, timeout=30),
        )
    except (requests.RequestException, ValueError) as error:
        offline = isinstance(error, (requests.ConnectionError, requests.Timeout))
        reason = "no connection to its server" if offline else error
        raise UserError(f"cannot download {url}: {reason}") from None
    return Path(name)


def extract(archive: Path, folder: Path):
    """Extract the regular files of a tar archive; they appear in `folder` when all are complete.

    Raises UserError for a member that would land outside, or is a link or device: nothing is extracted then.
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
    except BaseException:
        shutil.rmtree(unfinished, ignore_errors=True)
        raise
    for name in _entries(unfinished):
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


# ---- decoding, once ----


class BadAudio(Exception):
    """Why a file cannot be used."""


@contextlib.contextmanager
def open_audio(path):
    """A recording, as a soundfile.SoundFile; raises BadAudio with the reason why it cannot be read, then or
    while it is.
    """
    import soundfile

    if os.path.getsize(path) == 0:
        raise BadAudio("is empty")
    if _riff_is_cut_short(path):
        raise BadAudio("is truncated")
    if str(path).lower().endswith(".raw"):  # soundfile would ask for its rate
        raise BadAudio("does not say its rate; label_wav.py takes raw samples on standard input")
    try:
        with soundfile.SoundFile(path) as file:
            yield file
    except soundfile.LibsndfileError as error:
        raise BadAudio(
            f"is not audio that can be read ({str(error.error_string).strip().rstrip('.')})"
        ) from None


def audio_blocks(file, sample_rate: int) -> Iterator[np.ndarray]:
    """An open recording piece by piece, int16 [samples]: other rates than `sample_rate` resampled (soxr, high
    quality), channels averaged, other sample formats rounded. Raises BadAudio where it ends too early.
    """
    if file.samplerate < LOWEST_RATE:
        raise BadAudio(f"has {file.samplerate} Hz")
    as_it_is = file.subtype == "PCM_16" and file.samplerate == sample_rate and file.channels == 1
    resampler = None
    if file.samplerate != sample_rate:
        import soxr

        resampler = soxr.ResampleStream(file.samplerate, sample_rate, 1, quality="HQ")
    while len(block := file.read(BLOCK_SAMPLES, "int16" if as_it_is else "float32", always_2d=True)):
        if as_it_is:
            yield block[:, 0]
        else:
            mono = block.mean(axis=1)
            yield _rounded(resampler.resample_chunk(mono) if resampler else mono)
    if file.tell() == 0:
        raise BadAudio("holds no samples")
    if file.tell() < file.frames:
        raise BadAudio("is truncated")
    if resampler:
        yield _rounded(resampler.resample_chunk(np.zeros(0, np.float32), last=True))


def _rounded(samples):
    """float [samples] from -1 to 1 as int16."""
    return np.clip(np.round(32768 * np.nan_to_num(samples)), -32768, 32767).astype(np.int16)


def read_audio(path, sample_rate: int) -> tuple[np.ndarray, tuple[str, ...]]:
    """A recording as int16 [samples], and what was changed for that, in words, such as "from 44100 Hz".

    Raises BadAudio with the reason.
    """
    with open_audio(path) as file:
        samples = np.concatenate([*audio_blocks(file, sample_rate)])
        if not len(samples):  # a few at a rate far higher
            raise BadAudio("is too short")
        changes = {
            f"from {file.samplerate} Hz": file.samplerate != sample_rate,
            f"from {file.channels} channels": file.channels != 1,
        }
    return samples, tuple(change for change, made in changes.items() if made)


def _riff_is_cut_short(path):
    """Whether a WAV file ends before its header says; a huge size there is that of a pipe, and no lie."""
    with open(path, "rb") as file:
        header = file.read(8)
    size = int.from_bytes(header[4:], "little") + 8
    return header[:4] == b"RIFF" and os.path.getsize(path) < size < 0x7FFF0000


def one_clip(samples: np.ndarray, length: int) -> np.ndarray:
    """`length` of the samples: those that most of the energy is in the middle of, to 1/100 of the length.

    Where they are fewer, zeros follow.
    """
    step = max(1, length // 100)
    if len(samples) < length + step:
        return np.pad(samples[:length], (0, max(0, length - len(samples))))
    blocks = samples[: len(samples) // step * step].reshape(-1, step).astype(np.float64)
    middle = np.convolve(np.square(blocks).sum(1), np.hanning(length // step + 2)[1:-1], "valid")
    start = min(step * int(middle.argmax()), len(samples) - length)
    return samples[start : start + length]


def list_recordings(folder: Path, first=False) -> list[tuple[str, int, int]]:
    """(name, bytes, time of change in ns) of the recordings in a folder, sorted; any one with `first`."""
    found = []
    if folder.is_dir():
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.lower().endswith(AUDIO_SUFFIXES) and entry.name[0] != "." and entry.is_file():
                    status = entry.stat()
                    found.append((entry.name, status.st_size, status.st_mtime_ns))
                    if first:
                        break
    return sorted(found)


class PcmFile:
    """Rows of int16 samples in a file, [rows, clip_samples], read when they are asked for.

    Unlike the pages of a memory-mapped file, what has been read does not add to the process' memory.
    """

    def __init__(self, path, shape: tuple[int, int]):
        self.shape = shape
        self._file = open(path, "rb")  # noqa: SIM115  (as long as this object lives)

    def __getitem__(self, row: int) -> np.ndarray:
        return self.read(row, np.empty(self.shape[1], np.int16))

    def read(self, row: int, out: np.ndarray) -> np.ndarray:
        os.preadv(self._file.fileno(), [out], int(row) * out.nbytes)
        return out


class Shard(NamedTuple):
    """The decoded recordings of one folder."""

    names: list[str]
    pcm: PcmFile  # [len(names), clip_samples]
    bad: dict[str, str]  # files left out -> why


def decode_folders(folder: Path, names: list[str], settings: Settings) -> dict[str, Shard]:
    """The recordings of the folders `names`, cut or zero-padded to the clip length, by folder.

    Each folder is decoded once, into a file beside the recordings (or in the user's cache, where they are
    read-only) that is made again when they change. Files that are no good audio are named on standard error;
    UserError where they are too many to be an accident.
    """
    listings = {name: list_recordings(folder / name) for name in names}
    files = {name: _cache_name(name, listings[name], settings) for name in names}
    shards = dict.fromkeys(names)

    def missing_in(cache):
        for name in names:
            shards[name] = shards[name] or _open_shard(cache / files[name], settings)
        return [name for name in names if not shards[name]]

    if missing_in(folder / CACHE_FOLDER) and missing_in(cache := _writable_cache(folder)):
        with _lock(cache / "lock", f"waiting for another run that decodes {folder}"):
            missing = {name: listings[name] for name in missing_in(cache)}
            _write_shards(cache, files, folder, missing, settings)
        missing_in(cache)
    _report_bad_files(folder, shards)
    return shards


def _write_shards(cache, files, folder, listings, settings):
    """Decode the recordings in `listings` into the cache; say what had to be converted."""
    from tqdm import tqdm

    for left in cache.glob("*.partial-*"):  # by a run that was killed
        left.unlink()
    total, changes = sum(map(len, listings.values())), Counter()
    with tqdm(total=total, desc=f"decoding {folder.name}", unit=" clips", disable=None) as progress:
        for name, listing in listings.items():
            recordings = [entry[0] for entry in listing]
            changes += _write_shard(cache / files[name], folder / name, recordings, settings, progress)
    if changes:
        made = ", ".join(f"{count:,} {change}" for change, count in sorted(changes.items()))
        print(f"files of {folder} converted: {made}", file=sys.stderr)


def _writable_cache(folder):
    beside = folder / CACHE_FOLDER
    if os.access(beside if beside.is_dir() else folder, os.W_OK):
        cache = beside
    else:
        import pooch

        name = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]
        cache = pooch.os_cache("keyword_spotting") / name
    cache.mkdir(parents=True, exist_ok=True)
    return cache


def _cache_name(name, listing, settings):
    """A name that changes with the recordings and with how they are converted and cut."""
    fingerprint = hashlib.sha256(json.dumps([CACHE_VERSION, listing]).encode()).hexdigest()[:16]
    return f"{name}-{settings.sample_rate}-{settings.clip_samples}-{fingerprint}.pcm"


def _open_shard(path, settings):
    """The shard in the cache, or None where it is not there or not complete."""
    try:
        index = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        names, bad = index["names"], index["bad"]
        shape = (len(names), settings.clip_samples)
        if path.stat().st_size != 2 * shape[0] * shape[1]:
            return None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return Shard(names, PcmFile(path, shape), bad)


def _write_shard(path, folder, files, settings, progress) -> Counter:
    """Decode `files` into `path`; the index beside it, written last, makes it valid. Counts of changes."""

    def decode(name):
        try:
            samples, changes = read_audio(folder / name, settings.sample_rate)
        except BadAudio as error:
            return str(error)
        if len(samples) > settings.clip_samples:
            changes += (f"cut to their loudest {settings.clip_duration_ms} ms",)
        return one_clip(samples, settings.clip_samples), changes

    names, bad, changed = [], {}, Counter()
    partial = partial_path(path)
    try:
        with errors_name(path), open(partial, "wb") as file, ThreadPoolExecutor(2 * os.cpu_count()) as pool:
            for name, decoded in zip(files, pool.map(decode, files), strict=True):
                progress.update()
                if isinstance(decoded, str):
                    bad[name] = decoded
                else:
                    samples, changes = decoded
                    changed.update(changes)
                    names.append(name)
                    file.write(samples.tobytes())
            file.flush()
            os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    write_text(path.with_suffix(".json"), json.dumps({"names": names, "bad": bad}))
    prefix = path.name.rsplit("-", 1)[0]
    for stale in path.parent.glob(f"{prefix}-*.*"):
        if stale.stem != path.stem:
            stale.unlink(missing_ok=True)
    return changed


def _report_bad_files(folder, shards):
    bad = [
        f"{folder / name / file} {why}" for name, shard in shards.items() for file, why in shard.bad.items()
    ]
    total = len(bad) + sum(len(shard.names) for shard in shards.values())
    if len(bad) > BAD_FILES_TOLERATED * total:
        raise UserError(f"{len(bad)} of {total} files in {folder} cannot be used; the first: {bad[0]}")
    if bad:
        print(f"left out {len(bad)} of {total} files that cannot be used:", *bad, sep="\n  ", file=sys.stderr)


# ---- the index: labels and partitions ----


@dataclass(frozen=True)
class Clips:
    """Labelled clips in a fixed order. The audio stays on disk until asked for."""

    pcm: tuple[np.ndarray | PcmFile, ...]  # int16 [rows, clip_samples] each
    source: np.ndarray  # int32 [clips]: which of `pcm` a clip is in
    row: np.ndarray  # int32 [clips]: and where in it
    label: np.ndarray  # int32 [clips]: index into Settings.labels
    names: tuple[str, ...]  # folder/file of each clip, '' for generated silence

    def __len__(self):
        return len(self.label)

    def samples(self, clip: int) -> np.ndarray:
        """The audio of one clip, int16 [clip_samples]."""
        return self.pcm[self.source[clip]][self.row[clip]]

    def audio(self, chosen: range) -> np.ndarray:
        """The audio of several clips, int16 [len(chosen), clip_samples]."""
        audio = np.empty((len(chosen), self.pcm[0].shape[1]), np.int16)
        for out, clip in zip(audio, chosen, strict=True):
            pcm, row = self.pcm[self.source[clip]], self.row[clip]
            if isinstance(pcm, PcmFile):
                pcm.read(row, out)
            else:
                out[:] = pcm[row]
        return audio

    def take(self, chosen) -> "Clips":
        """The clips with the indices `chosen`, in that order."""
        names = tuple(self.names[i] for i in chosen)
        return Clips(self.pcm, self.source[chosen], self.row[chosen], self.label[chosen], names)


@dataclass(frozen=True)
class Data:
    """A data set ready for use: labelled clips by partition, and background noise."""

    training: Clips  # with all clips of unknown words
    unknown_per_pass: int  # of which each pass of training draws so many
    validation: Clips
    testing: Clips
    noise: list[np.ndarray]  # float32 [samples] each, -1 to 1


def which_partition(file_name: str, validation_percentage: float, testing_percentage: float) -> str:
    """The partition of a recording, by its speaker: all files named alike up to `_nohash_` go together.

    This is the rule the data set's README gives: the SHA-1 of the name, modulo 2**27, scaled to per cent.
    """
    speaker = re.sub(r"_nohash_.*$", "", os.path.basename(file_name))
    largest = 2**27 - 1
    share = int(hashlib.sha1(speaker.encode()).hexdigest(), 16) % (largest + 1) * (100 / largest)
    if share < validation_percentage:
        return "validation"
    return "testing" if share < validation_percentage + testing_percentage else "training"


def open_data(args, settings: Settings) -> Data:
    """The data set that the flags of `add_arguments` describe, downloaded and decoded where it is not yet.

    In each partition: every clip of the wanted words, and in per cent of their number, clips of other words
    and silence (zeros). The clips of other words are chosen by a hash of their path, so every script
    validates and tests on the same; training draws them afresh in each pass. Raises UserError where a wanted
    word has no clips or there are no recordings.
    """
    folder = find_recordings(args.data_dir, args.data_url)
    present = word_folders(folder)
    absent = [word for word in settings.wanted_words if word not in present]
    if absent:
        raise UserError(f"no recordings of {', '.join(absent)} in {folder}; there are: {', '.join(present)}")
    used = present if args.unknown_percentage else list(settings.wanted_words)
    shards = decode_folders(folder, used, settings)
    unheard = [word for word in settings.wanted_words if not shards[word].names]
    if unheard:
        raise UserError(f"no usable recordings of {', '.join(unheard)} in {folder}")
    members = {partition: {} for partition in PARTITIONS}
    for word in used:
        for row, name in enumerate(shards[word].names):
            partition = which_partition(name, settings.validation_percentage, settings.testing_percentage)
            members[partition].setdefault(word, []).append(row)
    _report_unknown_speakers(folder, [name for word in used for name in shards[word].names])
    training = _label_clips(members["training"], shards, args, settings, all_unknown=True)
    percentage = getattr(args, "training_unknown_percentage", None)
    percentage = args.unknown_percentage if percentage is None else percentage
    drawn = _share(np.sum(training.label > UNKNOWN_INDEX), percentage)
    return Data(
        training=training,
        unknown_per_pass=min(drawn, int(np.sum(training.label == UNKNOWN_INDEX))),
        validation=_label_clips(members["validation"], shards, args, settings),
        testing=_label_clips(members["testing"], shards, args, settings),
        noise=load_noise(folder, settings),
    )


def _report_unknown_speakers(folder, names):
    strangers = sum("_nohash_" not in name for name in names)
    if strangers:
        print(
            f"{strangers:,} of {len(names):,} files of {folder} do not tell their speaker "
            "(<speaker>_nohash_<number>): each counts as another speaker, so that voices learnt from are "
            "tested on",
            file=sys.stderr,
        )


def protocol(args) -> str:
    """What the validation and test sets are made of, in words; by name if it is as in the paper's code."""
    mixture = f"{args.silence_percentage:g} % silence of zeros, {args.unknown_percentage:g} % unknown words"
    paper = args.silence_percentage == 10 and args.unknown_percentage == 10
    return f"paper protocol ({mixture})" if paper else mixture


def _label_clips(rows_by_word, shards, args, settings, all_unknown=False):
    def clips_of(words):
        return [(word, row) for word in words for row in rows_by_word.get(word, [])]

    def drawing_order(clip):
        word, row = clip
        return hashlib.sha1(f"{word}/{shards[word].names[row]}".encode()).digest()

    wanted = clips_of(settings.wanted_words)
    unknown = sorted(clips_of(rows_by_word.keys() - set(settings.wanted_words)), key=drawing_order)
    if not all_unknown:
        unknown = unknown[: _share(len(wanted), args.unknown_percentage)]
    labels = {word: index for index, word in enumerate(settings.labels)}
    entries = [(word, row, labels.get(word, UNKNOWN_INDEX)) for word, row in wanted + unknown]
    return _clips(entries, shards, _share(len(wanted), args.silence_percentage), settings)


def _share(count, percentage):
    return math.ceil(count * percentage / 100)


def _clips(entries, shards, silent, settings):
    """Clips from (folder, row, label) entries, followed by `silent` clips of zeros."""
    order = list(shards)
    position = {name: index for index, name in enumerate(order)}
    zeros = np.zeros((1, settings.clip_samples), np.int16)
    table = [(position[name], row, label) for name, row, label in entries]
    table += [(len(order), 0, SILENCE_INDEX)] * silent
    source, row, label = np.array(table, np.int32).reshape(-1, 3).T
    names = tuple(f"{name}/{shards[name].names[row]}" for name, row, _ in entries) + ("",) * silent
    return Clips((*(shards[name].pcm for name in order), zeros), source, row, label, names)


def open_test_dir(test_dir, settings: Settings) -> Clips:
    """The clips of a folder laid out like the canonical test set: one folder for each label, named like it.

    One named like the canonical test set is downloaded where it is missing or empty. UserError where a folder
    is named like no label of the model.
    """
    folder = Path(test_dir)
    name = PurePosixPath(TEST_SET_URL).name.removesuffix(".tar.gz")
    if not folder.is_dir() and folder.name != name:
        raise UserError(f"--test_dir {folder} is not a folder (one named {name} would be downloaded)")
    if folder.name == name and not _is_filled(folder, TEST_SET_URL):
        fetch_archive(TEST_SET_URL, folder)
    present = [name for name in _entries(folder) if list_recordings(folder / name, first=True)]
    strange = [name for name in present if name not in settings.labels]
    if strange:
        raise UserError(
            f"{folder / strange[0]} is named like no label of the model; its labels are "
            f"{', '.join(settings.labels)}"
        )
    if not present:
        raise UserError(f"{folder} has no recordings: expected {folder}/<label>/<clip>.wav")
    absent = [label for label in settings.labels if label not in present]
    if absent:
        print(f"{folder} has no recordings of {', '.join(absent)}", file=sys.stderr)
    shards = decode_folders(folder, present, settings)
    entries = [
        (name, row, settings.labels.index(name)) for name in present for row in range(len(shards[name].names))
    ]
    return _clips(entries, shards, 0, settings)


def load_noise(folder: Path, settings: Settings) -> list[np.ndarray]:
    """The background recordings of a data set, float32 [samples] each, none shorter than a clip."""
    noise, files = [], [name for name, _, _ in list_recordings(folder / NOISE_FOLDER)]
    for name in files:
        try:
            samples, _ = read_audio(folder / NOISE_FOLDER / name, settings.sample_rate)
        except BadAudio as error:
            print(f"left out {folder / NOISE_FOLDER / name}: it {error}", file=sys.stderr)
            continue
        length = max(len(samples), settings.clip_samples + 1)
        noise.append(np.resize(samples, length).astype(np.float32) / 32768)
    return noise


# ---- augmentation ----


class Augmentation(NamedTuple):
    """How training clips are varied."""

    shift_samples: int
    background_volume: float
    background_frequency: float
    noise: list[np.ndarray]  # float32 [samples] each
    silence_volume: float
    speed_change: float = 0.0  # as a ratio
    volume_change_db: float = 0.0

    @staticmethod
    def from_arguments(args, settings: Settings, noise) -> "Augmentation":
        silence_volume = args.background_volume if args.silence_volume is None else args.silence_volume
        if not noise and max(args.background_volume, silence_volume) and args.background_frequency:
            print(
                f"{args.data_dir} has no {NOISE_FOLDER}: training goes without background noise",
                file=sys.stderr,
            )
        return Augmentation(
            shift_samples=min(int(args.time_shift_ms * settings.sample_rate / 1000), settings.clip_samples),
            background_volume=args.background_volume,
            background_frequency=args.background_frequency,
            noise=noise,
            silence_volume=silence_volume,
            speed_change=args.speed_change / 100,
            volume_change_db=args.volume_change_db,
        )


def augment(
    clips: Clips, chosen: np.ndarray, how: Augmentation, rng: np.random.Generator, rows=slice(None)
) -> np.ndarray:
    """The clips `chosen`, varied and mixed with noise, float32 [chosen, clip_samples].

    Speed, volume in dB, and shift are uniform within their limits, either way, each clip's own; what is
    missing at the ends is zeros. Noise comes from a uniformly chosen place of a uniformly chosen recording at
    a uniform volume up to `background_volume`, or in clips of silence `silence_volume`; the sum is clipped to
    -1..1. With `rows` (a slice or indices), only these rows of the result are made, and returned.
    """
    length, count = clips.pcm[0].shape[1], len(chosen)
    shifts = rng.integers(-how.shift_samples, how.shift_samples, count, endpoint=True)[rows]
    loudest = np.where(clips.label[chosen] == SILENCE_INDEX, how.silence_volume, how.background_volume)
    volumes = (loudest * rng.random(count)).astype(np.float32)
    volumes = (volumes * (rng.random(count) < how.background_frequency) * bool(how.noise))[rows]
    places = rng.random((count, 2))[rows]
    speeds, decibels = rng.uniform(-1, 1, (2, count))[:, rows]
    speeds = 1 + how.speed_change * speeds
    gains = (10 ** (how.volume_change_db * decibels / 20) / 32768).astype(np.float32)
    audio = np.zeros((len(shifts), length), np.float32)
    scaled = np.empty(length, np.float32)
    for row, clip in enumerate(chosen[rows]):
        out, volume, shift = audio[row], volumes[row], shifts[row]
        if volume:
            recording = how.noise[int(places[row, 0] * len(how.noise))]
            start = int(places[row, 1] * (len(recording) - length))
            np.multiply(recording[start : start + length], volume, out=out)
        np.multiply(clips.samples(clip), gains[row], out=scaled)
        heard = scaled if speeds[row] == 1 else _at_speed(scaled, speeds[row])
        out[max(0, shift) : length + min(0, shift)] += heard[max(0, -shift) : length - max(0, shift)]
    return np.clip(audio, -1, 1, out=audio)


def _at_speed(samples, speed):
    """`samples` at `speed` times their speed around their middle, as many, by linear interpolation."""
    middle = (len(samples) - 1) / 2
    where = (np.arange(len(samples), dtype=np.float32) - middle) * np.float32(speed) + np.float32(middle)
    left = where.astype(np.int64)
    heard, after = (np.take(samples, index, mode="clip") for index in (left, left + 1))
    heard += (where - left).astype(np.float32) * (after - heard)
    missing = max(0, math.ceil(middle - middle / speed))  # samples at either end
    heard[:missing] = heard[len(heard) - missing :] = 0
    return heard


# ---- features ----


@functools.lru_cache
def mfcc_tables(settings: Settings) -> tuple[np.ndarray, int, np.ndarray, np.ndarray]:
    """Window [window_samples], FFT length, mel filters [bins, 40] from bin 1 up, DCT [40, coefficients];
    float32.

    Periodic Hann window, FFT of the next power of two, triangles evenly spaced in mel = 1127 ln(1 + f / 700)
    between 20 and 4000 Hz, orthogonal DCT-II without the first row's extra factor: as in TensorFlow's
    AudioSpectrogram and Mfcc ops. Bins below and above the filters are left out.
    """
    size = settings.window_samples
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(size) / size)
    fft_length = 1 << (size - 1).bit_length()

    def to_mel(hz):
        return 1127 * np.log1p(hz / 700)

    spacing = settings.sample_rate / fft_length
    bins = spacing * np.arange(1, min(int(MEL_UPPER_HZ / spacing) + 1, fft_length // 2))
    edges = np.linspace(to_mel(MEL_LOWER_HZ), to_mel(MEL_UPPER_HZ), MEL_CHANNELS + 2)
    low, middle, high = edges[:-2], edges[1:-1], edges[2:]
    mel = to_mel(bins)[:, None]
    filters = np.maximum(0, np.minimum((mel - low) / (middle - low), (high - mel) / (high - middle)))
    filters[: int(0.5 + MEL_LOWER_HZ / spacing)] = 0  # where the op's filters begin
    orders = np.arange(settings.dct_coefficient_count)
    dct = np.sqrt(2 / MEL_CHANNELS) * np.cos(
        np.pi / MEL_CHANNELS * np.outer(np.arange(MEL_CHANNELS) + 0.5, orders)
    )
    return window.astype(np.float32), fft_length, filters.astype(np.float32), dct.astype(np.float32)


def mfcc(audio: np.ndarray, settings: Settings, full_scale: float = 1) -> np.ndarray:
    """MFCC features of clips: float32 or int16 [clips, clip_samples] from -full_scale to full_scale ->
    float32 [clips, feature_count].

    Frame by frame, coefficients in order. The numbers are those of TensorFlow's AudioSpectrogram
    (magnitude_squared) and Mfcc ops, up to float32 rounding.
    """
    parts = [
        _mfcc_part(audio[first : first + CLIPS_AT_ONCE], settings, full_scale)
        for first in range(0, len(audio), CLIPS_AT_ONCE)
    ]
    return np.concatenate(parts) if parts else np.zeros((0, settings.feature_count), np.float32)


def _mfcc_part(audio, settings, full_scale):
    cv2 = _opencv()
    window, fft_length, filters, dct = mfcc_tables(settings)
    window = window / np.float32(full_scale)
    frames = np.lib.stride_tricks.sliding_window_view(audio, len(window), axis=1)[
        :, :: settings.stride_samples
    ]
    padded = np.zeros((frames.shape[0] * frames.shape[1], fft_length), np.float32)
    windowed = padded.reshape(*frames.shape[:2], fft_length)[:, :, : len(window)]
    np.multiply(frames, window, out=windowed, dtype=np.float32)
    # of each row: bin 0, then real and imaginary part of bin 1, of bin 2, ...
    packed = cv2.dft(padded, padded, flags=cv2.DFT_ROWS)
    magnitudes = np.abs(packed[:, 1 : 1 + 2 * len(filters)].view(np.complex64))
    mel = np.empty((len(magnitudes), MEL_CHANNELS), np.float32)
    for channels, bins in _mel_bands(settings):
        np.matmul(magnitudes[:, bins], filters[bins, channels], out=mel[:, channels])
    log_mel = np.log(np.maximum(mel, np.float32(1e-12)))
    return (log_mel @ dct).reshape(len(audio), -1)


@functools.lru_cache
def _mel_bands(settings):
    """Groups of mel channels and the bins they take, as slices: less to multiply than all by all."""
    filters = mfcc_tables(settings)[2]
    groups = [slice(first, first + 8) for first in range(0, MEL_CHANNELS, 8)]
    used = [np.flatnonzero(filters[:, channels].any(1)) for channels in groups]
    return [
        (channels, slice(bins[0], bins[-1] + 1) if len(bins) else slice(0, 0))
        for channels, bins in zip(groups, used, strict=True)
    ]


@functools.cache
def _opencv():
    """OpenCV, whose FFT of many rows of float32 is the fastest to be had from PyPI; on one thread."""
    import cv2

    cv2.setNumThreads(1)
    return cv2


@contextlib.contextmanager
def _workers():
    """Threads for numpy's work, one a core; BLAS's own threads, which would fight with them, rest."""
    pool = ThreadPoolExecutor(os.cpu_count())
    with threadpool_limits(1, user_api="blas"):
        try:
            yield pool
        finally:
            pool.shutdown(cancel_futures=True)


def features(clips: Clips, settings: Settings) -> np.ndarray:
    """MFCC features of all clips as they are, float32 [clips, feature_count], on all cores."""

    def part(start):
        chosen = range(start, min(start + CLIPS_AT_ONCE, len(clips)))
        return mfcc(clips.audio(chosen), settings, full_scale=32768)

    with _workers() as pool:
        parts = list(pool.map(part, range(0, len(clips), CLIPS_AT_ONCE)))
    return np.concatenate(parts) if parts else np.zeros((0, settings.feature_count), np.float32)


# ---- batches ----


class Teacher(NamedTuple):
    """A trained model that another one learns from."""

    scores: Callable[[np.ndarray], np.ndarray]  # features [n, feature_count] -> scores [n, labels]
    settings: Settings


def training_batches(
    data: Data,
    how: Augmentation,
    settings: Settings,
    batch_size: int,
    seed: int,
    steps: range,
    echo: int = 1,
    share: slice = slice(None),
    teacher: Teacher | None = None,
) -> Iterator[tuple[np.ndarray, ...]]:
    """(features [batch_size, feature_count], labels [batch_size]) for each of `steps`.

    With a `teacher` its scores of the same augmented clips, [batch_size, labels], are a third part.
    With `echo` n, freshly augmented clips are kept, as float16, until they have all been used n times,
    regrouped into other batches each time (data echoing, Choi et al., arXiv:1907.05550). As many are kept as
    the steps up to `steps.stop` take, and ECHO_BYTES hold. With `share`, only these rows of each batch come.
    A batch depends on the seed, its step and, with echoing, `steps.stop`: a run that starts in the middle
    sees what an unbroken one would have seen, and workers with a share each see what one alone would.
    """
    rows = np.arange(batch_size)[share]
    held = max(1, ECHO_BYTES // (2 * batch_size * settings.feature_count))
    held = min(held, -(-steps.stop // echo)) if echo > 1 else 1
    first = steps.start // (held * echo) * held
    full_groups, left = divmod(steps.stop, held * echo)
    numbers = range(first, full_groups * held + min(held, left))

    def orders(group, repetition):
        """For each row the order in which it takes that row of the held batches, [rows, held]."""
        all_rows = np.tile(np.arange(held, dtype=np.int32), (batch_size, 1))
        return np.random.default_rng([seed, 2, group, repetition]).permuted(all_rows, axis=1)[rows]

    with _workers() as pool:
        fresh = _fresh_batches(data, how, settings, batch_size, seed, numbers, rows, teacher, pool)
        if echo == 1:
            yield from fresh
        else:
            echoed = _echoed_batches(fresh, echo, held, orders, first // held)
            yield from itertools.islice(echoed, steps.start - first * echo, steps.stop - first * echo)


def _echoed_batches(fresh, echo, held, orders, first_group):
    """Batches without end: each group of `held` of the `fresh` ones, `echo` times."""
    kept = None
    for group in itertools.count(first_group):
        for position, batch in enumerate(itertools.islice(fresh, held)):
            kept = kept or [np.empty((held, *part.shape), _stored_type(part)) for part in batch]
            for store, part in zip(kept, batch, strict=True):
                store[position] = part
            yield tuple(store[position].astype(part.dtype) for store, part in zip(kept, batch, strict=True))
        columns = np.arange(len(batch[0]))
        for repetition in range(1, echo):
            for order in orders(group, repetition).T:
                yield tuple(
                    store[order, columns].astype(part.dtype) for store, part in zip(kept, batch, strict=True)
                )


def _stored_type(part):
    return np.float16 if part.dtype == np.float32 else part.dtype


def _fresh_batches(data, how, settings, batch_size, seed, numbers, rows, teacher, pool):
    """The freshly augmented batches with these numbers, made ahead by the threads of `pool`."""
    clips, passes = data.training, Passes(data, seed)
    parts = [rows[i : i + CLIPS_AT_ONCE] for i in range(0, len(rows), CLIPS_AT_ONCE)]
    models = [settings, teacher.settings] if teacher else [settings]
    front_ends = list(dict.fromkeys(map(_front_end, models)))

    def batch(number):
        chosen = passes.members(range(number * batch_size, (number + 1) * batch_size))
        made = []
        for part in parts:
            audio = augment(clips, chosen, how, np.random.default_rng([seed, 1, number]), part)
            made.append([mfcc(audio, front_end) for front_end in front_ends])
        features = [np.concatenate(made_of_all) for made_of_all in zip(*made, strict=True)]
        scores = [teacher.scores(features[-1])] if teacher else []
        return features[0], clips.label[chosen[rows]], *scores

    ahead = deque()
    for number in numbers:
        ahead.append(pool.submit(batch, number))
        if len(ahead) > BATCHES_AHEAD:
            yield ahead.popleft().result()
    while ahead:
        yield ahead.popleft().result()


def _front_end(settings):
    """The settings without what says nothing about features."""
    return replace(settings, model_architecture="", model_size_info=())


class Passes:
    """The order of training clips: pass after pass, each in an order of its own.

    A pass holds every clip of the wanted words and of silence once, and a fresh draw of unknown words.
    """

    def __init__(self, data: Data, seed: int):
        unknown = data.training.label == UNKNOWN_INDEX
        self._always, self._pool = np.flatnonzero(~unknown), np.flatnonzero(unknown)
        self._drawn, self._seed = data.unknown_per_pass, seed
        self._order = functools.lru_cache(maxsize=4)(self._new_order)

    def __len__(self):
        return len(self._always) + self._drawn

    def members(self, positions: range) -> np.ndarray:
        """The clips at `positions` of the endless sequence of passes, int [positions]."""
        where = np.arange(positions.start, positions.stop)
        return np.concatenate(
            [
                self._order(number)[where[where // len(self) == number] % len(self)]
                for number in np.unique(where // len(self))
            ]
        )

    def _new_order(self, number):
        rng = np.random.default_rng([self._seed, 0, number])
        drawn = rng.choice(self._pool, self._drawn, replace=False)
        return rng.permutation(np.concatenate([self._always, drawn]))


# ---- what there is, as a table ----


def main():
    parser = new_parser(
        "Get the recordings ready (download, extract, decode), and count them by label and partition."
    )
    add_arguments(parser)
    parser.add_argument(
        "--test_dir",
        metavar="DIR",
        help="count this folder too, one folder of recordings per label",
    )
    args = parser.parse_args()
    settings = resolve(args, None, "")
    data = open_data(args, settings)
    sets = {partition: getattr(data, partition) for partition in PARTITIONS}
    if args.test_dir:
        sets[Path(args.test_dir).name] = open_test_dir(args.test_dir, settings)
    counts = np.array([np.bincount(clips.label, minlength=len(settings.labels)) for clips in sets.values()])
    print(f"{'clips':12}" + "".join(f"{name:>{len(name) + 2}}" for name in sets))
    for label, row in [*zip(settings.labels, counts.T, strict=True), ("all", counts.sum(1))]:
        print(
            f"{label:12}"
            + "".join(f"{count:>{len(name) + 2},}" for name, count in zip(sets, row, strict=True))
        )


if __name__ == "__main__":
    run(main)
