"""From an archive of recordings to batches of (MFCC features, label), in the order that the data takes.

    1. recordings    an archive, extracted to one folder for each word      kws/data/download.py
    2. audio         decoded once: int16 [recordings, clip_samples]         kws/audio/
    3. partitions    training, validation, testing, by speaker              kws/data/clips.py
    4. labels        silence, unknown, or a wanted word                     here
    5. negatives     long recordings without the words                      kws/data/negatives.py
    6. variation     shifts, speed, noise, rooms: float32, -1 to 1          kws/data/augmentation.py
    7. features      MFCC: float32 [clips, feature_count]                   kws/base/features.py
    8. batches       shuffled in each epoch: [batch_size, feature_count]    kws/data/batches.py

`open_data` takes steps 1 to 5, `training_batches` 6 to 8, and `features` 7 alone, for validation and testing.
Nothing here needs TensorFlow. As a script this prepares the data set and counts it.
"""

import hashlib
import sys
from pathlib import Path, PurePosixPath

import numpy as np

from kws.audio import folders
from kws.audio.folders import LABEL_FOLDERS, NEGATIVES_FOLDER, NOISE_FOLDER, populated_folders
from kws.audio.shards import decode_folders, load_noise
from kws.base.errors import UserError, run
from kws.base.flags import StoreTuple, bounded, flag_adder, new_parser, options_from, word_list
from kws.base.settings import (
    SILENCE_INDEX,
    SILENCE_LABEL,
    UNKNOWN_INDEX,
    UNKNOWN_LABEL,
    Settings,
    SettingsFlags,
    add_setting,
)
from kws.data import augmentation
from kws.data.batches import training_batches as training_batches
from kws.data.clips import (
    PARTITIONS,
    Clips,
    path_bytes,
    real_to_repeat,
    report_copies,
    report_unknown_speakers,
    which_partition,
)
from kws.data.clips import features as features
from kws.data.dataset import Data, DataOptions, percent_of
from kws.data.download import TEST_SET_URL, fetch_archive, is_populated, prepare_recordings
from kws.data.negatives import open_long_recordings


def open_data(options: DataOptions, settings: Settings) -> Data:
    """Open the data set that `options` describe; download and decode what is not there yet.

    Each partition holds every clip of the wanted words and of the folder _silence_, and in per cent of the
    wanted words' clips, clips of other words and clips of zeros as silence. A hash of the path chooses the
    clips of other words (and of the folder _unknown_), so every script validates and tests on the same ones.
    Training draws them afresh in each epoch. Raises UserError if a wanted word has no clips or there are no
    recordings.
    """
    # 1. Recordings: download them if there are none, and choose the folders to use.
    folder = prepare_recordings(options.data_dir, options.data_url, settings.wanted_words)
    used = _used_folders(folder, options, settings)

    # 2. Audio: one shard for each folder, int16 [recordings, clip_samples].
    shards = decode_folders(folder, used, settings.front_end, settings.wanted_words)
    unusable = [word for word in settings.wanted_words if not shards[word].names]
    if unusable:
        raise UserError(f"no usable recordings of {', '.join(unusable)} in {folder}")
    noise = load_noise(folder, settings.front_end)

    # 3. Partitions: all recordings of a speaker go together.
    report_unknown_speakers(folder, [name for word in used for name in shards[word].names])
    members = _partitions(folder, shards, used, settings)

    # 4. Labels: training keeps all unknown words, of which each epoch draws some.
    training = _label_clips(members["training"], shards, options, settings, all_unknown=True)
    validation = _label_clips(members["validation"], shards, options, settings)
    testing = _label_clips(members["testing"], shards, options, settings)
    repeated = real_to_repeat(training, options.real_percentage)
    wanted = int(np.sum(training.label > UNKNOWN_INDEX)) + len(repeated)
    unknown = int(np.sum(training.label == UNKNOWN_INDEX))  # an epoch draws no clip twice

    # 5. Negatives: the folder in the data set, and the folders of --negatives_dir.
    of_data = [str(folder / NEGATIVES_FOLDER)] if NEGATIVES_FOLDER in populated_folders(folder) else []
    negatives = open_long_recordings((*of_data, *options.negatives_dir), settings.front_end)
    if options.hard_negatives_percentage and not negatives.windows:
        raise UserError("--hard_negatives_percentage needs recordings to find them in: --negatives_dir")
    return Data(
        training=training,
        unknown_per_epoch=min(percent_of(wanted, options.unknown_in_training), unknown),
        validation=validation,
        testing=testing,
        noise=noise,
        negatives=negatives,
        negatives_per_epoch=percent_of(wanted, options.negatives_percentage) if negatives.windows else 0,
        hard_negatives_per_epoch=percent_of(wanted, options.hard_negatives_percentage),
        repeated=repeated,
        cut_ms=tuple(length for word in settings.wanted_words for length in shards[word].longer_ms.values()),
    )


def _used_folders(folder, options, settings):
    """Return the names of the folders to take clips from; UserError if a wanted word is not among them."""
    words = folders.word_folders(folder, settings.wanted_words)
    # a misspelt word would train on nothing: name what there is, and what it may be
    absent = [word for word in settings.wanted_words if word not in words]
    if absent:
        known = ", ".join(folders.word_folders(folder))
        there = f"no recordings of {', '.join(absent)} in {folder}; there are: {known}"
        unused = [folders.unused_files(folder, absent), *folders.left_out(folder)]
        unused = ", ".join(filter(None, unused))
        unused = f"; not used: {unused}" if unused else ""
        raise UserError(f"{there}{folders.hint(folder, settings.wanted_words)}{unused}")
    folders.report_left_out(folder, folders.around_words(folder, settings.wanted_words))
    folders.report_misnamed(folder, settings.wanted_words)
    labels = [name for name in populated_folders(folder) if name in LABEL_FOLDERS]
    # nothing is decoded that no partition takes
    if not (options.unknown_percentage or options.unknown_in_training):
        words, labels = list(settings.wanted_words), [name for name in labels if name != UNKNOWN_LABEL]
    folders.report_unused(folder, [*words, *labels, NOISE_FOLDER, NEGATIVES_FOLDER])
    return words + labels


def _partitions(folder, shards, used, settings):
    """Return the rows of each word's shard that are in a partition: {partition: {word: [row, ...]}}."""
    members = {partition: {} for partition in PARTITIONS}
    recordings = [
        (word, name, digest, row)
        for word in used
        for row, (name, digest) in enumerate(zip(shards[word].names, shards[word].digests, strict=True))
    ]
    silent = {(word, name) for word in used for name in shards[word].silent}
    first_copies = report_copies(folder, [one[:3] for one in recordings if one[:2] not in silent])
    # the name holds the speaker, so a partition is the same on every machine and after additions
    for word, name, digest, row in recordings:
        name = first_copies.get(digest, name)
        partition = which_partition(name, settings.validation_percentage, settings.testing_percentage)
        members[partition].setdefault(word, []).append(row)
    return members


def _label_clips(rows_by_word, shards, options, settings, all_unknown=False):
    """Return the Clips of one partition: wanted words, other words, recorded and generated silence."""

    def clips_of(words):
        return [(word, row) for word in words for row in rows_by_word.get(word, [])]

    def drawing_order(clip):
        word, row = clip
        return hashlib.sha1(path_bytes(f"{word}/{shards[word].names[row]}")).digest()

    # percentages count in clips of wanted words, as in the paper's code
    wanted = clips_of(settings.wanted_words)
    others = rows_by_word.keys() - {*settings.wanted_words, SILENCE_LABEL}
    # the first of these by hash, so that more clips of a word change few of those drawn
    unknown = sorted(clips_of(others), key=drawing_order)
    if not all_unknown:
        unknown = unknown[: percent_of(len(wanted), options.unknown_percentage)]
    # words without a label of their own are unknown
    labels = {word: index for index, word in enumerate(settings.labels)}
    chosen = wanted + unknown + clips_of([SILENCE_LABEL])
    table = [(word, row, labels.get(word, UNKNOWN_INDEX)) for word, row in chosen]
    return _clips(table, shards, percent_of(len(wanted), options.silence_percentage), settings)


def _clips(table, shards, silent, settings):
    """Return Clips of (folder, row, label) entries, followed by `silent` clips of zeros."""
    # generated silence is one more array after the shards', with a single row
    order = list(shards)
    position = {name: index for index, name in enumerate(order)}
    zeros = np.zeros((1, settings.clip_samples), np.int16)
    rows = [(position[name], row, label) for name, row, label in table]
    rows += [(len(order), 0, SILENCE_INDEX)] * silent
    source, row, label = np.array(rows, np.int32).reshape(-1, 3).T  # [clips] each; 3 columns if empty too
    names = tuple(f"{name}/{shards[name].names[row]}" for name, row, _ in table) + ("",) * silent
    return Clips((*(shards[name].pcm for name in order), zeros), source, row, label, names)


# ---- test sets of one folder for each label ----


def open_test_dir(test_dir, settings: Settings) -> Clips:
    """Open a folder laid out like the canonical test set: one folder of clips for each label, named like it.

    A folder that is named like the canonical test set is downloaded if it is missing or empty. Raises
    UserError if a folder in it is named like no label of the model.
    """
    folder = Path(test_dir)
    name = PurePosixPath(TEST_SET_URL).name.removesuffix(".tar.gz")
    if not folder.is_dir() and folder.name != name:
        raise UserError(f"--test_dir {folder} is not a folder (one named {name} would be downloaded)")
    if folder.name == name and not is_populated(folder, TEST_SET_URL):
        fetch_archive(TEST_SET_URL, folder)
    present = populated_folders(folder)
    # a clip without a label of the model could only count as a mistake
    foreign = [name for name in present if name not in settings.labels]
    if foreign:
        meant, labels = folders.likely_meaning(foreign[0]), ", ".join(settings.labels)
        guess = f" (did you mean {meant}?)" if meant in settings.labels else ""
        where = f"{folder / foreign[0]} is named like no label of the model"
        raise UserError(f"{where}; its labels are {labels}{guess}")
    if not present:
        raise UserError(f"{folder} has no recordings: expected {folder}/<label>/<clip>.wav")
    absent = [label for label in settings.labels if label not in present]
    if absent:
        print(f"{folder} has no recordings of {', '.join(absent)}", file=sys.stderr)
    folders.report_left_out(folder)
    folders.report_unused(folder, present)
    shards = decode_folders(folder, present, settings.front_end)
    rows = [(name, row) for name in present for row in range(len(shards[name].names))]
    table = [(name, row, settings.labels.index(name)) for name, row in rows]
    return _clips(table, shards, 0, settings)


# ---- flags ----


def add_arguments(parser):
    """Add the flags that say which recordings are used and how they become features."""
    group = parser.add_argument_group("data")
    add = flag_adder(group, DataOptions)
    percent, any_percent = bounded(float, 0, 100), bounded(float, 0)
    words = "words to tell apart, comma-separated; the others are _unknown_"
    add("data_url", "archive to download if --data_dir has no recordings; '' for none", metavar="URL")
    add("data_dir", "folder with one folder of recordings for each word", metavar="DIR")
    add_setting(group, "wanted_words", words, type=word_list, metavar="WORDS")
    of_wanted = "in %% of the wanted words' clips"
    add("silence_percentage", f"clips of zeros as silence, {of_wanted}", type=any_percent, metavar="P")
    add("unknown_percentage", f"clips of unknown words, {of_wanted}", type=any_percent, metavar="P")
    for partition in ("validation", "testing"):
        speakers = f"share of speakers for {partition}, in %%"
        add_setting(group, f"{partition}_percentage", speakers, type=percent, metavar="P")

    group = parser.add_argument_group("features (MFCC)")
    add_setting(group, "sample_rate", "of the recordings, in Hz", type=int, metavar="HZ")
    add_setting(group, "clip_duration_ms", "audio the model sees at once", type=int, metavar="MS")
    add_setting(group, "window_size_ms", "length of a frame", type=float, metavar="MS")
    add_setting(group, "window_stride_ms", "time from frame to frame", type=float, metavar="MS")
    coefficients = "MFCCs per frame; 0 for the 40 log-mel energies"
    add_setting(group, "dct_coefficient_count", coefficients, type=int, metavar="N")


def add_training_arguments(parser):
    """Add the flags that concern the training clips alone."""
    add = flag_adder(augmentation.add_arguments(parser), DataOptions)
    percent = {"type": bounded(float, 0), "metavar": "P"}
    of_wanted = "in an epoch of training, in %% of the wanted words' clips"
    unknown = f"clips of unknown words {of_wanted}; --unknown_percentage if not given"
    add("training_unknown_percentage", unknown, **percent)
    real = "repeat real recordings until they are at least P %% of a word's clips, beside synthetic ones"
    add("real_percentage", real, type=bounded(float, 0, 95), metavar="P")

    add = flag_adder(parser.add_argument_group("negatives (what an open microphone hears)"), DataOptions)
    long = f"folders of recordings without the words, of any length, beside {NEGATIVES_FOLDER} in --data_dir"
    add("negatives_dir", long, nargs="*", action=StoreTuple, metavar="DIR")
    add("negatives_percentage", f"windows of --negatives_dir {of_wanted}", **percent)
    hard = f"more windows {of_wanted}: those that the model to start from takes for words"
    add("hard_negatives_percentage", hard, **percent)


# ---- the data set, counted ----


def main():
    parser = new_parser("Prepare the recordings (download, extract, decode), and count them by label.")
    add_arguments(parser)
    parser.add_argument("--test_dir", metavar="DIR", help="count this folder too, one folder per label")
    # as train.py, with the flags that synthesize.py left in the folder
    args = folders.parse_flags(parser)
    settings = SettingsFlags.from_arguments(args).resolve()
    data = open_data(options_from(DataOptions, args), settings)
    sets = {partition: getattr(data, partition) for partition in PARTITIONS}
    if args.test_dir:
        sets[Path(args.test_dir).name] = open_test_dir(args.test_dir, settings)
    # [partitions, labels]
    counts = np.array([np.bincount(clips.label, minlength=len(settings.labels)) for clips in sets.values()])
    # a row for each label, a column for each set
    print(f"{'clips':12}" + "".join(f"{name:>{len(name) + 2}}" for name in sets))
    for label, row in [*zip(settings.labels, counts.T, strict=True), ("all", counts.sum(1))]:
        cells = (f"{count:>{len(name) + 2},}" for name, count in zip(sets, row, strict=True))
        print(f"{label:12}" + "".join(cells))


if __name__ == "__main__":
    run(main)
