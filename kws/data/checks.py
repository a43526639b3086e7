"""Warnings and errors if a data set is too small, or its clips too short, to train on."""

import math
import sys

import numpy as np

from kws.audio.folders import NOISE_FOLDER
from kws.base.errors import UserError
from kws.base.settings import SILENCE_INDEX, SILENCE_LABEL, UNKNOWN_INDEX, UNKNOWN_LABEL, Settings
from kws.base.text import show
from kws.data.augmentation import Augmentation
from kws.data.clips import is_synthetic
from kws.data.dataset import Data

# clips of a word: with 20, one clip is 5 % of its accuracy
FEW_TO_LEARN_FROM, FEW_TO_VALIDATE_ON = 100, 20
MOST = 0.9  # of the recordings that were cut


def check_data(data: Data, settings: Settings, data_dir, augmentation: Augmentation):
    """Print warnings if there are few clips of a word, none of silence or unknown words, or cut recordings.

    Raises UserError if a word has no clips to learn from, or nothing is left to validate on.
    """
    # clips by label, int [labels]
    training = np.bincount(data.training.label, minlength=len(settings.labels))
    validation = np.bincount(data.validation.label, minlength=len(settings.labels))
    _check_words(training, validation, settings, data_dir)
    if not len(data.validation):
        more = "more recordings (of more speakers) are needed, or a larger --validation_percentage"
        raise UserError(f"no clips for validation in {data_dir}: {more}")
    _report_labels_without_clips(training, data, data_dir)
    _report_cut_recordings(data, settings)
    _report_people_not_learnt_from(data, settings)
    if augmentation.uses_noise and not data.noise:
        floor = show(augmentation.with_noise_floor(background=False).noise_floor_db)
        print(f"{data_dir} has no {NOISE_FOLDER}: only --noise_floor_db {floor} is used", file=sys.stderr)


def _check_words(training, validation, settings, data_dir):
    words = range(UNKNOWN_INDEX + 1, len(settings.labels))  # their labels
    # nothing to learn from is an error, nothing to validate on a warning: other words may have some
    for label in words:
        if not training[label]:
            others = "its speakers validate and test; more speakers or smaller percentages are needed"
            raise UserError(f"no clips of {settings.labels[label]} to learn from in {data_dir}: {others}")
        if not validation[label]:
            print(f"no clips of {settings.labels[label]} for validation: its accuracy cannot be measured")
    few = [
        f"{settings.labels[label]} has {training[label]} and {validation[label]}"
        for label in words
        if training[label] < FEW_TO_LEARN_FROM or validation[label] < FEW_TO_VALIDATE_ON
    ]
    if few:
        print(
            f"few clips for training and validation: {'; '.join(few)} (at least {FEW_TO_LEARN_FROM} and "
            f"{FEW_TO_VALIDATE_ON} are recommended): the model and its accuracy will be rough"
        )


def _report_labels_without_clips(training, data, data_dir):
    if not training[SILENCE_INDEX]:
        print(f"no clips of {SILENCE_LABEL} to learn from: the model will take silence for something else")
    # negatives teach it as well as words do
    if not data.no_words_per_epoch:
        more = "a larger --training_unknown_percentage"
        if not training[UNKNOWN_INDEX]:
            more = f"folders of other words or of noise in {data_dir} (with an --unknown_percentage above 0)"
        print(
            f"no clips of {UNKNOWN_LABEL} to learn from: the model will take every sound that is not silence "
            f"for one of the wanted words; {more} would teach it others"
        )


def _report_cut_recordings(data, settings):
    if not data.cut_ms:
        return
    partitions = data.training, data.validation, data.testing
    words = sum(np.count_nonzero(clips.label > UNKNOWN_INDEX) for clips in partitions)
    fits = 100 * math.ceil(np.percentile(data.cut_ms, 100 * MOST) / 100)
    print(
        f"{len(data.cut_ms):,} of {words:,} recordings of the words are longer than a clip and were cut to "
        f"their loudest {settings.clip_duration_ms} ms; if the words themselves are longer, "
        f"--clip_duration_ms {fits} holds {100 * MOST:.0f} % of these recordings"
    )


def _report_people_not_learnt_from(data, settings):
    def by_people(clips, label):
        return sum(not is_synthetic(clips.names[clip]) for clip in np.flatnonzero(clips.label == label))

    for label in range(UNKNOWN_INDEX + 1, len(settings.labels)):
        # the hash may put the few people who recorded a word on one side
        kept = by_people(data.validation, label) + by_people(data.testing, label)
        if kept and not by_people(data.training, label):
            print(
                f"all {kept} recordings of {settings.labels[label]} by people are of speakers for validation "
                "and testing: it is learnt from synthesis alone (a speaker's partition follows from the name)"
            )
