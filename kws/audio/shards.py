"""The decoded recordings of a data set, kept on disk: one shard for each folder."""

import contextlib
import hashlib
import json
import math
import os
import re
import sys
import tempfile
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from kws.audio.folders import NOISE_FOLDER, UNREADABLE, folder_of, list_recordings
from kws.audio.recordings import SILENT_RANGE, BadAudio, one_clip, read_audio
from kws.base.errors import UserError
from kws.base.features import FrontEnd
from kws.base.files import appears_complete, delete_leftovers, lock, write_text
from kws.base.settings import SILENCE_LABEL

CACHE_FOLDER = ".pcm_cache"
# changes when recordings are converted in another way; part of the cache's file names
CACHE_VERSION = 6
# share of a data set; with more, something is wrong with the set and not with single files
BAD_FILES_TOLERATED = 0.1


class PcmFile:
    """Rows of int16 samples in a file, [rows, clip_samples], read when they are asked for.

    Several threads may read at once. Unlike the pages of a memory-mapped file, what has been read does not
    add to the process' memory.
    """

    def __init__(self, path, shape: tuple[int, int]):
        self.shape = shape
        self._file = open(path, "rb", buffering=0)  # noqa: SIM115  (as long as this object lives)
        self._lock = threading.Lock()

    def __getitem__(self, row: int) -> np.ndarray:
        return self.read(row, np.empty(self.shape[1], np.int16))

    def read(self, row: int, out: np.ndarray) -> np.ndarray:
        """Read a row into `out`, int16 [clip_samples], and return it."""
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
    silent: list[str]  # files without a sound
    digests: list[str]  # of the samples of each row
    longer_ms: dict[str, int]  # files cut to a clip -> how long they are


def decode_folders(folder: Path, names: list[str], front_end: FrontEnd, words=()) -> dict[str, Shard]:
    """Return the recordings of the folders `names`, cut or zero-padded to the clip length, by folder.

    Each folder is decoded once, into a file in `writable_cache`, and again when it changes. Folders below it
    that are named like another of `words` are left out. Unusable files are named on standard error. Raises
    UserError if they are too many to be an accident.
    """
    places = {name: folder_of(folder, name) for name in names}
    listings = {
        name: list_recordings(place, without=[word for word in words if word != name])
        for name, place in places.items()
    }
    files = {name: _cache_name(name, listings[name], front_end) for name in names}
    shards = _open_shards(folder / CACHE_FOLDER, files, places, front_end)
    if len(shards) < len(names):
        cache = writable_cache(folder)
        shards |= _open_shards(cache, files, places, front_end)
    if len(shards) < len(names):
        with lock(cache / "lock", f"waiting for another run that decodes {folder}"):
            # that run may have made them
            shards |= _open_shards(cache, files, places, front_end)
            missing = {name: listings[name] for name in names if name not in shards}
            _write_shards(cache, files, folder, places, missing, front_end)
        shards |= _open_shards(cache, files, places, front_end)
    shards = {name: shards[name] for name in names}
    _report_bad_files(folder, shards)
    _report_silent_files(folder, shards)
    return shards


def _open_shards(cache, files, places, front_end) -> dict[str, Shard]:
    """Return the complete shards in `cache` by folder, of the files {folder: file}."""
    shards = {name: _open_shard(cache / file, places[name], front_end) for name, file in files.items()}
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
    """Return where decoded recordings of `folder` can be written, a folder that exists.

    It is in `folder`, or else in the user's cache, or in the temporary folder for a user without a home.
    Raises UserError if nothing can be written there either.
    """
    name = hashlib.sha256(os.fsencode(folder.resolve())).hexdigest()[:16]
    places = (lambda: folder / CACHE_FOLDER, lambda: _user_cache() / name, lambda: _temporary_cache() / name)
    for place in places:
        # RuntimeError: the user has no home
        with contextlib.suppress(RuntimeError, OSError):
            cache = place()
            cache.mkdir(parents=True, exist_ok=True)
            if os.access(cache, os.W_OK):
                return cache
    raise UserError(
        f"no place for the decoded recordings of {folder}: "
        "set XDG_CACHE_HOME to a folder that can be written to"
    )


def _user_cache():
    import pooch

    return pooch.os_cache("keyword_spotting").expanduser()


def _temporary_cache():
    user = os.getuid() if hasattr(os, "getuid") else ""
    return Path(tempfile.gettempdir(), f"keyword_spotting-{user}")


def _cache_name(name, listing, front_end):
    """Return a name that changes with the recordings and with how they are converted and cut.

    No other folder's has the same part before the first '-', whatever they are called.
    """
    if not re.fullmatch("[A-Za-z0-9_]{1,60}", name):
        digest = hashlib.sha256(os.fsencode(name)).hexdigest()[:16]
        name = f"{re.sub('[^A-Za-z0-9]+', '_', name)[:40]}~{digest}"
    fingerprint = hashlib.sha256(json.dumps([CACHE_VERSION, listing]).encode()).hexdigest()[:16]
    return f"{name}-{front_end.sample_rate}-{front_end.clip_samples}-{fingerprint}.pcm"


def _open_shard(path, folder, front_end):
    """Return the shard in the cache, or None if it is not there, not complete or of an older version."""
    try:
        index = json.loads(path.with_suffix(".json").read_text(encoding="utf-8"))
        keys = "names", "bad", "silent", "digests", "longer_ms"
        names, bad, silent, digests, longer = (index[key] for key in keys)
        shape = (len(names), front_end.clip_samples)
        # int16 has two bytes
        if path.stat().st_size != 2 * shape[0] * shape[1]:
            return None
    except (OSError, ValueError, KeyError, TypeError):
        return None
    # a permission changes neither size nor time of a file
    if any(why.startswith(UNREADABLE) and os.access(folder / name, os.R_OK) for name, why in bad.items()):
        return None
    return Shard(names, PcmFile(path, shape), bad, silent, digests, longer)


def _write_shard(path, folder, files, front_end, progress) -> Counter:
    """Decode `files` into `path` and return counts of changes. The index, written last, makes it valid."""
    length = front_end.clip_samples

    def decode(name):
        try:
            samples, changes = read_audio(folder / name, front_end.sample_rate)
        except BadAudio as error:
            return str(error)
        milliseconds = math.ceil(1000 * len(samples) / front_end.sample_rate) if len(samples) > length else 0
        if milliseconds:
            changes += (f"cut to their loudest {1000 * length / front_end.sample_rate:.0f} ms",)
        return one_clip(samples, length), changes, milliseconds

    names, bad, silent, digests, longer, changed = [], {}, [], [], {}, Counter()
    with (
        appears_complete(path) as partial,
        open(partial, "wb") as file,
        # two threads a core, as some wait for the disk
        ThreadPoolExecutor(2 * os.cpu_count()) as pool,
    ):
        for name, decoded in zip(files, pool.map(decode, files), strict=True):
            progress.update()
            if isinstance(decoded, str):
                bad[name] = decoded
            else:
                samples, changes, milliseconds = decoded
                changed.update(changes)
                names.append(name)
                if np.ptp(samples.astype(np.int32)) <= SILENT_RANGE:
                    silent.append(name)
                digests.append(hashlib.sha256(samples).hexdigest()[:16])
                if milliseconds:
                    longer[name] = milliseconds
                file.write(samples.tobytes())
    index = {"names": names, "bad": bad, "silent": silent, "digests": digests, "longer_ms": longer}
    write_text(path.with_suffix(".json"), json.dumps(index))
    prefix = path.name.rsplit("-", 1)[0]
    # delete shards of what the recordings were before
    for stale in path.parent.iterdir():
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
    """Return the background recordings of a data set, float32 [samples], each longer than a clip."""
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
