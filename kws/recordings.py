"""Recordings of any format as int16 samples of one rate, decoded once and kept on disk."""

import contextlib
import hashlib
import json
import os
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from kws.cli import UserError
from kws.download import list_recordings
from kws.features import FrontEnd
from kws.files import appears_complete, delete_leftovers, lock, write_text

NOISE_FOLDER = "_background_noise_"
CACHE_FOLDER = ".pcm_cache"
CACHE_VERSION = 3  # of how recordings are converted; part of the cache's file names
BAD_FILES_TOLERATED = 0.1  # of a data set; beyond it something is wrong with the set, not with single files
LOWEST_RATE = 1000  # Hz; lower ones come from damaged headers
BLOCK_SAMPLES = 2**16  # of a recording that are decoded at a time, which bounds memory


class BadAudio(Exception):
    """Why a file cannot be used."""


@contextlib.contextmanager
def open_audio(path):
    """A recording, as a soundfile.SoundFile; raises BadAudio with the reason, on opening or while reading."""
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
    unchanged = file.subtype == "PCM_16" and file.samplerate == sample_rate and file.channels == 1
    resampler = None
    if file.samplerate != sample_rate:
        import soxr

        resampler = soxr.ResampleStream(file.samplerate, sample_rate, 1, quality="HQ")
    while len(block := file.read(BLOCK_SAMPLES, "int16" if unchanged else "float32", always_2d=True)):
        if unchanged:
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
    """Whether a WAV file ends before its header says; programs that write to a pipe put a huge size there."""
    with open(path, "rb") as file:
        header = file.read(8)
    size = int.from_bytes(header[4:], "little") + 8
    return header[:4] == b"RIFF" and os.path.getsize(path) < size < 0x7FFF0000


def one_clip(samples: np.ndarray, length: int) -> np.ndarray:
    """`length` of the samples: those that most of the energy is in the middle of, to 1/100 of the length.

    Where they are fewer, zeros follow.
    """
    step = max(1, length // 100)  # sliding by single samples would take 100 times as long
    if len(samples) < length + step:
        return np.pad(samples[:length], (0, max(0, length - len(samples))))
    blocks = samples[: len(samples) // step * step].reshape(-1, step).astype(np.float64)
    middle = np.convolve(np.square(blocks).sum(1), np.hanning(length // step + 2)[1:-1], "valid")
    start = min(step * int(middle.argmax()), len(samples) - length)
    return samples[start : start + length]


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


def decode_folders(folder: Path, names: list[str], front_end: FrontEnd) -> dict[str, Shard]:
    """The recordings of the folders `names`, cut or zero-padded to the clip length, by folder.

    Each folder is decoded once, into a file beside the recordings (or in the user's cache, where they are
    read-only), and again when they change. Unusable files are named on standard error; UserError where they
    are too many to be an accident.
    """
    listings = {name: list_recordings(folder / name) for name in names}
    files = {name: _cache_name(name, listings[name], front_end) for name in names}
    shards = _open_shards(folder / CACHE_FOLDER, files, front_end)
    if len(shards) < len(names):
        cache = writable_cache(folder)
        shards |= _open_shards(cache, files, front_end)
    if len(shards) < len(names):
        with lock(cache / "lock", f"waiting for another run that decodes {folder}"):
            shards |= _open_shards(cache, files, front_end)  # that run may have made them
            missing = {name: listings[name] for name in names if name not in shards}
            _write_shards(cache, files, folder, missing, front_end)
        shards |= _open_shards(cache, files, front_end)
    shards = {name: shards[name] for name in names}
    _report_bad_files(folder, shards)
    return shards


def _open_shards(cache, files, front_end) -> dict[str, Shard]:
    """The complete shards that `cache` has of {folder: file}."""
    shards = {name: _open_shard(cache / file, front_end) for name, file in files.items()}
    return {name: shard for name, shard in shards.items() if shard}


def _write_shards(cache, files, folder, listings, front_end):
    """Decode the recordings in `listings` into the cache; print what had to be converted."""
    from tqdm import tqdm

    for suffix in (".pcm", ".json"):
        delete_leftovers(cache / f"*{suffix}")
    total, changes = sum(map(len, listings.values())), Counter()
    with tqdm(total=total, desc=f"decoding {folder.name}", unit=" clips", disable=None) as progress:
        for name, listing in listings.items():
            recordings = [entry[0] for entry in listing]
            changes += _write_shard(cache / files[name], folder / name, recordings, front_end, progress)
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
    """A name that changes with the recordings and with how they are converted and cut."""
    fingerprint = hashlib.sha256(json.dumps([CACHE_VERSION, listing]).encode()).hexdigest()[:16]
    return f"{name}-{front_end.sample_rate}-{front_end.clip_samples}-{fingerprint}.pcm"


def _open_shard(path, front_end):
    """The shard in the cache, or None where it is not there or not complete."""
    try:
        index = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        names, bad = index["names"], index["bad"]
        shape = (len(names), front_end.clip_samples)
        if path.stat().st_size != 2 * shape[0] * shape[1]:  # of int16
            return None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return Shard(names, PcmFile(path, shape), bad)


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

    names, bad, changed = [], {}, Counter()
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
                file.write(samples.tobytes())
    write_text(path.with_suffix(".json"), json.dumps({"names": names, "bad": bad}))
    prefix = path.name.rsplit("-", 1)[0]
    for stale in path.parent.glob(f"{prefix}-*.*"):  # of recordings that have changed since
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


def load_noise(folder: Path, front_end: FrontEnd) -> list[np.ndarray]:
    """The background recordings of a data set, float32 [samples] each, none shorter than a clip."""
    noise, files = [], [name for name, _, _ in list_recordings(folder / NOISE_FOLDER)]
    for name in files:
        try:
            samples, _ = read_audio(folder / NOISE_FOLDER / name, front_end.sample_rate)
        except BadAudio as error:
            print(f"left out {folder / NOISE_FOLDER / name}: it {error}", file=sys.stderr)
            continue
        length = max(len(samples), front_end.clip_samples + 1)
        noise.append(np.resize(samples, length).astype(np.float32) / 32768)
    return noise
