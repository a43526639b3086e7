"""A head on a frozen trunk: the trainee whose batches are the trunk's outputs, and stored negatives.

The trunk computes each clip once. Half-way, and again after three quarters, the windows of the stored
negatives that the head takes for a word are found. From there on they are half of what is added to a batch.
"""

import math
from pathlib import Path

import numpy as np

from kws.base.errors import UserError
from kws.base.files import appears_complete
from kws.base.settings import NO_WORD, UNKNOWN_INDEX, Settings
from kws.data.batches import Batch
from kws.model.checkpoints import keras_predictor
from kws.train.runs import TrainingOptions
from kws.train.trainee import StartOptions, Trainee
from kws.trunk.outputs import StoredOutputs, predictor, split

ADDED = 1  # windows of stored negatives for each clip of a batch
HARD = 1 / 2  # of these, once they are known
HARDEST = 1 / 50  # of all windows: the hard negatives
MINED_AT = 1 / 2, 3 / 4  # of the steps
STORED = 3  # the stream of random numbers of --seed; those of kws.data.batches are 0 to 2
FILE_NAME = "hard_negatives_{}.npy"


def head_trainee(
    network, settings: Settings, frozen: int, options: StartOptions, training: TrainingOptions, start
) -> Trainee:
    """Return a trainee of what follows the first `frozen` layers with weights of the Keras `network`.

    The last checkpoint is kept: the best one by clips of synthetic voices is not the best for people.
    """
    trunk, head = split(network, frozen)
    outputs, stored = predictor(trunk), None
    if options.trunk_negatives:
        stored = StoredOutputs.read(options.trunk_negatives, trunk).without(settings.wanted_words)
        longest, outputs_of_clip = stored.windows.shape[1], trunk.output_shape[1]
        if outputs_of_clip > longest:
            what = (
                f"--clip_duration_ms {settings.clip_duration_ms} gives {outputs_of_clip} outputs of the trunk"
            )
            raise UserError(
                f"{what}, and {options.trunk_negatives} has windows of {longest}: shorten the clips"
            )

    def of_features(features):
        values = outputs(features)
        return (stored.rounded(values) if stored else values)[:, :, None]

    return Trainee(
        head,
        lambda: network,
        validated=network,
        keep_from=training.total_steps,
        start=start,
        made_by=(options,),
        inputs=of_features,
        added=AddedNegatives(stored, head, training) if stored else None,
    )


class AddedNegatives:
    """Windows of stored negatives that are added to each batch of a training."""

    def __init__(self, stored: StoredOutputs, head, training: TrainingOptions):
        self.rows = int(ADDED * training.batch_size)
        self._stored, self._seed = stored, training.seed
        self._length = head.input_shape[1]  # outputs in a window
        self._windows, outputs, _ = stored.windows.shape
        self._starts = outputs - self._length + 1  # places in a stored window where one can begin
        self._mined_at = [int(share * training.total_steps) for share in MINED_AT]
        self._predict, self._folder = keras_predictor(head), Path(training.train_dir)
        # {step at which they were found: the window of each, and its first output, int [2, hard]}
        self._hard = {}

    def to(self, batch: Batch, step: int) -> Batch:
        """Return the batch of a step with `rows` more rows, whose label is NO_WORD."""
        rng = np.random.default_rng([self._seed, STORED, step])
        # [2, rows]
        drawn = np.stack(
            [rng.integers(0, self._windows, self.rows), rng.integers(0, self._starts, self.rows)]
        )
        due = [mined_at for mined_at in self._mined_at if mined_at <= step]
        if due:
            hard = self._hard_negatives(due[-1], resumed=step > due[-1])
            count = int(HARD * self.rows)
            drawn[:, :count] = hard[:, rng.integers(0, hard.shape[1], count)]
        labels = np.full(self.rows, NO_WORD, batch.labels.dtype)
        return Batch(
            np.concatenate([batch.features, self._values(drawn)]), np.concatenate([batch.labels, labels])
        )

    def _values(self, drawn):
        """Return the outputs of windows, float32 [windows, outputs, 1, channels]."""
        places = drawn[1][:, None] + np.arange(self._length)
        return self._stored.values(self._stored.windows[drawn[0][:, None], places])[:, :, None]

    def _hard_negatives(self, mined_at, resumed):
        """Return the windows that the head took for a word most at step `mined_at`: int [2, hard]."""
        file = self._folder / FILE_NAME.format(mined_at)
        if mined_at not in self._hard and resumed and file.exists():
            self._hard[mined_at] = np.load(file)
        if mined_at not in self._hard:
            self._hard[mined_at] = self._hardest()
            with appears_complete(file) as partial, open(partial, "wb") as out:
                np.save(out, self._hard[mined_at])
        return self._hard[mined_at]

    def _hardest(self):
        """Return the HARDEST windows that the head gives a word the highest scores: int [2, hard]."""
        every = np.stack(np.divmod(np.arange(self._windows * self._starts), self._starts))  # [2, all]
        scores = np.concatenate(
            [
                self._predict(self._values(part))[:, UNKNOWN_INDEX + 1 :].max(1)
                for part in np.array_split(every, max(1, every.shape[1] // 4096), axis=1)
            ]
        )
        return every[:, np.argsort(-scores)[: math.ceil(HARDEST * len(scores))]]
