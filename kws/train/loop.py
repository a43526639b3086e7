"""The training loop that train.py and optimisations.py share: resumable, seeded, from labels or a teacher."""

import contextlib
import itertools
import math
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from kws.base.errors import UserError, stop_if_interrupted
from kws.base.flags import StoreTuple, bounded, flag_adder, number_list
from kws.base.quiet_tf import keras, tf
from kws.base.settings import DATA_FIELDS, NO_WORD, UNKNOWN_INDEX, Settings, SettingsFlags
from kws.base.text import show
from kws.data.augmentation import Augmentation
from kws.data.batches import Batch, training_batches
from kws.data.dataset import Data, DataOptions
from kws.model.batch_norm import fit_momentum
from kws.model.checkpoints import (
    KerasModel,
    delete_unfinished,
    keep_best,
    load_checkpoint,
    load_start,
    read_settings,
    writing,
)
from kws.train import distribution, mining
from kws.train.run_folder import claimed_folder, log_progress, run_identity, write_history
from kws.train.validation import LEAST_SCORE, validation

TEMPERATURE = 4.0  # chosen on the validation partition
STEPS_AT_ONCE = 20  # steps of one call into TensorFlow, which costs as much as some steps of a small network
WORK_FOLDER = Path(__file__).resolve().parents[2] / "work"


@dataclass(frozen=True)
class TrainingOptions:
    """How a model is trained: the flags of `add_arguments`.

    Raises UserError where they do not fit each other.
    """

    how_many_training_steps: tuple[int, ...]
    learning_rate: tuple[float, ...]
    train_dir: str
    learning_rate_schedule: str = "constant"
    optimizer: str = "adam"
    eval_step_interval: int = 400
    batch_size: int = 100
    seed: int = 0
    echo_factor: int = 1
    teacher: str | None = None
    temperature: float | None = None  # TEMPERATURE where None
    summaries_dir: str | None = None
    ambient: tuple[str, ...] = ()
    false_alarms_per_hour: float = 5

    def __post_init__(self):
        if self.temperature and not self.teacher:
            raise UserError("--temperature is for learning from a --teacher, which is not given")
        if len(self.how_many_training_steps) != len(self.learning_rate):
            raise UserError(
                f"--how_many_training_steps has {len(self.how_many_training_steps)} parts and "
                f"--learning_rate {len(self.learning_rate)}; one rate is needed for each number of steps"
            )

    @property
    def total_steps(self) -> int:
        return sum(self.how_many_training_steps)


def add_arguments(parser, steps: str, rates: str, train_dir: str):
    """Add the flags of TrainingOptions, and return their group; the scripts differ in some defaults."""
    group = parser.add_argument_group("training")
    add = flag_adder(group, TrainingOptions)
    integers, floats, count = number_list(int), number_list(float), bounded(int, 1)
    add("how_many_training_steps", "steps at each learning rate", type=integers, metavar="N,N,...")
    add("learning_rate", "learning rates, one after the other", type=floats, metavar="R,R,...")
    add(
        "learning_rate_schedule",
        "constant: each rate holds for its steps; cosine: each falls to 0 over its steps",
        choices=("constant", "cosine"),
    )
    add(
        "optimizer",
        "muon learns the kernels of fully connected hidden layers in fewer steps",
        choices=("adam", "muon"),
    )
    add(
        "eval_step_interval",
        "steps between validations; an interruption loses no more than these",
        type=count,
        metavar="N",
    )
    add("batch_size", "clips per step", type=count, metavar="N")
    add(
        "seed",
        "fixes initial weights, order of clips and their variation",
        type=bounded(int, 0, 2**32 - 1),
        metavar="N",
    )
    add(
        "echo_factor",
        "times that augmented clips are used before fresh ones are made (data echoing)",
        type=count,
        metavar="N",
    )
    add(
        "ambient",
        "validate on an open microphone too: folders of recordings without the words, other ones than those "
        "of --negatives_dir. The checkpoint with the best mean of clip accuracy and words detected is kept",
        nargs="*",
        action=StoreTuple,
        metavar="DIR",
    )
    add(
        "false_alarms_per_hour",
        "at how many false alarms in --ambient (and at half and twice as many) words are to be detected",
        type=bounded(float, 0.01),
        metavar="N",
    )
    add(
        "teacher",
        "checkpoint of a model with the same labels; its scores are learnt instead of the labels "
        "(knowledge distillation)",
        metavar="PATH",
    )
    add(
        "temperature",
        "of the softmax in which the scores of --teacher are learnt; 4 if not given",
        type=bounded(float, 0.01),
        metavar="T",
    )
    add("train_dir", "where checkpoints and exported models go", metavar="DIR")
    add(
        "summaries_dir",
        "where summaries for TensorBoard go; TRAIN_DIR/summaries if not given",
        metavar="DIR",
    )
    parser.set_defaults(
        how_many_training_steps=integers(steps),
        learning_rate=floats(rates),
        train_dir=str(WORK_FOLDER / train_dir),
    )
    return group


# ---- the models it learns and starts from ----


def load_teacher(path, settings: Settings, build_model: Callable) -> KerasModel:
    """The model of --teacher; UserError where it is for other audio or labels than the student's `settings`.

    If it carries no settings, the student's are assumed.
    """
    carries_settings = read_settings(path) is not None
    network, its_settings = load_checkpoint(
        path, build_model, None if carries_settings else SettingsFlags(vars(settings))
    )
    percentages = "validation_percentage", "testing_percentage"  # it must not have learnt what we test on
    for name in ("sample_rate", "clip_duration_ms", "wanted_words", *percentages):
        ours, theirs = getattr(settings, name), getattr(its_settings, name)
        if ours != theirs:
            raise UserError(f"--teacher {path} has --{name} {show(theirs)}, the student {show(ours)}")
    return KerasModel(network, its_settings)


def start_from(path, model, settings: Settings) -> bool:
    """Give the Keras `model` of `settings` the weights of a checkpoint, and print what is kept of it.

    Returns whether that is all: it is for the same labels, in the same order.
    """
    stored = read_settings(path) or settings
    print(f"starting from {path}:", *load_start(model, settings, path), sep="\n  ")
    for name in DATA_FIELDS[1:]:
        if getattr(stored, name) != getattr(settings, name):
            print(
                f"{path} was trained with --{name} {show(getattr(stored, name))}: if on the same recordings, "
                "it has learnt clips that it is validated or tested on here"
            )
    return stored.labels == settings.labels


# ---- the loop ----


def fit(
    model,
    data: Data,
    settings: Settings,
    options: TrainingOptions,
    variation: Augmentation,
    data_options: DataOptions,
    *,
    start: str,
    plain: Callable,
    validated=None,
    latent=None,
    keep_from: int = 0,
    starts_trained: bool = False,
    teacher: KerasModel | None = None,
) -> None:
    """Train the Keras `model`; resume where an interrupted run stopped.

    After each `eval_step_interval` steps and at the end, the model is validated. `plain()` is called before
    that, and returns the Keras model of `settings` with the weights of now; it is saved in `train_dir`/best
    whenever it is the best so far, from `keep_from` steps on; `validated`, if given, is that model, and is
    validated in place of the one in training. `start` identifies the weights at the start, and
    `starts_trained` says that they can find hard negatives.
    `latent`, the model's LatentWeights, is trained in its place, quantized after each step. For a model built
    under a tf.distribute strategy each worker makes its share of every batch, and worker 0 does all else. A
    resumed run ends as an uninterrupted one does, except for what dropout leaves out. One that is given more
    steps than before continues with them. Raises UserError where `train_dir` holds a run with other flags or
    one that is running, or where training diverges.
    """
    from kws.model.quantizers import LatentWeights

    distribution.check(model, options.batch_size)
    strategy = model.distribute_strategy
    worker, workers = distribution.worker_index_and_count(strategy)
    identity = run_identity(options, variation, data_options, settings, data, start)
    fit_momentum(model, options.total_steps)
    mined = mining.HardNegatives(
        data, data_options, options, lambda: KerasModel(plain(), settings), starts_trained
    )
    folder = claimed_folder(options.train_dir, identity)
    with folder if worker == 0 else contextlib.nullcontext():
        with strategy.scope():
            latent = latent or LatentWeights(model, {})
            state, manager = _restored_state(model, latent, options)
        train = compiled_steps(model, latent, state.optimizer, options)
        on_microphone = options.ambient, options.false_alarms_per_hour
        validate = validation(validated or model, data, settings, *on_microphone) if worker == 0 else None
        steps = range(int(state.step.read_value()), options.total_steps)
        batches = _batches(mined, settings, options, variation, steps, slice(worker, None, workers), teacher)
        rates = learning_rates(options)
        for end in _validation_steps(steps, options.eval_step_interval):
            started, first = time.perf_counter(), int(state.step.read_value())
            loss, accuracy = _train_until(end, first, batches, train, rates, options.batch_size)
            pace = (end - first) / (time.perf_counter() - started)
            state.step.assign(end)
            if validate:
                network = plain()
                result = validate()
                best = float(state.best.read_value()), float(state.best_loss.read_value())
                with writing(options.train_dir):
                    if end >= keep_from and result.is_better(*best):
                        name = f"{settings.model_architecture}_{10000 * result.accuracy:04.0f}.ckpt-{end}"
                        keep_best(network, settings, Path(options.train_dir) / "best", name)
                        state.best.assign(result.merit)
                        state.best_loss.assign(result.loss)
                    row = end, float(rates[end - 1]), loss, accuracy, *result
                    write_history(options.train_dir, row)
                    manager.save(end)
                log_progress(options, row, pace)


def _batches(mined, settings, options, variation, steps, worker_rows, teacher):
    """A Batch for each of `steps`, with the scores of --teacher. Hard negatives are found as they are due."""
    for number, of_round in enumerate(mined.rounds(options.total_steps)):
        first = max(steps.start, of_round.start)
        if first < of_round.stop:
            yield from training_batches(
                mined.data_of(number, resumed=first > of_round.start),
                variation,
                settings.front_end,
                batch_size=options.batch_size,
                seed=options.seed + (number << 32),  # above all that --seed can be
                steps=range(first - of_round.start, len(of_round)),
                echo=options.echo_factor,
                worker_rows=worker_rows,
                teacher=teacher,
            )


def compiled_steps(model, latent, optimizer, options: TrainingOptions):
    """The training step, compiled to take several steps at a time.

    The result is a function of learning rates [steps] and a Batch with a first axis of steps; it trains on
    one after the other, and returns the sums of the loss and of the correctly classified clips.
    """
    temperature = options.temperature or TEMPERATURE
    logits_of = keras.Model(model.input, model.layers[-1].input)  # all but the softmax

    label_of_score = tf.range(model.output.shape[1])
    is_word = label_of_score > UNKNOWN_INDEX

    def loss_of(logits, batch):
        no_word = batch.labels == NO_WORD
        # cross-entropy; where silence and unknown are both right, of the sum of their scores
        right = (batch.labels[:, None] == label_of_score) | (no_word[:, None] & ~is_word)
        of_labels = -tf.reduce_logsumexp(tf.where(right, tf.nn.log_softmax(logits), -np.inf), 1)  # [batch]
        if batch.scores is None:
            return of_labels
        # both softmaxes at a temperature, whose square keeps gradients as large (arXiv:1503.02531)
        teachers_logits = tf.math.log(
            tf.maximum(batch.scores, LEAST_SCORE)
        )  # up to a constant, which softmax ignores
        softened = tf.nn.softmax(teachers_logits / temperature)  # [batch, labels]
        of_scores = temperature**2 * tf.nn.softmax_cross_entropy_with_logits(softened, logits / temperature)
        # that a window holds none of the words is known, what a teacher takes it for does not matter
        return tf.where(no_word, of_labels, of_scores)

    def step(batch: Batch):
        with tf.GradientTape() as tape:
            logits = logits_of(batch.features, training=True)  # [batch, feature_count] -> [batch, labels]
            loss = tf.reduce_sum(loss_of(logits, batch)) / options.batch_size
        # tfmot keeps variables that take no part, such as a kernel that its clusters stand for
        unconnected = tf.UnconnectedGradients.ZERO
        gradients = tape.gradient(loss, model.trainable_variables, unconnected_gradients=unconnected)
        optimizer.apply_gradients(zip(gradients, latent.variables_to_train, strict=True))
        latent.quantize_into_model()
        predicted = tf.argmax(logits, 1, output_type=batch.labels.dtype)  # [batch]
        no_word = (batch.labels == NO_WORD) & (predicted <= UNKNOWN_INDEX)
        return loss, tf.reduce_sum(tf.cast((predicted == batch.labels) | no_word, tf.float32))

    step_of_all = distribution.distributed(step, model.distribute_strategy)

    @tf.function(reduce_retracing=True)
    def train(rates, batches: Batch):
        loss_sum, correct = 0.0, 0.0
        for i in tf.range(tf.shape(rates)[0]):
            optimizer.learning_rate.assign(rates[i])
            loss, right = step_of_all(batches.map(lambda part: part[i]))  # noqa: B023  (called at once)
            loss_sum, correct = loss_sum + loss, correct + right
        return loss_sum, correct

    return train


def _train_until(end, step, batches, train, rates, batch_size):
    """Take the steps up to `end`; mean loss and accuracy over them."""
    from tqdm import tqdm

    first, loss_sum, correct = step, 0.0, 0
    with tqdm(initial=step, total=end, desc="training", unit=" steps", leave=False, disable=None) as progress:
        while step < end:
            taken = Batch.stack(list(itertools.islice(batches, min(STEPS_AT_ONCE, end - step))))
            count = len(taken.labels)
            loss, right = train(rates[step : step + count], taken)
            loss_sum, correct, step = loss_sum + float(loss), correct + int(right), step + count
            progress.update(count)
            stop_if_interrupted()
    if not math.isfinite(loss_sum):
        raise UserError(
            f"training diverged before step {end:,}: the loss is {loss_sum}; lower --learning_rate"
        )
    return loss_sum / (end - first), correct / (end - first) / batch_size


def _validation_steps(steps, interval):
    """The steps after which to validate: every multiple of `interval`, and the last."""
    first = (steps.start // interval + 1) * interval
    return [*range(first, steps.stop, interval), steps.stop] if len(steps) else []


def learning_rates(options: TrainingOptions) -> np.ndarray:
    """The learning rate of each step, float32 [steps]."""
    parts = []
    for steps, rate in zip(options.how_many_training_steps, options.learning_rate, strict=True):
        falling = 0.5 * (1 + np.cos(np.pi * np.arange(steps) / steps))  # arXiv:1608.03983, without restarts
        parts.append(rate * (falling if options.learning_rate_schedule == "cosine" else np.ones(steps)))
    return np.concatenate(parts).astype(np.float32)


# ---- resuming ----


def _restored_state(model, latent, options):
    """What resuming needs, as a tf.train.Checkpoint, and its manager; restored where there is one."""
    if options.optimizer == "muon":
        from kws.model.muon import Muon

        optimizer = Muon()
    else:
        optimizer = keras.optimizers.Adam()
    optimizer.build(latent.variables_to_train)
    state = tf.train.Checkpoint(
        model=model,
        optimizer=optimizer,
        latent=latent,
        step=tf.Variable(0, dtype=tf.int64),
        best=tf.Variable(-1.0, dtype=tf.float64),
        best_loss=tf.Variable(np.inf, dtype=tf.float64),
    )
    folder = Path(options.train_dir) / "resume"
    delete_unfinished(folder)
    try:
        manager = tf.train.CheckpointManager(state, str(folder), max_to_keep=1)
        if manager.latest_checkpoint:
            state.restore(manager.latest_checkpoint).assert_existing_objects_matched()
            step, total = int(state.step.read_value()), options.total_steps
            echoing = options.echo_factor > 1 and step < total
            remade = ", once the clips to be echoed are made again" if echoing else ""
            print(f"resuming after step {step:,} of {total:,}{remade}", flush=True)
    except (tf.errors.OpError, ValueError, IndexError, AssertionError) as error:
        raise UserError(
            f"{folder} is damaged or of another version; delete {options.train_dir} to start over ({error})"
        ) from None
    return state, manager
