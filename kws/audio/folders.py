"""Folders of recordings: the words, the files, and what is not used."""

import os
import re
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from kws.base.errors import UserError
from kws.base.flags import flags_in
from kws.base.settings import SILENCE_LABEL, UNKNOWN_LABEL
from kws.base.text import composed, folded, show

NOISE_FOLDER = "_background_noise_"
# recordings of any length without the words: kws.data.negatives
NEGATIVES_FOLDER = "_negatives_"
# in a data folder: flags that train.py takes unless others are typed
FLAGS_FILE = "train_flags.txt"
LABEL_FOLDERS = (SILENCE_LABEL, UNKNOWN_LABEL)
# libsndfile reads these
SNDFILE_SUFFIXES = (
    *(".wav", ".wave", ".bwf", ".rf64", ".w64", ".flac", ".ogg", ".oga", ".opus", ".mp3", ".mp2"),
    *(".aiff", ".aif", ".aifc", ".caf", ".au", ".snd", ".voc", ".sph", ".nist"),
)
# FFmpeg reads these too: what phones and browsers record
FFMPEG_SUFFIXES = (".m4a", ".m4b", ".mp4", ".mov", ".3gp", ".aac", ".amr", ".wma", ".webm", ".mka")
AUDIO_SUFFIXES = SNDFILE_SUFFIXES + FFMPEG_SUFFIXES
# samples that do not say their rate
RAW_SUFFIXES = (".raw", ".pcm")
# how files begin that nobody takes for recordings
NO_AUDIO = ("thumbs.db", "desktop.ini", "readme", "license")
# deleted files, snapshots and previews; others begin with one of these signs: #recycle, $RECYCLE.BIN, @eaDir
SYSTEM_FOLDERS = ("lost+found", "system volume information", "__macosx", "recycler", "network trash folder")
SYSTEM_SIGNS = ".#$@~"
UNREADABLE = "cannot be read"
# files of other programs' data sets, which have no folders of words
LAYOUTS = {"info.labels": "Edge Impulse", "validated.tsv": "Common Voice", "wav.scp": "Kaldi"}
LEVELS = 5  # of folders below a word's folder
NAMED = 5  # in a message
# names without case and punctuation -> what they may be meant for
MEANT = {
    "silence": SILENCE_LABEL,
    "unknown": UNKNOWN_LABEL,
    **dict.fromkeys(("noise", "noises", "background", "backgroundnoise", "backgroundnoises"), NOISE_FOLDER),
    "negatives": NEGATIVES_FOLDER,
}


def parse_flags(parser):
    """Return the parsed command line; flags that are not typed come from FLAGS_FILE in --data_dir, if any.

    So a folder that synthesize.py made says its words and how long its clips are.
    """
    args = parser.parse_args()
    file = Path(args.data_dir) / FLAGS_FILE
    if not file.is_file():
        return args
    # first, as it complains about a file that cannot be read
    args = parser.parse_args([f"@{file}", *sys.argv[1:]])
    # a recipe or the user may have typed others
    names = {word.split("=")[0] for word in flags_in(file)}
    hold = [f"--{name} {show(value)}" for name, value in vars(args).items() if f"--{name}" in names]
    print(f"flags of {file}, unless typed or in a recipe: {' '.join(hold)}", file=sys.stderr)
    return args


def entries(folder: Path) -> list[str]:
    """Return the names in `folder`, sorted; none if it is no folder."""
    return sorted(os.listdir(folder)) if folder.is_dir() else []


def is_system_folder(name: str) -> bool:
    """Return whether a folder of this name is hidden, or a system's own, such as a bin."""
    return name[0] in SYSTEM_SIGNS or name.lower() in SYSTEM_FOLDERS


def _why_left_out(path) -> str:
    """Return why nobody looks into a folder; or ''."""
    try:
        with os.scandir(path):
            can_be_read = os.access(path, os.X_OK)
    except OSError:
        can_be_read = False
    if not can_be_read:
        return UNREADABLE
    return "the system's" if is_system_folder(os.path.basename(path)) else ""


def subfolders(folder: Path) -> list[str]:
    """Return the names of the folders in `folder` that can be read and are not the system's, sorted."""
    return [
        name for name in entries(folder) if os.path.isdir(folder / name) and not _why_left_out(folder / name)
    ]


def populated_folders(folder: Path) -> list[str]:
    """Return the names of the `subfolders` that hold recordings, sorted.

    Their accents are composed (Unicode NFC), however they are on the disk; see `folder_of`. Raises UserError
    if two folders differ in that alone.
    """
    names = [composed(name) for name in subfolders(folder) if list_recordings(folder / name, first=True)]
    for name, count in Counter(names).items():
        if count > 1:
            raise UserError(
                f"{folder} has two folders named {name}, which differ only in how its accents are encoded "
                "(Unicode NFC and NFD): put the recordings into one of them"
            )
    return sorted(names)


def word_folders(folder: Path, wanted_words=()) -> list[str]:
    """Return the names of the folders in `folder` with recordings of words, sorted.

    A folder counts if there are recordings in it or below it, as in a speaker's folder (yes/anna/1.wav).
    These do not count, and `report_left_out` with `around_words` names them:
    - a folder that begins with '_', is hidden, belongs to the system, or cannot be read;
    - a folder around words: one below it is named like a wanted word or like a folder beside it (backup/yes).
      A wanted word counts even so, but without a folder below it that is named like another wanted word.
    """
    names = populated_folders(folder)
    words = {*names, *wanted_words}
    return [
        name
        for name in names
        if name[0] != "_" and (name in wanted_words or not _words_below(folder, name, words))
    ]


def _words_below(folder, name, words) -> list[str]:
    """Return the folders with recordings below folder/name that are named like others of `words`, sorted."""
    spelled = {_spelling(word) for word in words if word != name}
    files = _files(folder_of(folder, name))
    return sorted({_word_in(file, spelled) for file, entry in files if _is_recording(entry)} - {""})


def _word_in(path, spelled):
    """Return the first folder in a path that is spelled like a word; or ''."""
    return next((part for part in path.split("/")[:-1] if _spelling(part) in spelled), "")


def folder_of(folder: Path, name: str) -> Path:
    """Return the folder in `folder` whose name is `name` but for Unicode normalization."""
    if (folder / name).is_dir():
        return folder / name
    return next((folder / entry for entry in entries(folder) if composed(entry) == name), folder / name)


def list_recordings(folder: Path, first=False, without=()) -> list[tuple[str, int, int]]:
    """Return (name, bytes, time of change in ns) of the recordings in a folder, sorted; any one if `first`.

    Names include folders below this one: `anna/1.wav`. Folders named like the words `without` are left out.
    """
    found, spelled = [], {_spelling(word) for word in without}
    for name, entry in _files(folder):
        if _is_recording(entry) and not _word_in(name, spelled):
            status = entry.stat()
            found.append((name, status.st_size, status.st_mtime_ns))
            if first:
                break
    return sorted(found)


def _is_recording(entry):
    return entry.name.lower().endswith(AUDIO_SUFFIXES) and _holds(entry.is_file)


def _holds(test):
    """Return `test()` of an entry of a folder; False if the system cannot say, as of a link to itself."""
    try:
        return test()
    except OSError:
        return False


def _files(folder) -> Iterator[tuple[str, os.DirEntry]]:
    """Yield (name, entry) of the files in a folder and below it; each folder once, as links may go round.

    Folders that are not looked into are yielded as well; their names end in '/'.
    """
    folder = Path(os.path.abspath(folder))
    if not folder.is_dir():
        return iter(())
    around = {*folder.parents, *folder.resolve().parents}
    return _files_below(folder, "", LEVELS, {_identity(place) for place in around})


def _files_below(folder, prefix, levels, seen):
    identity = _identity(folder)
    if identity in seen:
        return
    seen.add(identity)
    below = []
    with os.scandir(folder) as scanned:
        for entry in scanned:
            if entry.name[0] == ".":
                continue
            if _holds(entry.is_dir):
                below.append(entry)
            else:
                yield prefix + entry.name, entry
    # links last, so that a folder has its own name where a link leads to it as well
    for entry in sorted(below, key=lambda entry: (entry.is_symlink(), entry.name)):
        if levels and not _why_left_out(entry.path):
            yield from _files_below(entry.path, f"{prefix}{entry.name}/", levels - 1, seen)
        else:
            yield f"{prefix}{entry.name}/", entry


def _identity(path):
    status = os.stat(path)
    return status.st_dev, status.st_ino


# ---- what its owner may not expect ----


def report_unused(folder: Path, used):
    """Print, in one line, what in a data folder is not used.

    In the folders `used` that is everything but recordings; in other ones audio that cannot be read.
    """
    others = [name for name in subfolders(folder) if composed(name) not in used]
    unused = unused_files(folder, used, others)
    if unused:
        print(f"not used in {folder}: {unused}", file=sys.stderr)


def report_left_out(folder: Path, more=()):
    """Print, in one line, the folders that are left out, with those in `more`, and why."""
    found = [*more, *left_out(folder)]
    if found:
        others = f", and {len(found) - NAMED:,} others" if len(found) > NAMED else ""
        print(f"left out in {folder}: {', '.join(found[:NAMED])}{others}", file=sys.stderr)


def around_words(folder: Path, wanted_words) -> list[str]:
    """Return the folders that are left out for a folder below them named like a word, and why."""
    names, found = populated_folders(folder), []
    words = word_folders(folder, wanted_words)
    for name in names:
        if name in (*wanted_words, *LABEL_FOLDERS):
            below = _words_below(folder, name, wanted_words)
            found += [f"{name}/{word} (named like another word)" for word in below]
        elif name[0] != "_" and name not in words:
            below = _words_below(folder, name, [*names, *wanted_words])
            found.append(f"{name} (around words: {', '.join(below[:NAMED])})")
    return found


def left_out(folder: Path) -> list[str]:
    """Return the folders below `folder` that are the system's and hold recordings, or cannot be read."""
    found = [(name[:-1], entry.path) for name, entry in _files(folder) if name.endswith("/")]
    reasons = [(name, path, _why_left_out(path)) for name, path in found]
    return [
        f"{name} ({why})"
        for name, path, why in reasons
        if why and (why == UNREADABLE or list_recordings(Path(path), first=True))
    ]


def unused_files(folder: Path, names, others=()) -> str:
    """Return the counts and kinds of files other than recordings in the folders `names` of `folder`; or ''.

    In the folders `others`, audio alone is counted.
    """
    found = [
        (name, file, entry)
        for name in (*names, *others)
        for file, entry in _files(folder_of(folder, name))
        if not _is_recording(entry) and not entry.name.lower().startswith(NO_AUDIO)
        if not (file.endswith("/") and _why_left_out(entry.path))
    ]
    unused = [item for item in found if item[0] in names or item[1].lower().endswith(RAW_SUFFIXES)]
    if not unused:
        return ""
    kinds = Counter(_kind(file, entry) for _, file, entry in unused)
    counts = ", ".join(f"{count:,} {kind}" for kind, count in kinds.most_common(NAMED))
    more = ", and others" if len(kinds) > NAMED else ""
    name, file = min(item[:2] for item in unused)
    read = "WAV, FLAC, OGG, Opus, MP3, M4A, WebM, AIFF, CAF, AU and W64 files are read"
    return f"{counts}{more}, such as {name}/{file} ({read})"


def _kind(file, entry):
    if file.endswith("/"):
        return f"folders more than {LEVELS} levels deep"
    if entry.name.lower().endswith(AUDIO_SUFFIXES):
        return "links to nothing, or devices"
    return os.path.splitext(entry.name)[1].lower() or "without a suffix"


def report_misnamed(folder: Path, wanted_words):
    """Print a line for each folder whose name is almost one with a meaning, or keeps it from being used."""
    known = {NOISE_FOLDER, NEGATIVES_FOLDER, *LABEL_FOLDERS, *wanted_words}
    spelled_alike = {_spelling(word): word for word in wanted_words}
    for name in populated_folders(folder):
        meant = likely_meaning(name) or spelled_alike.get(_spelling(name))
        if name not in known and (meant or name[0] == "_"):
            what = "is not used" if name[0] == "_" else "is taken for a word of that name"
            rename = f"; rename it to {meant} if it is meant as that" if meant else ", as '_' leads its name"
            print(f"{folder / name} {what}{rename}", file=sys.stderr)


def _spelling(name):
    """Return what `hey robot`, `Hey-Robot` and `hey_robot` have in common."""
    return re.sub(r"[\s_-]+", "_", folded(name))


def likely_meaning(name: str) -> str | None:
    """Return the folder with a meaning, such as `_silence_`, whose name is almost `name`."""
    return MEANT.get("".join(filter(str.isalnum, name.lower())))


def hint(folder: Path, wanted_words=()) -> str:
    """Return the place that may hold the words (any, if none are given), to end an error message; or ''.

    For a data set of another program, return where to read how it becomes folders of words.
    """
    if composed(folder.resolve().name) in wanted_words:
        return _meant(folder.resolve().parent)
    around = [folder, folder.resolve().parent, *(folder / name for name in subfolders(folder))]
    for file, program in LAYOUTS.items():
        if any((place / file).is_file() for place in around):
            return f" (a data set of {program}: docs/recordings.md has the command that makes folders of it)"
    places = [folder]
    for _ in range(3):
        places = [place / name for place in places for name in subfolders(place)]
        found = {place: word_folders(place, wanted_words) for place in places}
        found = {place: words for place, words in found.items() if set(wanted_words or words) & set(words)}
        if found:
            # a test set beside it has the same words, but fewer recordings
            return _meant(max(found, key=lambda place: _merit(place, found[place], wanted_words)))
    return ""


def _merit(place, words, wanted_words):
    """Return the number of wanted words, and the number of recordings, in a place."""
    recordings = (list_recordings(folder_of(place, word)) for word in words)
    return len({*wanted_words} & {*words}), sum(map(len, recordings))


def _meant(folder):
    return f" (did you mean --data_dir {folder}?)"
