"""Recordings of any format as int16 samples of one rate, decoded once and kept on disk."""

import contextlib
import functools
import hashlib
import json
import os
import re
import struct
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from kws.cli import UserError
from kws.containers import Patched, as_file, find_data, real_size
from kws.containers import is_container as is_container  # for those who open recordings
from kws.features import FrontEnd
from kws.files import appears_complete, delete_leftovers, lock, write_text
from kws.folders import NOISE_FOLDER, folder_of, list_recordings
from kws.settings import SILENCE_LABEL

CACHE_FOLDER = ".pcm_cache"
CACHE_VERSION = 4  # of how recordings are converted; part of the cache's file names
BAD_FILES_TOLERATED = 0.1  # of a data set; beyond it something is wrong with the set, not with single files
LOWEST_RATE = 1000  # Hz; lower ones come from damaged headers
BLOCK_SAMPLES = 2**16  # of a recording that are decoded at a time, which bounds memory
UNKNOWN_FRAMES = 2**62  # what libsndfile says of a stream that does not say its length is SF_COUNT_MAX
FLOATS = "FLOAT", "DOUBLE"
LOUDEST_FLOAT = 8  # 18 dB above full scale: what mixing and resampling may reach, and clipping mends
QUIETEST_INTEGER = 256  # as a peak: quieter recordings at the scale of int16 cannot be told from damage
# of these, libsndfile may count frames that the last block does not have: at most two of MPEG's
IN_BLOCKS, FRAMES_OF_A_BLOCK = ("GSM", "G72", "IMA_", "MS_", "NMS_", "VOX_", "MPEG"), 2 * 1152
SILENT_RANGE = 2  # between the lowest and highest sample: dither


class BadAudio(Exception):
    """Why a file cannot be used."""


class Recording:
    """An open recording, and how its samples become those of one channel at full scale 1."""

    def __init__(self, file, frames: int, gain: float = 1, channel: int | None = None):
        self.file, self.frames, self.gain = file, frames, gain
        self.channel = channel  # the one to take where the mean of all would be nothing
        self.samplerate, self.channels, self.subtype = file.samplerate, file.channels, file.subtype


@contextlib.contextmanager
def open_audio(source) -> Iterator[Recording]:
    """A recording: a path, also of a pipe, or an open binary file such as `sys.stdin.buffer`.

    Raises BadAudio with the reason, on opening or while reading.
    """
    import soundfile

    with as_file(source) as path:
        if path is None:
            raise BadAudio(
                "is a pipe that holds no audio file; label_wav.py takes raw samples on standard input"
            )
        if os.path.isdir(path):
            raise BadAudio("is a folder")
        if os.path.getsize(path) == 0:
            raise BadAudio("is empty")
        if str(path).lower().endswith(".raw"):  # soundfile would ask for its rate
            raise BadAudio("does not say its rate; label_wav.py takes raw samples on standard input")
        patch = _patch(path)
        try:
            with _open_file(path, patch) as file:
                recording = Recording(file, file.frames)
                if file.channels > 1 or file.subtype in FLOATS or file.frames >= UNKNOWN_FRAMES:
                    with _open_file(path, patch) as again:  # not all formats can be rewound
                        recording = Recording(file, *survey(_blocks(again), file.channels, file.subtype))
                yield recording
        except soundfile.LibsndfileError as error:
            raise unreadable(error) from None


def unreadable(error) -> BadAudio:
    """What a soundfile.LibsndfileError says."""
    return BadAudio(f"is not audio that can be read ({str(error.error_string).strip().rstrip('.')})")


def _patch(path):
    """(place, bytes) that the header should have instead, or None. BadAudio where samples are missing."""
    with open(path, "rb") as file:
        data = find_data(file)
        if data is None:
            return None
        size = real_size(data, file)
    if size is None:
        raise BadAudio("is truncated")
    if size == data.size:
        return None
    try:
        return data.field, data.field_content(size)
    except struct.error:
        raise BadAudio("is larger than its format can say: split it, or convert it to FLAC") from None


@functools.cache
def sequential():
    """soundfile.SoundFile, imported when it is needed, but for its seeking after every block that is read.

    Not all formats can be sought in, nor streams that do not say their length.
    """
    import soundfile

    class Sequential(soundfile.SoundFile):
        def seekable(self):
            return False

    return Sequential


@contextlib.contextmanager
def _open_file(path, patch):
    """An open soundfile.SoundFile that is read from its beginning to its end."""
    with contextlib.ExitStack() as stack:
        if patch:
            path = Patched(stack.enter_context(open(path, "rb", buffering=0)), *patch)
        elif os.name == "posix":
            path = os.fsencode(path)  # soundfile cannot encode names that are no text
        yield stack.enter_context(sequential()(path))


def _blocks(file):
    while len(block := file.read(BLOCK_SAMPLES, "float32", always_2d=True)):
        yield block


def survey(blocks, channels: int, subtype: str) -> tuple[int, float, int | None]:
    """(frames, gain, channel) of a Recording, from its samples block by block, float32 [frames, channels]."""
    count, peak, whole = 0, 0.0, True
    sums, squares = np.zeros((2, channels + 1))  # of each channel and of their mean
    for block in blocks:
        block = np.nan_to_num(block, posinf=0, neginf=0)
        peak = max(peak, float(np.abs(block).max()))
        whole = whole and bool((block == np.round(block)).all())
        block = np.column_stack([block, block.mean(axis=1)]).astype(np.float64)
        sums, squares, count = sums + block.sum(0), squares + np.square(block).sum(0), count + len(block)
    gain = _float_gain(peak, whole) if subtype in FLOATS else 1
    *each, of_mean = squares / max(1, count) - np.square(sums / max(1, count))
    # the mean of channels that have nothing in common has 1 / channels of their power
    cancels = channels > 1 and of_mean < np.mean(each) / channels / 4
    return count, gain, int(np.argmax(each >= 0.999 * max(each))) if cancels else None


def _float_gain(peak, whole):
    """What to multiply float samples with, by the largest and by whether all are whole numbers."""
    if peak <= LOUDEST_FLOAT and not (whole and peak > 1):
        return 1
    if peak <= 2 * 32768 and (whole or peak >= QUIETEST_INTEGER):
        return 1 / 32768
    raise BadAudio(f"has float samples up to {peak:.3g}, where 1 or 32768 should be the largest")


def audio_blocks(recording: Recording, sample_rate: int) -> Iterator[np.ndarray]:
    """An open recording piece by piece, int16 [samples]: other rates than `sample_rate` resampled (soxr, high
    quality), channels averaged (or, where they cancel out, the loudest taken), other sample formats rounded.
    Raises BadAudio where it ends too early.
    """
    file = recording.file
    if file.samplerate < LOWEST_RATE:
        raise BadAudio(f"has {file.samplerate} Hz")
    unchanged = file.subtype == "PCM_16" and file.samplerate == sample_rate and file.channels == 1
    resampler = None
    if file.samplerate != sample_rate:
        import soxr

        resampler = soxr.ResampleStream(file.samplerate, sample_rate, 1, quality="HQ")
    count = 0
    while len(block := file.read(BLOCK_SAMPLES, "int16" if unchanged else "float32", always_2d=True)):
        count += len(block)
        if unchanged:
            yield block[:, 0]
        else:
            mono = block.mean(axis=1) if recording.channel is None else block[:, recording.channel].copy()
            mono *= np.float32(recording.gain)
            yield _rounded(resampler.resample_chunk(mono) if resampler else mono)
    if count == 0:
        raise BadAudio("holds no samples")
    if count < recording.frames - (FRAMES_OF_A_BLOCK if file.subtype.startswith(IN_BLOCKS) else 0):
        raise BadAudio("is truncated")
    if resampler:
        yield _rounded(resampler.resample_chunk(np.zeros(0, np.float32), last=True))


def _rounded(samples):
    """float [samples] from -1 to 1 as int16."""
    return np.clip(np.round(32768 * np.nan_to_num(samples)), -32768, 32767).astype(np.int16)


def read_audio(source, sample_rate: int) -> tuple[np.ndarray, tuple[str, ...]]:
    """A recording as int16 [samples], and what was changed for that, in words, such as "from 44100 Hz".

    Raises BadAudio with the reason.
    """
    with open_audio(source) as recording:
        samples = np.concatenate([*audio_blocks(recording, sample_rate)])
        if not len(samples):  # a few at a rate far higher
            raise BadAudio("is too short")
        changes = {
            f"from {recording.samplerate} Hz": recording.samplerate != sample_rate,
            f"from {recording.channels} channels": recording.channels != 1,
            "from the loudest channel, as their mean cancels out": recording.channel is not None,
            "from float samples at the scale of 16-bit integers": recording.gain != 1,
        }
    return samples, tuple(change for change, made in changes.items() if made)


def one_clip(samples: np.ndarray, length: int) -> np.ndarray:
    """`length` of the samples: those that most of the energy is in the middle of, to 1/100 of the length.

    Where they are fewer, zeros follow.
    """
    start = clip_start(samples, length)
    clip = samples[start : start + length]
    return np.pad(clip, (0, length - len(clip)))


def clip_start(samples: np.ndarray, length: int) -> int:
    """The first of the samples that `one_clip` takes."""
    step = max(1, length // 100)  # sliding by single samples would take 100 times as long
    if len(samples) < length + step:
        return 0
    blocks = samples[: len(samples) // step * step].reshape(-1, step).astype(np.float64)
    middle = np.convolve(np.square(blocks).sum(1), np.hanning(length // step + 2)[1:-1], "valid")
    return min(step * int(middle.argmax()), len(samples) - length)


class PcmFile:
    """Rows of int16 samples in a file, [rows, clip_samples], read when they are asked for, by several threads
    at once.

    Unlike the pages of a memory-mapped file, what has been read does not add to the process' memory.
    """

    def __init__(self, path, shape: tuple[int, int]):
        self.shape = shape
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115  (as long as this object lives)
        self._lock = threading.Lock()

    def __getitem__(self, row: int) -> np.ndarray:
        return self.read(row, np.empty(self.shape[1], np.int16))

    def read(self, row: int, out: np.ndarray) -> np.ndarray:
        """A row into `out`, int16 [clip_samples]."""
        if hasattr(os, "preadv"):
            os.preadv(self._file.fileno(), [out], int(row) * out.nbytes)
        else:  # Windows
            with self._lock:
                self._file.seek(int(row) * out.nbytes)
                self._file.readinto(out)
        return out


class Shard(NamedTuple):
    """The decoded recordings of one folder."""

    names: list[str]
    pcm: PcmFile  # [len(names), clip_samples]
    bad: dict[str, str]  # files left out -> why
    silent: list[str]  # files in which nothing is to be heard


def decode_folders(folder: Path, names: list[str], front_end: FrontEnd) -> dict[str, Shard]:
    """The recordings of the folders `names`, cut or zero-padded to the clip length, by folder.

    Each folder is decoded once, into a file beside the recordings (or in the user's cache, where they are
    read-only), and again when they change. Unusable files are named on standard error; UserError where they
    are too many to be an accident.
    """
    places = {name: folder_of(folder, name) for name in names}
    listings = {name: list_recordings(place) for name, place in places.items()}
    files = {name: _cache_name(name, listings[name], front_end) for name in names}
    shards = _open_shards(folder / CACHE_FOLDER, files, front_end)
    if len(shards) < len(names):
        cache = writable_cache(folder)
        shards |= _open_shards(cache, files, front_end)
    if len(shards) < len(names):
        with lock(cache / "lock", f"waiting for another run that decodes {folder}"):
            shards |= _open_shards(cache, files, front_end)  # that run may have made them
            missing = {name: listings[name] for name in names if name not in shards}
            _write_shards(cache, files, folder, places, missing, front_end)
        shards |= _open_shards(cache, files, front_end)
    shards = {name: shards[name] for name in names}
    _report_bad_files(folder, shards)
    _report_silent_files(folder, shards)
    return shards


def _open_shards(cache, files, front_end) -> dict[str, Shard]:
    """The complete shards that `cache` has of {folder: file}."""
    shards = {name: _open_shard(cache / file, front_end) for name, file in files.items()}
    return {name: shard for name, shard in shards.items() if shard}


def _write_shards(cache, files, folder, places, listings, front_end):
    """Decode the recordings in `listings` into the cache; print what had to be converted."""
    from tqdm import tqdm

    for suffix in (".pcm", ".json"):
        delete_leftovers(cache / f"*{suffix}")
    total, changes = sum(map(len, listings.values())), Counter()
    with tqdm(total=total, desc=f"decoding {folder.name}", unit=" clips", disable=None) as progress:
        for name, listing in listings.items():
            recordings = [entry[0] for entry in listing]
            changes += _write_shard(cache / files[name], places[name], recordings, front_end, progress)
    if changes:
        counts = ", ".join(f"{count:,} {change}" for change, count in sorted(changes.items()))
        print(f"files of {folder} converted: {counts}", file=sys.stderr)


def writable_cache(folder: Path) -> Path:
    """Where decoded recordings of `folder` can be written: in it, or else in the user's cache."""
    beside = folder / CACHE_FOLDER
    if os.access(beside if beside.is_dir() else folder, os.W_OK):
        cache = beside
    else:
        import pooch

        name = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]
        cache = pooch.os_cache("keyword_spotting") / name
    cache.mkdir(parents=True, exist_ok=True)
    return cache


def _cache_name(name, listing, front_end):
    """A name that changes with the recordings and with how they are converted and cut.

    What is before the first '-' is of this folder alone, whatever it is called.
    """
    if not re.fullmatch("[A-Za-z0-9_]{1,60}", name):
        digest = hashlib.sha256(os.fsencode(name)).hexdigest()[:16]
        name = f"{re.sub('[^A-Za-z0-9]+', '_', name)[:40]}~{digest}"
    fingerprint = hashlib.sha256(json.dumps([CACHE_VERSION, listing]).encode()).hexdigest()[:16]
    return f"{name}-{front_end.sample_rate}-{front_end.clip_samples}-{fingerprint}.pcm"


def _open_shard(path, front_end):
    """The shard in the cache, or None where it is not there or not complete."""
    try:
        index = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        names, bad, silent = index["names"], index["bad"], index["silent"]
        shape = (len(names), front_end.clip_samples)
        if path.stat().st_size != 2 * shape[0] * shape[1]:  # of int16
            return None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return Shard(names, PcmFile(path, shape), bad, silent)


def _write_shard(path, folder, files, front_end, progress) -> Counter:
    """Decode `files` into `path`, return counts of changes; the index, written last, makes it valid."""
    length = front_end.clip_samples

    def decode(name):
        try:
            samples, changes = read_audio(folder / name, front_end.sample_rate)
        except BadAudio as error:
            return str(error)
        if len(samples) > length:
            changes += (f"cut to their loudest {1000 * length / front_end.sample_rate:.0f} ms",)
        return one_clip(samples, length), changes

    names, bad, silent, changed = [], {}, [], Counter()
    with (
        appears_complete(path) as partial,
        open(partial, "wb") as file,
        ThreadPoolExecutor(2 * os.cpu_count()) as pool,  # two a core, as some wait for the disk
    ):
        for name, decoded in zip(files, pool.map(decode, files), strict=True):
            progress.update()
            if isinstance(decoded, str):
                bad[name] = decoded
            else:
                samples, changes = decoded
                changed.update(changes)
                names.append(name)
                if np.ptp(samples.astype(np.int32)) <= SILENT_RANGE:
                    silent.append(name)
                file.write(samples.tobytes())
    write_text(path.with_suffix(".json"), json.dumps({"names": names, "bad": bad, "silent": silent}))
    prefix = path.name.rsplit("-", 1)[0]
    for stale in path.parent.iterdir():  # of recordings that have changed since
        if stale.name.startswith(f"{prefix}-") and stale.stem != path.stem:
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


def _report_silent_files(folder, shards):
    words = {name: shard for name, shard in shards.items() if name != SILENCE_LABEL and shard.silent}
    if not words:
        return
    whole = [name for name, shard in words.items() if len(shard.silent) == len(shard.names)]
    first, shard = next(iter(words.items()))
    print(
        f"silent recordings in {folder}: {sum(len(shard.silent) for shard in words.values()):,}"
        f"{''.join(f', all of {name}' for name in whole)}; such as {first}/{shard.silent[0]}",
        file=sys.stderr,
    )


def load_noise(folder: Path, front_end: FrontEnd) -> list[np.ndarray]:
    """The background recordings of a data set, float32 [samples] each, none shorter than a clip."""
    noise = []
    for name, _, _ in list_recordings(folder / NOISE_FOLDER):
        try:
            samples, _ = read_audio(folder / NOISE_FOLDER / name, front_end.sample_rate)
        except BadAudio as error:
            print(f"left out {folder / NOISE_FOLDER / name}: it {error}", file=sys.stderr)
            continue
        length = max(len(samples), front_end.clip_samples + 1)
        noise.append(np.resize(samples, length).astype(np.float32) / 32768)
    return noise
