"""From an archive of recordings to batches of (MFCC features, label), in the order that the data takes.

download -> folders of recordings -> decoded PCM -> labelled clips by partition -> variation and noise -> MFCC
-> batches. What each step does in detail is in kws/: download, recordings, augmentation, features, batches.
Nothing here needs TensorFlow. As a script this prepares the data set and counts it.
"""

import hashlib
import sys
from pathlib import Path, PurePosixPath

import numpy as np

from kws.audio.folders import (
    LABEL_FOLDERS,
    NEGATIVES_FOLDER,
    NOISE_FOLDER,
    hint,
    likely_meaning,
    parse_flags,
    populated_folders,
    report_misnamed,
    report_unused,
    unused_files,
    word_folders,
)
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
    report_unknown_speakers,
    which_partition,
)
from kws.data.clips import features as features
from kws.data.dataset import Data, DataOptions, percent_of
from kws.data.download import TEST_SET_URL, fetch_archive, is_populated, prepare_recordings
from kws.data.negatives import open_long_recordings


def add_arguments(parser):
    """Add the flags that say which recordings are used and how they become features."""
    group = parser.add_argument_group("data")
    add = flag_adder(group, DataOptions)
    percent, any_percent = bounded(float, 0, 100), bounded(float, 0)
    words = "words to tell apart, comma-separated; the others are _unknown_"
    add("data_url", "archive to download where --data_dir has no recordings; '' for none", metavar="URL")
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
    add_setting(group, "dct_coefficient_count", "MFCCs per frame", type=int, metavar="N")


def add_training_arguments(parser):
    """Add the flags that concern the training clips alone."""
    add = flag_adder(augmentation.add_arguments(parser), DataOptions)
    percent = bounded(float, 0)
    add(
        "training_unknown_percentage",
        "clips of unknown words in an epoch of training, in %% of the wanted words' clips; "
        "--unknown_percentage if not given",
        type=percent,
        metavar="P",
    )
    add(
        "real_percentage",
        "at least so many %% of a word's clips are real, repeated ones, where others are of synthesize.py",
        type=bounded(float, 0, 95),
        metavar="P",
    )
    add = flag_adder(parser.add_argument_group("negatives (what an open microphone hears)"), DataOptions)
    add(
        "negatives_dir",
        "folders of recordings of any length without the wanted words: speech, music, noise, false "
        "detections. Windows of them, as many of each folder, are _unknown_ or _silence_. A folder "
        f"{NEGATIVES_FOLDER} in --data_dir is one more",
        nargs="*",
        action=StoreTuple,
        metavar="DIR",
    )
    of_wanted = "in an epoch, in %% of the wanted words' clips"
    add("negatives_percentage", f"windows of --negatives_dir {of_wanted}", type=percent, metavar="P")
    add(
        "hard_negatives_percentage",
        f"and those that the model takes for words, the more often the higher its score, {of_wanted}",
        type=percent,
        metavar="P",
    )
    add(
        "hard_negatives_interval",
        "they are searched for before the first step, by the model to start from, and again after every N "
        "steps, by the model of then; if not given, only before",
        type=bounded(int, 1),
        metavar="N",
    )
    add(
        "cut_words_percentage",
        f"windows that hold the end of one word and the beginning of another, likewise, {of_wanted}",
        type=percent,
        metavar="P",
    )


# ---- the index: labels and partitions ----


def open_data(options: DataOptions, settings: Settings) -> Data:
    """The data set that `options` describe, downloaded and decoded where it is not yet.

    In each partition: every clip of the wanted words, and in per cent of their number, clips of other words
    and silence (zeros); also every clip of the folder _silence_. The clips of other words (and of the folder
    _unknown_) are chosen by a hash of their path, so every script
    validates and tests on the same; training draws them afresh in each epoch. Raises UserError where a wanted
    word has no clips or there are no recordings.
    """
    folder = prepare_recordings(options.data_dir, options.data_url, settings.wanted_words)
    used = _used_folders(folder, options, settings)
    shards = decode_folders(folder, used, settings.front_end)
    unusable = [word for word in settings.wanted_words if not shards[word].names]
    if unusable:
        raise UserError(f"no usable recordings of {', '.join(unusable)} in {folder}")
    members = {partition: {} for partition in PARTITIONS}
    for word in used:
        for row, name in enumerate(shards[word].names):
            partition = which_partition(name, settings.validation_percentage, settings.testing_percentage)
            members[partition].setdefault(word, []).append(row)
    report_unknown_speakers(folder, [name for word in used for name in shards[word].names])
    training = _label_clips(members["training"], shards, options, settings, all_unknown=True)
    repeated = real_to_repeat(training, options.real_percentage)
    wanted = int(np.sum(training.label > UNKNOWN_INDEX)) + len(repeated)
    drawn = percent_of(wanted, options.unknown_in_training)
    of_data = [str(folder / NEGATIVES_FOLDER)] if NEGATIVES_FOLDER in populated_folders(folder) else []
    negatives = open_long_recordings((*of_data, *options.negatives_dir), settings.front_end)
    if options.hard_negatives_percentage and not negatives.windows:
        raise UserError("--hard_negatives_percentage needs recordings to find them in: --negatives_dir")
    return Data(
        training=training,
        unknown_per_epoch=min(drawn, int(np.sum(training.label == UNKNOWN_INDEX))),
        validation=_label_clips(members["validation"], shards, options, settings),
        testing=_label_clips(members["testing"], shards, options, settings),
        noise=load_noise(folder, settings.front_end),
        negatives=negatives,
        negatives_per_epoch=percent_of(wanted, options.negatives_percentage) if negatives.windows else 0,
        cut_words_per_epoch=percent_of(wanted, options.cut_words_percentage),
        hard_negatives_per_epoch=percent_of(wanted, options.hard_negatives_percentage),
        repeated=repeated,
    )


def _used_folders(folder, options, settings):
    """Names of the folders that clips are taken from; UserError where a wanted word is not among them."""
    words = word_folders(folder)
    absent = [word for word in settings.wanted_words if word not in words]
    if absent:
        there = f"no recordings of {', '.join(absent)} in {folder}; there are: {', '.join(words)}"
        unused = unused_files(folder, absent)
        unused = f"; not used: {unused}" if unused else ""
        raise UserError(f"{there}{hint(folder, settings.wanted_words)}{unused}")
    report_misnamed(folder, settings.wanted_words)
    labels = [name for name in populated_folders(folder) if name in LABEL_FOLDERS]
    if not (options.unknown_percentage or options.unknown_in_training):
        words, labels = list(settings.wanted_words), [name for name in labels if name != UNKNOWN_LABEL]
    report_unused(folder, [*words, *labels, NOISE_FOLDER, NEGATIVES_FOLDER])
    return words + labels


def _label_clips(rows_by_word, shards, options, settings, all_unknown=False):
    """The Clips of one partition from its rows of each word's shard."""

    def clips_of(words):
        return [(word, row) for word in words for row in rows_by_word.get(word, [])]

    def drawing_order(clip):
        word, row = clip
        return hashlib.sha1(path_bytes(f"{word}/{shards[word].names[row]}")).digest()

    wanted = clips_of(settings.wanted_words)
    others = rows_by_word.keys() - {*settings.wanted_words, SILENCE_LABEL}
    unknown = sorted(clips_of(others), key=drawing_order)
    if not all_unknown:
        unknown = unknown[: percent_of(len(wanted), options.unknown_percentage)]
    labels = {word: index for index, word in enumerate(settings.labels)}
    chosen = wanted + unknown + clips_of([SILENCE_LABEL])
    table = [(word, row, labels.get(word, UNKNOWN_INDEX)) for word, row in chosen]
    return _clips(table, shards, percent_of(len(wanted), options.silence_percentage), settings)


def _clips(table, shards, silent, settings):
    """Clips from (folder, row, label) entries, followed by `silent` clips of zeros."""
    order = list(shards)
    position = {name: index for index, name in enumerate(order)}
    zeros = np.zeros((1, settings.clip_samples), np.int16)
    rows = [(position[name], row, label) for name, row, label in table]
    rows += [(len(order), 0, SILENCE_INDEX)] * silent
    source, row, label = np.array(rows, np.int32).reshape(-1, 3).T
    names = tuple(f"{name}/{shards[name].names[row]}" for name, row, _ in table) + ("",) * silent
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
    if folder.name == name and not is_populated(folder, TEST_SET_URL):
        fetch_archive(TEST_SET_URL, folder)
    present = populated_folders(folder)
    foreign = [name for name in present if name not in settings.labels]
    if foreign:
        raise UserError(
            f"{folder / foreign[0]} is named like no label of the model; its labels are "
            f"{', '.join(settings.labels)}{_did_you_mean(foreign[0], settings)}"
        )
    if not present:
        raise UserError(f"{folder} has no recordings: expected {folder}/<label>/<clip>.wav")
    absent = [label for label in settings.labels if label not in present]
    if absent:
        print(f"{folder} has no recordings of {', '.join(absent)}", file=sys.stderr)
    report_unused(folder, present)
    shards = decode_folders(folder, present, settings.front_end)
    table = [
        (name, row, settings.labels.index(name)) for name in present for row in range(len(shards[name].names))
    ]
    return _clips(table, shards, 0, settings)


def _did_you_mean(name, settings):
    meant = likely_meaning(name)
    return f" (did you mean {meant}?)" if meant in settings.labels else ""


# ---- features ----


# ---- batches ----


# ---- what there is, as a table ----


def main():
    parser = new_parser(
        "Prepare the recordings (download, extract, decode), and count them by label and partition."
    )
    add_arguments(parser)
    parser.add_argument(
        "--test_dir",
        metavar="DIR",
        help="count this folder too, one folder of recordings per label",
    )
    args = parse_flags(parser)
    settings = SettingsFlags.from_arguments(args).resolve()
    data = open_data(options_from(DataOptions, args), settings)
    sets = {partition: getattr(data, partition) for partition in PARTITIONS}
    if args.test_dir:
        sets[Path(args.test_dir).name] = open_test_dir(args.test_dir, settings)
    counts = np.array([np.bincount(clips.label, minlength=len(settings.labels)) for clips in sets.values()])
    print(f"{'clips':12}" + "".join(f"{name:>{len(name) + 2}}" for name in sets))
    for label, row in [*zip(settings.labels, counts.T, strict=True), ("all", counts.sum(1))]:
        cells = (f"{count:>{len(name) + 2},}" for name, count in zip(sets, row, strict=True))
        print(f"{label:12}" + "".join(cells))


if __name__ == "__main__":
    run(main)
