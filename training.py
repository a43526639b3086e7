"""The training loop that train.py and optimisations.py share: resumable, seeded, with piecewise-constant
rates.
"""

import fcntl
import hashlib
import json
import math
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager
from datetime import timedelta
from itertools import accumulate
from pathlib import Path

import numpy as np

import input_data
from models import keras_scores, refuse_wildcards, writing
from settings import UNKNOWN_INDEX, Settings, UserError, bounded, number_list, show, write_text

STEPS_AT_ONCE = 20  # steps of one call into TensorFlow
ROOT = Path(__file__).resolve().parent


def add_arguments(parser, steps: str, rates: str, train_dir: str):
    """Add the training flags; the defaults that differ from script to script are given."""
    group = parser.add_argument_group("training")
    group.add_argument(
        "--how_many_training_steps",
        type=number_list(int),
        default=number_list(int)(steps),
        metavar="N,N,...",
        help="steps at each learning rate",
    )
    group.add_argument(
        "--learning_rate",
        type=number_list(float),
        default=number_list(float)(rates),
        metavar="R,R,...",
        help="learning rates, one after the other",
    )
    group.add_argument(
        "--eval_step_interval",
        type=bounded(int, 1),
        default=400,
        metavar="N",
        help="steps between validations; an interruption loses no more than these",
    )
    group.add_argument("--batch_size", type=bounded(int, 1), default=100, metavar="N", help="clips per step")
    group.add_argument(
        "--seed",
        type=bounded(int, 0, 2**32 - 1),
        default=0,
        metavar="N",
        help="fixes initial weights, order of clips, shifts and noise",
    )
    group.add_argument(
        "--train_dir",
        default=str(ROOT / "work" / train_dir),
        metavar="DIR",
        help="where checkpoints and exported models go",
    )
    group.add_argument(
        "--summaries_dir",
        metavar="DIR",
        help="where summaries for TensorBoard go; TRAIN_DIR/summaries if not given",
    )


def check_schedule(args):
    """Raise UserError where there is not one learning rate for each number of steps."""
    if len(args.how_many_training_steps) != len(args.learning_rate):
        raise UserError(
            f"--how_many_training_steps has {len(args.how_many_training_steps)} parts and "
            f"--learning_rate {len(args.learning_rate)}; one rate is needed for each number of steps"
        )


def fit(
    model, data: input_data.Data, settings: Settings, args, start: str, save: Callable[[str], None]
) -> None:
    """Train `model` as the flags of `add_arguments` say; go on where an interrupted run stopped.

    After each `eval_step_interval` steps and at the end, the model is validated; `save(name)` is called
    whenever it is the best so far, with a name that tells accuracy and step. `start` says what the weights
    were at the start. Raises UserError where `train_dir` holds a run with other flags or one that is going
    on, where a word has no clips to learn from, or where training diverges.
    """
    from backend import tf

    _check_clips(data, settings, args)
    total = sum(args.how_many_training_steps)
    summaries = args.summaries_dir or str(Path(args.train_dir) / "summaries")
    with _claimed_folder(args, settings, data, start):
        state, manager = _restored_state(model, args)
        train = _compiled_steps(model, state.optimizer)
        scores = keras_scores(tf.function(model, reduce_retracing=True))
        validation = input_data.features(data.validation, settings)
        augmentation = input_data.Augmentation.from_arguments(args, settings, data.noise)
        steps = range(int(state.step), total)
        batches = input_data.training_batches(data, augmentation, settings, args.batch_size, args.seed, steps)
        with writing(summaries):
            writer = tf.summary.create_file_writer(summaries)
        for end in _evaluation_steps(steps, args.eval_step_interval):
            began, first = time.perf_counter(), int(state.step)
            loss, accuracy = _train_until(end, first, batches, train, args.batch_size)
            pace = (end - first) / (time.perf_counter() - began)
            validated = float((scores(validation).argmax(1) == data.validation.label).mean())
            with writing(args.train_dir):
                if validated > float(state.best):
                    save(f"{settings.model_architecture}_{10000 * validated:04.0f}.ckpt-{end}")
                    state.best.assign(validated)
                state.step.assign(end)
                manager.save(end)
            rate = float(state.optimizer.learning_rate)
            left = timedelta(seconds=round((total - end) / pace))
            print(
                f"step {end:,} of {total:,}: rate {rate:g}, loss {loss:.3f}, "
                f"training accuracy {100 * accuracy:.1f} %, validation accuracy {100 * validated:.2f} % "
                f"(N = {len(validation):,}); {pace:.0f} steps/s, {left} left",
                flush=True,
            )
            with writing(summaries), writer.as_default(end):
                tf.summary.scalar("loss", loss)
                tf.summary.scalar("accuracy/training", accuracy)
                tf.summary.scalar("accuracy/validation", validated)
                tf.summary.scalar("learning_rate", rate)
                writer.flush()


def _check_clips(data, settings, args):
    for word, label in zip(
        settings.wanted_words, range(UNKNOWN_INDEX + 1, len(settings.labels)), strict=True
    ):
        if not np.any(data.training.label == label):
            raise UserError(
                f"no clips of {word} to learn from in {args.data_dir}: all are of speakers for validation "
                "and testing; more speakers are needed, or smaller percentages"
            )
        if not np.any(data.validation.label == label):
            print(f"no clips of {word} for validation: how well it is told apart stays unknown")
    if not len(data.validation):
        raise UserError(
            f"no clips for validation in {args.data_dir}: more recordings (of more speakers) are needed, "
            "or a larger --validation_percentage"
        )


@contextmanager
def _claimed_folder(args, settings, data, start):
    """Hold `train_dir` for this run; UserError where it belongs to another one."""
    flags = (
        *("how_many_training_steps", "learning_rate", "eval_step_interval", "batch_size", "seed"),
        *("background_volume", "background_frequency", "time_shift_ms"),
        *("silence_percentage", "unknown_percentage"),
    )
    ours = {f"--{name}": json.dumps(getattr(args, name), separators=(",", "")).strip("[]") for name in flags}
    ours |= {f"--{name}": show(getattr(settings, name)) for name in vars(settings)}
    ours |= {"--data_dir": str(Path(args.data_dir).resolve()), "starting weights": start}
    ours |= {"number of training clips": str(len(data.training))}
    folder, note = Path(args.train_dir), Path(args.train_dir) / "run.json"
    refuse_wildcards(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / "lock", "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(f"another run is training in {folder}: give another --train_dir") from None
        if (folder / "resume" / "checkpoint").exists():
            _check_same_run(ours, note)
        else:
            write_text(note, json.dumps(ours, indent=1))
        try:
            yield
        except KeyboardInterrupt:
            print("\nthe same command goes on after the last validation", file=sys.stderr)
            raise


def _check_same_run(ours, note):
    try:
        theirs = dict(json.loads(note.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        raise UserError(f"{note} is damaged; delete {note.parent} to train anew") from None
    for name, value in ours.items():
        if theirs.get(name) != value:
            raise UserError(
                f"{note.parent} holds a run with {name} {theirs.get(name)}, now it is {value}: give another "
                f"--train_dir, or delete {note.parent}"
            )


def _restored_state(model, args):
    """What a run needs to go on, as a tf.train.Checkpoint, and its manager; restored where there is one."""
    from backend import keras, tf

    last_steps = [step - 1 for step in accumulate(args.how_many_training_steps)]
    rates = [*args.learning_rate, args.learning_rate[-1]]  # one more than boundaries, as Keras wants it
    optimizer = keras.optimizers.Adam(keras.optimizers.schedules.PiecewiseConstantDecay(last_steps, rates))
    optimizer.build(model.trainable_variables)
    state = tf.train.Checkpoint(
        model=model,
        optimizer=optimizer,
        step=tf.Variable(0, dtype=tf.int64),
        best=tf.Variable(-1.0, dtype=tf.float64),
    )
    folder = Path(args.train_dir) / "resume"
    try:
        manager = tf.train.CheckpointManager(state, str(folder), max_to_keep=1)
        if manager.latest_checkpoint:
            state.restore(manager.latest_checkpoint).expect_partial()
            print(f"going on after step {int(state.step):,} of {sum(args.how_many_training_steps):,}")
    except (tf.errors.OpError, ValueError, IndexError) as error:
        raise UserError(f"{folder} is damaged; delete {args.train_dir} to train anew ({error})") from None
    return state, manager


def _compiled_steps(model, optimizer):
    """A function of features [steps, batch, feature_count] and labels [steps, batch] that trains on each."""
    from backend import keras, tf

    @tf.function(reduce_retracing=True)
    def train(features, labels):
        loss_sum, correct = 0.0, 0
        for i in tf.range(tf.shape(features)[0]):
            with tf.GradientTape() as tape:
                scores = model(features[i], training=True)
                loss = tf.reduce_mean(keras.losses.sparse_categorical_crossentropy(labels[i], scores))
            variables = model.trainable_variables
            gradients = tape.gradient(loss, variables)
            optimizer.apply_gradients(zip(gradients, variables, strict=True))
            loss_sum += loss
            heard = tf.argmax(scores, 1, output_type=labels.dtype)
            correct += tf.reduce_sum(tf.cast(heard == labels[i], tf.int32))
        return loss_sum, correct

    return train


def _evaluation_steps(steps, interval):
    """The steps after which to validate: every multiple of `interval`, and the last."""
    first = (steps.start // interval + 1) * interval
    return [*range(first, steps.stop, interval), steps.stop] if len(steps) else []


def _train_until(end, step, batches, train, batch_size):
    """Take the steps up to `end`; mean loss and accuracy over them."""
    count, loss_sum, correct = end - step, 0.0, 0
    while step < end:
        taken = [next(batches) for _ in range(min(STEPS_AT_ONCE, end - step))]
        loss, right = train(
            np.stack([features for features, _ in taken]), np.stack([label for _, label in taken])
        )
        loss_sum, correct, step = loss_sum + float(loss), correct + int(right), step + len(taken)
    if not math.isfinite(loss_sum):
        raise UserError(
            f"training diverged before step {end:,}: the loss is {loss_sum}; lower --learning_rate"
        )
    return loss_sum / count, correct / count / batch_size


def fingerprint(files) -> str:
    """A short digest of the contents of `files`."""
    digest = hashlib.sha256()
    for file in files:
        digest.update(Path(file).read_bytes())
    return digest.hexdigest()[:16]
