"""Training batches: the order of the clips, their variation, and batches that are used more than once."""

import functools
import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

import numpy as np

from kws.base.features import FrontEnd, mfcc
from kws.base.settings import SILENCE_INDEX, UNKNOWN_INDEX
from kws.data.augmentation import Augmentation, augment, draw_variations
from kws.data.clips import CLIPS_AT_ONCE, numpy_threads
from kws.data.dataset import Data
from kws.data.negatives import TrainingAudio

# Independent streams of random numbers of --seed: np.random.default_rng([seed, stream, ...]).
ORDER, VARIATION, REGROUPING = 0, 1, 2
ECHO_BYTES = 2**30  # for the batches that echoing keeps
BATCHES_AHEAD = 100  # made before they are asked for


class Batch(NamedTuple):
    """Clips to take a step on; with one more axis in front, several batches."""

    features: np.ndarray  # float32 [batch_size, feature_count], or what a frozen trunk computes of them
    labels: np.ndarray  # int32 [batch_size], or NO_WORD
    targets: np.ndarray | None = None  # a teacher's, float32 [batch_size, labels or embedded values]

    def map(self, function: Callable) -> "Batch":
        """Return a Batch of `function` of each part that there is."""
        return Batch(*(part if part is None else function(part) for part in self))

    @staticmethod
    def stack(batches: list["Batch"]) -> "Batch":
        """Return several batches as one, whose first axis is their number."""
        return Batch(*(None if parts[0] is None else np.stack(parts) for parts in zip(*batches, strict=True)))


class Batching(NamedTuple):
    """How clips become batches, and which batches are asked for."""

    batch_size: int
    seed: int
    steps: range  # of the training: one batch each
    echo: int = 1  # times that each fresh batch is used
    rows: slice = slice(None)  # of each batch, the rows to make here


def training_batches(
    data: Data, variation: Augmentation, front_end: FrontEnd, batching: Batching, teacher=None, inputs=None
) -> Iterator[Batch]:
    """Yield a Batch for each of `batching.steps`, augmented on all cores ahead of time.

    With a `teacher`, a function from audio, float32 [clips, clip_samples], and its features to targets
    [clips, n], the batch holds what it returns for the same augmented clips. With `inputs`, a function of
    features, it holds what this returns in place of features. A batch depends
    on the seed, its step and, with echoing, `steps.stop`. So a run that starts in the middle gets the batches
    of an uninterrupted one, and machines that share the rows get together the batches of one machine.
    """
    make = _batch_maker(data, variation, front_end, batching, teacher, inputs)
    with numpy_threads() as pool:
        if batching.echo == 1:
            yield from _made_ahead(make, pool, batching.steps)
        else:
            batch_bytes = np.dtype(np.float16).itemsize * batching.batch_size * front_end.feature_count
            yield from echoed(functools.partial(_made_ahead, make, pool), batching, batch_bytes)


# ---- fresh batches ----


class EpochOrder:
    """The order of training clips: epoch after epoch, each shuffled.

    An epoch holds each clip of `always` (indices) once, and `drawn` of the clips in `pool`, drawn afresh. For
    each (source, count) of `others` it holds `count` more numbers, which stand for windows, drawn afresh too.
    A source is a range, or a function of a random generator and the count.
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
        """Return the clips at `positions` of the endless sequence of epochs, int [positions]."""
        position = np.arange(positions.start, positions.stop)
        epoch, place = np.divmod(position, len(self))
        return np.concatenate([self._epoch(number)[place[epoch == number]] for number in np.unique(epoch)])

    def _shuffled_epoch(self, number):
        rng = np.random.default_rng([self._seed, ORDER, number])
        drawn = rng.choice(self._pool, self._drawn, replace=False)
        others = [
            source(rng, count) if callable(source) else rng.integers(source.start, source.stop, count)
            for source, count in self._others
        ]
        return rng.permutation(np.concatenate([self._always, drawn, *others]))


def _batch_maker(
    data: Data, variation: Augmentation, front_end: FrontEnd, batching: Batching, teacher, inputs
) -> Callable[[int], Batch]:
    """Return a function that makes the freshly augmented batch with a number."""
    source = TrainingAudio(data.training, data.negatives)
    variation = variation.with_noise_floor(background=bool(data.noise))
    order = _epoch_order(data, source, front_end, batching.seed)
    size, rows = batching.batch_size, batching.rows

    def features_and_targets(chosen, drawn):
        features, targets = np.empty((len(chosen), front_end.feature_count), np.float32), []
        for start in range(0, len(chosen), CLIPS_AT_ONCE):
            part = slice(start, start + CLIPS_AT_ONCE)
            # int16 [clips, clip_samples] -> float32, varied -> [clips, feature_count]
            audio = augment(source.audio(chosen[part]), drawn.of(part), data.noise, front_end.sample_rate)
            mfcc(audio, front_end, features[part])
            if teacher:
                targets.append(teacher(audio, features[part]))
        return inputs(features) if inputs else features, np.concatenate(targets) if teacher else None

    def make(number):
        chosen = order.clips(range(number * size, (number + 1) * size))  # [batch_size]
        rng = np.random.default_rng([batching.seed, VARIATION, number])
        labels = source.labels(chosen)  # [batch_size]
        # drawn for all rows, so that a row does not depend on which rows are made here
        drawn = draw_variations(variation, labels == SILENCE_INDEX, front_end, rng).of(rows)
        features, targets = features_and_targets(chosen[rows], drawn)
        return Batch(features, labels[rows], targets)

    return make


def _epoch_order(data, source, front_end, seed):
    unknown = data.training.label == UNKNOWN_INDEX
    always = np.append(np.flatnonzero(~unknown), data.repeated).astype(int)
    windows = source.windows_to_draw(data.negatives_per_epoch)
    hard = _hard_negatives(data, source, front_end), data.hard_negatives_per_epoch
    return EpochOrder(always, np.flatnonzero(unknown), data.unknown_per_epoch, seed, [*windows, hard])


def _hard_negatives(data, source, front_end):
    """Return a function that draws hard negatives, as EpochOrder takes it: their numbers in `source`."""

    def draw(rng, count):
        if not count:
            return np.zeros(0, np.int64)
        if not data.hard_negatives:
            return source.first_window + rng.integers(0, data.negatives.windows, count)
        numbers, chances = data.hard_negatives
        drawn = numbers[np.searchsorted(chances, rng.random(count), side="right")]
        # up to a frame earlier or later, so that a window is not learnt by heart
        near = rng.integers(-front_end.stride_samples, front_end.stride_samples + 1, count)
        return source.first_window + np.clip(drawn + near, 0, data.negatives.windows - 1)

    return draw


def _made_ahead(make, pool, numbers):
    """Yield `make(number)` for each of `numbers`, made ahead by the threads of `pool`."""
    ahead = deque()
    for number in numbers:
        ahead.append(pool.submit(make, number))
        if len(ahead) > BATCHES_AHEAD:
            yield ahead.popleft().result()
    while ahead:
        yield ahead.popleft().result()


# ---- batches that are used more than once ----


def echoed(
    make_batches: Callable[[range], Iterator[Batch]], batching: Batching, batch_bytes: int
) -> Iterator[Batch]:
    """Yield the batch of each step, each fresh batch used `echo` times (Choi et al., arXiv:1907.05550).

    `make_batches` makes the fresh batches of a range of numbers, each of `batch_bytes` as float16. They are
    kept in groups, and each further time that a group is used, its clips form other batches. With echo 2 and
    groups of 3:

        step          0 1 2   3 4 5        6 7 8   9 10 11      ...
        fresh batch   0 1 2   regrouped    3 4 5   regrouped    ...

    A group is as large as ECHO_BYTES hold, but no larger than the steps up to `steps.stop` need.
    """
    echo, steps = batching.echo, batching.steps
    group_size = max(1, ECHO_BYTES // batch_bytes)
    group_size = min(group_size, -(-steps.stop // echo))
    steps_of_group = group_size * echo
    # a resumed run makes the whole group that it is in
    first_group = steps.start // steps_of_group
    whole_groups, steps_of_last = divmod(steps.stop, steps_of_group)
    last_batch = whole_groups * group_size + min(group_size, steps_of_last)
    fresh = make_batches(range(first_group * group_size, last_batch))

    def row_orders(group, repetition):
        """Return for each row of a batch the order in which it goes through the group, [rows, group_size].

        A row stays at its place in the batch, so machines that share the rows need not know each other's.
        """
        all_rows = np.tile(np.arange(group_size, dtype=np.int32), (batching.batch_size, 1))
        rng = np.random.default_rng([batching.seed, REGROUPING, group, repetition])
        return rng.permuted(all_rows, axis=1)[batching.rows]

    batches = _echoed_without_end(fresh, echo, group_size, row_orders, first_group)
    first_step = first_group * steps_of_group
    yield from itertools.islice(batches, steps.start - first_step, steps.stop - first_step)


def _echoed_without_end(fresh: Iterable[Batch], echo, group_size, row_orders, first_group):
    """Yield each group of `group_size` of the `fresh` batches, `echo` times."""
    stored = None  # a Batch of arrays [group_size, batch_size, ...]

    for group in itertools.count(first_group):
        for place, batch in enumerate(itertools.islice(fresh, group_size)):
            if stored is None:
                stored = batch.map(lambda part: np.empty((group_size, *part.shape), _stored_type(part)))
            for store, part in zip(stored, batch, strict=True):
                if part is not None:
                    store[place] = part
            # the first use goes through float16 too, so that a step does not depend on which use it is
            yield _restored(stored, place)
        columns = np.arange(len(batch.labels))
        for repetition in range(1, echo):
            for places in row_orders(group, repetition).T:
                yield _restored(stored, places, columns)


def _stored_type(part):
    return np.float16 if part.dtype == np.float32 else part.dtype


def _restored(stored, *index):
    """Return the Batch at `index` of a stored group, its numbers float32 again."""
    return stored.map(lambda part: part[index].astype(np.float32 if part.dtype == np.float16 else part.dtype))
