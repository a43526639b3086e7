"""The order of training clips, and batches that are used more than once (data echoing)."""

import functools
import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np

from kws.base.features import FrontEnd, mfcc
from kws.base.settings import SILENCE_INDEX, UNKNOWN_INDEX
from kws.data.augmentation import Augmentation, augment, draw_variations
from kws.data.clips import CLIPS_AT_ONCE, workers
from kws.data.dataset import Data
from kws.data.negatives import TrainingAudio

# Independent streams of random numbers of --seed: np.random.default_rng([seed, stream, ...]).
ORDER, VARIATION, REGROUPING = 0, 1, 2
ECHO_BYTES = 2**30  # for the batches that echoing keeps
BATCHES_AHEAD = 100  # made before they are asked for


class Batch(NamedTuple):
    """Clips to take a step on; with one more axis in front, several batches."""

    features: np.ndarray  # float32 [batch_size, feature_count]
    labels: np.ndarray  # int32 [batch_size], or NO_WORD
    scores: np.ndarray | None = None  # a teacher's, float32 [batch_size, labels]

    def map(self, function: Callable) -> "Batch":
        """`function` of each part that there is."""
        return Batch(*(part if part is None else function(part) for part in self))

    @staticmethod
    def stack(batches: list["Batch"]) -> "Batch":
        """Several batches as one with a first axis of their number."""
        return Batch(*(None if parts[0] is None else np.stack(parts) for parts in zip(*batches, strict=True)))


class EpochOrder:
    """The order of training clips: epoch after epoch, each shuffled.

    An epoch holds each clip of `always` (indices) once, and `drawn` of the clips in `pool`, drawn afresh; and
    of each of `others`, further numbers that stand for windows, so many of them, drawn afresh too: from a
    range, or by a function of a random generator and their count.
    """

    def __init__(
        self,
        always: np.ndarray,
        pool: np.ndarray,
        drawn: int,
        seed: int,
        others: list[tuple[range | Callable, int]] = (),
    ):
        self._always, self._pool, self._drawn, self._seed = always, pool, drawn, seed
        self._others = others
        # a batch spans few epochs, and threads may ask for batches out of order
        self._epoch = functools.lru_cache(maxsize=4)(self._shuffled_epoch)

    def __len__(self):
        return len(self._always) + self._drawn + sum(count for _, count in self._others)

    def clips(self, positions: range) -> np.ndarray:
        """The clips at `positions` of the endless sequence of epochs, int [positions]."""
        position = np.arange(positions.start, positions.stop)
        epoch, place = np.divmod(position, len(self))
        return np.concatenate([self._epoch(number)[place[epoch == number]] for number in np.unique(epoch)])

    def _shuffled_epoch(self, number):
        rng = np.random.default_rng([self._seed, ORDER, number])
        drawn = rng.choice(self._pool, self._drawn, replace=False)
        others = [
            numbers(rng, count) if callable(numbers) else rng.integers(numbers.start, numbers.stop, count)
            for numbers, count in self._others
        ]
        return rng.permutation(np.concatenate([self._always, drawn, *others]))


def echoed(
    make_batches: Callable[[range], Iterator[Batch]],
    steps: range,
    echo: int,
    batch_size: int,
    batch_bytes: int,
    rows: np.ndarray,
    seed: int,
) -> Iterator[Batch]:
    """The batch of each of `steps`, each fresh batch used `echo` times (Choi et al., arXiv:1907.05550).

    `make_batches` makes the fresh batches of a range of numbers. They are kept in groups, as float16, and
    each further time a group is used, its clips form other batches. With echo 2 and groups of 3:

        step          0 1 2   3 4 5        6 7 8   9 10 11      ...
        fresh batch   0 1 2   regrouped    3 4 5   regrouped    ...

    A group is as large as ECHO_BYTES hold, but no larger than the steps up to `steps.stop` need.
    `rows` are the rows of each batch of `batch_size` that this worker makes, in `batch_bytes` of features.
    """
    group_size = max(1, ECHO_BYTES // batch_bytes)
    group_size = min(group_size, -(-steps.stop // echo))
    steps_of_group = group_size * echo
    first_group = steps.start // steps_of_group  # a resumed run makes the whole group that it is in
    whole_groups, steps_of_last = divmod(steps.stop, steps_of_group)
    fresh = make_batches(
        range(first_group * group_size, whole_groups * group_size + min(group_size, steps_of_last))
    )

    def row_orders(group, repetition):
        """For each row of a batch the order in which it goes through the group, [rows, group_size].

        A row stays at its place in the batch, so that workers need not know each other's clips.
        """
        all_rows = np.tile(np.arange(group_size, dtype=np.int32), (batch_size, 1))
        rng = np.random.default_rng([seed, REGROUPING, group, repetition])
        return rng.permuted(all_rows, axis=1)[rows]

    batches = _echoed_without_end(fresh, echo, group_size, row_orders, first_group)
    first_step = first_group * steps_of_group
    yield from itertools.islice(batches, steps.start - first_step, steps.stop - first_step)


def _echoed_without_end(fresh: Iterable[Batch], echo, group_size, row_orders, first_group):
    """Batches: each group of `group_size` of the `fresh` ones, `echo` times."""
    stored = None  # a Batch of arrays [group_size, batch_size, ...]

    def restored(*index):
        # the first use goes through float16 too, so that a step does not depend on which use it is
        return stored.map(
            lambda part: part[index].astype(np.float32 if part.dtype == np.float16 else part.dtype)
        )

    for group in itertools.count(first_group):
        for place, batch in enumerate(itertools.islice(fresh, group_size)):
            if stored is None:
                stored = batch.map(lambda part: np.empty((group_size, *part.shape), _stored_type(part)))
            for store, part in zip(stored, batch, strict=True):
                if part is not None:
                    store[place] = part
            yield restored(place)
        columns = np.arange(len(batch.labels))
        for repetition in range(1, echo):
            for places in row_orders(group, repetition).T:
                yield restored(places, columns)


def _stored_type(part):
    return np.float16 if part.dtype == np.float32 else part.dtype


def training_batches(
    data: Data,
    variation: Augmentation,
    front_end: FrontEnd,
    *,
    batch_size: int,
    seed: int,
    steps: range,
    echo: int = 1,
    worker_rows: slice = slice(None),
    teacher=None,
) -> Iterator[Batch]:
    """A Batch for each of `steps`, augmented on all cores ahead of time.

    With a `teacher`, a loaded model, its scores of the same augmented clips are part of the batch. With
    `echo` n, each batch is used n times (see `echoed`). With `worker_rows`, only these rows are
    made. A batch depends on the seed, its step and, with echoing, `steps.stop`: a run that starts in the
    middle gets what an uninterrupted one would get, and workers together what one alone would.
    """
    rows = np.arange(batch_size)[worker_rows]
    with workers() as pool:

        def make_batches(numbers):
            return _fresh_batches(data, variation, front_end, batch_size, seed, numbers, rows, teacher, pool)

        if echo == 1:
            yield from make_batches(steps)
        else:
            batch_bytes = np.dtype(np.float16).itemsize * batch_size * front_end.feature_count
            yield from echoed(make_batches, steps, echo, batch_size, batch_bytes, rows, seed)


def _fresh_batches(data, variation, front_end, batch_size, seed, numbers, rows, teacher, pool):
    """The freshly augmented batches with these numbers, made ahead by the threads of `pool`."""
    source = TrainingAudio(data.training, data.negatives)
    variation = variation.with_noise_floor(background=bool(data.noise))
    unknown = data.training.label == UNKNOWN_INDEX
    order = EpochOrder(
        np.append(np.flatnonzero(~unknown), data.repeated).astype(int),
        np.flatnonzero(unknown),
        data.unknown_per_epoch,
        seed,
        [
            *source.windows_to_draw(data.negatives_per_epoch),
            (source.cut_words, data.cut_words_per_epoch),
            (_hard_negatives(data, source, front_end), data.hard_negatives_per_epoch),
        ],
    )

    def batch(number):
        chosen = order.clips(range(number * batch_size, (number + 1) * batch_size))
        rng = np.random.default_rng([seed, VARIATION, number])
        # of all rows, so that a row does not depend on how many workers share the batch
        labels = source.labels(chosen)
        drawn = draw_variations(variation, labels == SILENCE_INDEX, front_end, rng).of(rows)
        chosen = chosen[rows]
        student_features = np.empty((len(chosen), front_end.feature_count), np.float32)
        teacher_features = student_features
        if teacher and teacher.settings.front_end != front_end:
            teacher_features = np.empty((len(chosen), teacher.settings.feature_count), np.float32)
        for start in range(0, len(chosen), CLIPS_AT_ONCE):
            part = slice(start, start + CLIPS_AT_ONCE)
            audio = augment(source.audio(chosen[part]), drawn.of(part), data.noise, front_end.sample_rate)
            mfcc(audio, front_end, student_features[part])
            if teacher_features is not student_features:
                mfcc(audio, teacher.settings.front_end, teacher_features[part])
        scores = teacher.predict(teacher_features) if teacher else None
        return Batch(student_features, labels[rows], scores)

    ahead = deque()
    for number in numbers:
        ahead.append(pool.submit(batch, number))
        if len(ahead) > BATCHES_AHEAD:
            yield ahead.popleft().result()
    while ahead:
        yield ahead.popleft().result()


def _hard_negatives(data, source, front_end):
    """A function that draws hard negatives, as EpochOrder takes it: their numbers in `source`."""

    def draw(rng, count):
        if not count:
            return np.zeros(0, np.int64)
        if not data.hard_negatives:
            return source.first_window + rng.integers(0, data.negatives.windows, count)
        numbers, chances = data.hard_negatives
        drawn = numbers[np.searchsorted(chances, rng.random(count), side="right")]
        near = rng.integers(-front_end.stride_samples, front_end.stride_samples + 1, count)
        return source.first_window + np.clip(drawn + near, 0, data.negatives.windows - 1)

    return draw
