"""The training loop that train.py and optimisations.py share: resumable, seeded, from labels or a teacher."""

import argparse
import fcntl
import functools
import hashlib
import itertools
import json
import math
import os
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager, nullcontext
from datetime import timedelta
from pathlib import Path

import numpy as np

import input_data
from models import (
    checkpoint_files,
    delete_unfinished,
    keras_scores,
    load_checkpoint,
    read_settings,
    refuse_wildcards,
    writing,
)
from settings import UNKNOWN_INDEX, Settings, UserError, bounded, number_list, show, write_text

TEMPERATURE = 4.0
STEPS_AT_ONCE = 20  # steps of one call into TensorFlow
FEW_TO_LEARN_FROM, FEW_TO_VALIDATE_ON = 100, 20  # clips of a word
HISTORY_NAME = "history.csv"
HISTORY_COLUMNS = "step", "learning_rate", "loss", "training_accuracy", "validation_accuracy"
ROOT = Path(__file__).resolve().parent


def add_arguments(parser, steps: str, rates: str, train_dir: str):
    """Add the training flags, and return their group; the defaults that differ between scripts are given."""
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
        "--learning_rate_schedule",
        choices=("constant", "cosine"),
        default="constant",
        help="constant: each rate holds for its steps; cosine: each falls to 0 over its steps",
    )
    group.add_argument(
        "--optimizer",
        choices=("adam", "muon"),
        default="adam",
        help="muon learns the kernels of fully connected hidden layers in fewer steps",
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
        help="fixes initial weights, order of clips and their variation",
    )
    group.add_argument(
        "--echo_factor",
        type=bounded(int, 1),
        default=1,
        metavar="N",
        help="times that augmented clips are used before fresh ones are made (data echoing)",
    )
    group.add_argument(
        "--teacher",
        metavar="PATH",
        help="checkpoint of a model with the same labels; its scores are learnt instead of the labels "
        "(knowledge distillation)",
    )
    group.add_argument(
        "--temperature",
        type=bounded(float, 0.01),
        metavar="T",
        help="of the softmax in which the scores of --teacher are learnt; 4 if not given",
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
    return group


def check_arguments(args):
    """Raise UserError where flags do not fit each other."""
    if args.temperature and not args.teacher:
        raise UserError("--temperature is for learning from a --teacher, which is not given")
    if len(args.how_many_training_steps) != len(args.learning_rate):
        raise UserError(
            f"--how_many_training_steps has {len(args.how_many_training_steps)} parts and "
            f"--learning_rate {len(args.learning_rate)}; one rate is needed for each number of steps"
        )


def new_strategy(kind: str):
    """The tf.distribute strategy that --distribute names.

    Raises UserError for multi_worker without the TF_CONFIG that says who the workers are.
    """
    from backend import tf

    if kind == "mirrored":
        return tf.distribute.MirroredStrategy()
    if kind == "multi_worker":
        if not os.environ.get("TF_CONFIG"):
            raise UserError(
                "--distribute multi_worker needs the environment variable TF_CONFIG: the addresses of all "
                "workers, and which of them this one is, as TensorFlow documents it"
            )
        return tf.distribute.MultiWorkerMirroredStrategy()
    return tf.distribute.get_strategy()


def worker(strategy) -> tuple[int, int]:
    """The number of this worker of `strategy`, and of all its workers; worker 0 writes the files."""
    resolver = strategy.cluster_resolver
    workers = resolver.cluster_spec().as_dict() if resolver else {}
    names = [(kind, number) for kind in ("chief", "worker") for number in range(len(workers.get(kind, ())))]
    return (names.index((resolver.task_type, resolver.task_id)), len(names)) if names else (0, 1)


def fit(
    model,
    data: input_data.Data,
    settings: Settings,
    args,
    start: str,
    save: Callable[[str], None],
    straight_through=None,
) -> None:
    """Train `model` as the flags of `add_arguments` say; go on where an interrupted run stopped.

    After each `eval_step_interval` steps and at the end, the model is validated; `save(name)` is called
    whenever it is the best so far, with a name that tells accuracy and step. `start` says what the weights
    were at the start. `straight_through`, a StraightThrough of the model, keeps its weights to some values.
    For a model built under a tf.distribute strategy each worker makes its share of every batch, and worker 0
    does all else. An interrupted run ends as an unbroken one does, except for what dropout leaves out. Raises
    UserError where `train_dir` holds a run with other flags or one that is going on, or where
    training diverges.
    """
    from backend import tf
    from straight_through import StraightThrough

    strategy = model.distribute_strategy
    number, workers = worker(strategy)
    replicas = strategy.num_replicas_in_sync
    if args.batch_size % replicas:
        raise UserError(f"--batch_size {args.batch_size} cannot be shared evenly by {replicas} replicas")
    averaged = [v for v in model.weights if v.synchronization == tf.VariableSynchronization.ON_READ]
    if averaged and workers > 1:  # reading them on one worker alone would wait for the others
        raise UserError("batch normalisation works with --distribute none or mirrored only")
    with _claimed_folder(args, settings, data, start) if number == 0 else nullcontext():
        with strategy.scope():
            weights = straight_through or StraightThrough(model, {})
            state, manager = _restored_state(model, weights, args)
        train = _compiled_steps(model, weights, state.optimizer, args)
        validate = _validation(model, data, settings) if number == 0 else None
        augmentation = input_data.Augmentation.from_arguments(args, settings, data.noise)
        steps = range(int(state.step.read_value()), sum(args.how_many_training_steps))
        batches = input_data.training_batches(
            *(data, augmentation, settings, args.batch_size, args.seed, steps),
            echo=args.echo_factor,
            share=slice(number, None, workers),
            teacher=_teacher(args, settings) if args.teacher else None,
        )
        rates = learning_rates(args)
        for end in _evaluation_steps(steps, args.eval_step_interval):
            began, first = time.perf_counter(), int(state.step.read_value())
            loss, accuracy = _train_until(end, first, batches, train, rates, args.batch_size)
            pace = (end - first) / (time.perf_counter() - began)
            state.step.assign(end)
            if validate:
                validated = validate()
                with writing(args.train_dir):
                    if validated > float(state.best.read_value()):
                        save(f"{settings.model_architecture}_{10000 * validated:04.0f}.ckpt-{end}")
                        state.best.assign(validated)
                    _write_history(args.train_dir, end, float(rates[end - 1]), loss, accuracy, validated)
                    manager.save(end)
                _log(args, state, loss, accuracy, validated, pace)


def _teacher(args, settings):
    """The model of --teacher; UserError where it hears other audio, or tells other labels apart.

    One without settings is taken to have the student's.
    """
    of_student = argparse.Namespace(**vars(settings))
    carries_settings = read_settings(args.teacher) is not None
    model, its_settings = load_checkpoint(
        args.teacher, argparse.Namespace() if carries_settings else of_student
    )
    percentages = "validation_percentage", "testing_percentage"  # it must not have learnt what we test on
    for name in ("sample_rate", "clip_duration_ms", "wanted_words", *percentages):
        ours, theirs = getattr(settings, name), getattr(its_settings, name)
        if ours != theirs:
            raise UserError(f"--teacher {args.teacher} has --{name} {show(theirs)}, the student {show(ours)}")
    return input_data.Teacher(keras_scores(model), its_settings)


def _validation(model, data, settings):
    """A function that gives the accuracy of `model` on the validation partition, as it is when called."""
    features, labels = input_data.features(data.validation, settings), data.validation.label
    scores = keras_scores(model)
    return lambda: float((scores(features).argmax(1) == labels).mean())


def read_history(train_dir) -> np.ndarray:
    """What HISTORY_COLUMNS names, after each validation of the run in `train_dir`: float [validations, 5]."""
    file = Path(train_dir) / HISTORY_NAME
    if not file.exists():
        return np.zeros((0, len(HISTORY_COLUMNS)))
    try:
        return np.loadtxt(file, delimiter=",", skiprows=1, ndmin=2).reshape(-1, len(HISTORY_COLUMNS))
    except ValueError:
        raise UserError(f"{file} is damaged; delete it to go without it") from None


def _write_history(train_dir, *row):
    """Add a row to the history; rows of steps that an interrupted run took in vain go."""
    known = read_history(train_dir)
    rows = [*known[known[:, 0] < row[0]].tolist(), row]
    lines = [",".join(HISTORY_COLUMNS), *(",".join(f"{value:.7g}" for value in row) for row in rows)]
    write_text(Path(train_dir) / HISTORY_NAME, "\n".join(lines) + "\n")


def _log(args, state, loss, accuracy, validated, pace):
    """One line on the terminal, and the same for TensorBoard."""
    from backend import tf

    step, total = int(state.step.read_value()), sum(args.how_many_training_steps)
    rate = float(state.optimizer.learning_rate.read_value())
    print(
        f"step {step:,} of {total:,}: rate {rate:g}, loss {loss:.3f}, "
        f"training accuracy {100 * accuracy:.1f} %, validation accuracy {100 * validated:.2f} %; "
        f"{pace:.0f} steps/s, {timedelta(seconds=round((total - step) / pace))} left",
        flush=True,
    )
    summaries = args.summaries_dir or str(Path(args.train_dir) / "summaries")
    with writing(summaries), _summary_writer(summaries).as_default(step):
        tf.summary.scalar("loss", loss)
        tf.summary.scalar("accuracy/training", accuracy)
        tf.summary.scalar("accuracy/validation", validated)
        tf.summary.scalar("learning_rate", rate)
        tf.summary.flush()


@functools.lru_cache
def _summary_writer(folder):
    from backend import tf

    return tf.summary.create_file_writer(folder)


def check_clips(data, settings, args):
    """Raise UserError where there is a word without clips to learn from, or nothing to validate on."""
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
    _warn_of_few_clips(data, settings)
    if not len(data.validation):
        raise UserError(
            f"no clips for validation in {args.data_dir}: more recordings (of more speakers) are needed, "
            "or a larger --validation_percentage"
        )


def _warn_of_few_clips(data, settings):
    counts = [
        np.bincount(clips.label, minlength=len(settings.labels)) for clips in (data.training, data.validation)
    ]
    few = [
        f"{word} {learnt}, {validated}"
        for word, learnt, validated in list(zip(settings.labels, *counts, strict=True))[UNKNOWN_INDEX + 1 :]
        if learnt < FEW_TO_LEARN_FROM or validated < FEW_TO_VALIDATE_ON
    ]
    if few:
        print(
            f"few clips to learn from, to validate on: {'; '.join(few)} (fewer than {FEW_TO_LEARN_FROM}, "
            f"{FEW_TO_VALIDATE_ON}): the model and its accuracy will be rough"
        )


@contextmanager
def _claimed_folder(args, settings, data, start):
    """Hold `train_dir` for this run; UserError where it belongs to another one."""
    flags = (
        *("how_many_training_steps", "learning_rate", "eval_step_interval", "batch_size", "seed"),
        "echo_factor",
        *("learning_rate_schedule", "optimizer", "temperature"),
        *("background_volume", "background_frequency", "time_shift_ms"),
        *("speed_change", "volume_change_db", "silence_volume"),
        *("silence_percentage", "unknown_percentage", "training_unknown_percentage"),
    )
    ours = {f"--{name}": _as_given(getattr(args, name)) for name in flags}
    ours |= {f"--{name}": show(getattr(settings, name)) for name in vars(settings)}
    ours |= {"--data_dir": str(Path(args.data_dir).resolve()), "starting weights": start}
    ours |= {"--teacher": fingerprint(checkpoint_files(args.teacher)) if args.teacher else "none"}
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
            (folder / HISTORY_NAME).unlink(missing_ok=True)
        try:
            yield
        except KeyboardInterrupt:
            print("\nthe same command goes on after the last validation", file=sys.stderr)
            raise


def _as_given(value):
    if value is None:
        return "not given"
    return ",".join(map(show, value)) if isinstance(value, (list, tuple)) else show(value)


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


def _restored_state(model, weights, args):
    """What a run needs to go on, as a tf.train.Checkpoint, and its manager; restored where there is one."""
    from backend import keras, tf

    if args.optimizer == "muon":
        from muon import Muon

        optimizer = Muon()
    else:
        optimizer = keras.optimizers.Adam()
    optimizer.build(weights.free)
    state = tf.train.Checkpoint(
        model=model,
        optimizer=optimizer,
        weights=weights,
        step=tf.Variable(0, dtype=tf.int64),
        best=tf.Variable(-1.0, dtype=tf.float64),
    )
    folder = Path(args.train_dir) / "resume"
    delete_unfinished(folder)
    try:
        manager = tf.train.CheckpointManager(state, str(folder), max_to_keep=1)
        if manager.latest_checkpoint:
            state.restore(manager.latest_checkpoint).assert_existing_objects_matched()
            total = sum(args.how_many_training_steps)
            step = int(state.step.read_value())
            reused = (
                ", once the clips to be used again are made" if args.echo_factor > 1 and step < total else ""
            )
            print(f"going on after step {step:,} of {total:,}{reused}", flush=True)
    except (tf.errors.OpError, ValueError, IndexError, AssertionError) as error:
        raise UserError(
            f"{folder} is damaged or of another version; delete {args.train_dir} to train anew ({error})"
        ) from None
    return state, manager


def learning_rates(args) -> np.ndarray:
    """The learning rate of each step, float32 [steps]."""
    parts = []
    for steps, rate in zip(args.how_many_training_steps, args.learning_rate, strict=True):
        falling = 0.5 * (1 + np.cos(np.pi * np.arange(steps) / steps))
        parts.append(rate * (falling if args.learning_rate_schedule == "cosine" else np.ones(steps)))
    return np.concatenate(parts).astype(np.float32)


def _compiled_steps(model, weights, optimizer, args):
    """A function of this worker's part of some batches: features [steps, rows, feature_count], labels
    [steps, rows], and where there is a teacher its scores [steps, rows, labels]. It trains on one batch after
    the other, and gives the sums of the loss and of the clips heard correctly.

    A teacher's scores are learnt as in Hinton et al., arXiv:1503.02531, at a temperature.
    """
    from backend import keras, tf

    temperature = args.temperature or TEMPERATURE
    logits_of = keras.Model(model.input, model.layers[-1].input)  # all but the softmax
    strategy = model.distribute_strategy
    replicas = strategy.num_replicas_in_sync // worker(strategy)[1]  # of this worker

    def replica_step(*batch):
        replica = tf.distribute.get_replica_context().replica_id_in_sync_group % replicas
        features, labels, *taught = (part[replica::replicas] for part in batch)
        with tf.GradientTape() as tape:
            logits = logits_of(features, training=True)
            if taught:
                softened = tf.nn.softmax(tf.math.log(tf.maximum(taught[0], 1e-7)) / temperature)
                losses = tf.nn.softmax_cross_entropy_with_logits(softened, logits / temperature)
                losses *= temperature**2
            else:
                losses = tf.nn.sparse_softmax_cross_entropy_with_logits(labels, logits)
            loss = tf.reduce_sum(losses) / args.batch_size  # gradients are summed over the replicas
        gradients = tape.gradient(loss, model.trainable_variables)
        optimizer.apply_gradients(zip(gradients, weights.free, strict=True))
        weights.apply()
        heard = tf.argmax(logits, 1, output_type=labels.dtype)
        return loss, tf.reduce_sum(tf.cast(heard == labels, tf.float32))

    @tf.function(reduce_retracing=True)
    def train(rates, *batches):
        sums = 0.0, 0.0
        for i in tf.range(tf.shape(rates)[0]):
            optimizer.learning_rate.assign(rates[i])
            of_step = strategy.run(replica_step, [part[i] for part in batches])
            added = [strategy.reduce(tf.distribute.ReduceOp.SUM, value, axis=None) for value in of_step]
            sums = sums[0] + added[0], sums[1] + added[1]
        return sums

    return train


def _evaluation_steps(steps, interval):
    """The steps after which to validate: every multiple of `interval`, and the last."""
    first = (steps.start // interval + 1) * interval
    return [*range(first, steps.stop, interval), steps.stop] if len(steps) else []


def _train_until(end, step, batches, train, rates, batch_size):
    """Take the steps up to `end`; mean loss and accuracy over them."""
    count, loss_sum, correct = end - step, 0.0, 0
    while step < end:
        taken = list(itertools.islice(batches, min(STEPS_AT_ONCE, end - step)))
        loss, right = train(rates[step : step + len(taken)], *map(np.stack, zip(*taken, strict=True)))
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
