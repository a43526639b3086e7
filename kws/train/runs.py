"""A training run: its options, what makes it the same run, its folder, and what is logged there."""

import argparse
import contextlib
import dataclasses
import functools
import json
import math
import re
import sys
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import numpy as np

from kws.base.errors import UserError, as_interrupt
from kws.base.files import fingerprint, lock, write_text
from kws.base.flags import StoreTuple, bounded, flag_adder, number_list, options_from
from kws.base.quiet_tf import tf
from kws.base.settings import DATA_FIELDS, FIELDS, Settings
from kws.base.text import show
from kws.data.augmentation import Augmentation
from kws.data.dataset import Data, DataOptions
from kws.model import speech_embedding
from kws.model.checkpoints import checkpoint_files, refuse_wildcards, writing
from kws.train.trainee import Trainee

WORK_FOLDER = Path(__file__).resolve().parents[2] / "work"
HISTORY_NAME = "history.csv"
HISTORY_COLUMNS = (
    *("step", "learning_rate", "loss", "training_accuracy"),
    *("validation_accuracy", "validation_loss", "validation_miss_rate"),
)
STEPS, RATES = "--how_many_training_steps", "--learning_rate"
# Places of files and results are no part of a run's identity.
PLACES = "train_dir", "summaries_dir", "teacher", "data_dir", "data_url", "start_checkpoint"
# Values of a flag that do what a version without the flag does.
WITHOUT_EFFECT = "not given", "0", "False"


# ---- options ----


@dataclass(frozen=True)
class TrainingOptions:
    """How a model is trained: the flags of `add_arguments`.

    Raises UserError if they do not fit each other.
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
    summaries_dir: str | None = None
    ambient: tuple[str, ...] = ()
    false_alarms_per_hour: float = 5

    def __post_init__(self):
        steps, rates = len(self.how_many_training_steps), len(self.learning_rate)
        if steps != rates:
            raise UserError(f"{STEPS} has {steps} parts and {RATES} {rates}: one rate is needed for each")

    @property
    def total_steps(self) -> int:
        return sum(self.how_many_training_steps)

    def learning_rates(self) -> np.ndarray:
        """Return the learning rate of each step, float32 [total_steps]."""
        parts = []
        for steps, rate in zip(self.how_many_training_steps, self.learning_rate, strict=True):
            falling = 0.5 * (1 + np.cos(np.pi * np.arange(steps) / steps))  # arXiv:1608.03983, no restarts
            # [steps]: from the rate to almost 0, or the rate throughout
            parts.append(rate * (falling if self.learning_rate_schedule == "cosine" else np.ones(steps)))
        return np.concatenate(parts).astype(np.float32)


@dataclass(frozen=True)
class RunOptions:
    """The options of a training run: how it learns, from what data, and how clips are varied."""

    training: TrainingOptions
    data: DataOptions
    variation: Augmentation

    @staticmethod
    def from_arguments(namespace: argparse.Namespace) -> "RunOptions":
        classes = TrainingOptions, DataOptions, Augmentation
        return RunOptions(*(options_from(options_class, namespace) for options_class in classes))


def add_arguments(parser, steps: str, rates: str, train_dir: str):
    """Add the flags of TrainingOptions, and return their group; the scripts differ in some defaults."""
    group = parser.add_argument_group("training")
    add = flag_adder(group, TrainingOptions)
    integers, floats, count = number_list(int), number_list(float), bounded(int, 1)
    add("how_many_training_steps", "steps at each learning rate", type=integers, metavar="N,N,...")
    add("learning_rate", "learning rates, one after the other", type=floats, metavar="R,R,...")
    schedules = "constant: each rate holds for its steps; cosine: each falls to 0 over its steps"
    add("learning_rate_schedule", schedules, choices=("constant", "cosine"))
    muon = "muon learns the kernels of hidden layers in fewer steps"
    add("optimizer", muon, choices=("adam", "muon"))
    add("batch_size", "clips per step", type=count, metavar="N")
    echo = "times that augmented clips are used before fresh ones are made (data echoing)"
    add("echo_factor", echo, type=count, metavar="N")
    seed = "fixes initial weights, order of clips and their variation"
    # 32 bits: numpy's old generator, which Keras seeds too, takes no more
    add("seed", seed, type=bounded(int, 0, 2**32 - 1), metavar="N")
    teacher = "checkpoint of a model with the same labels; its scores are learnt instead of the labels"
    embedding = f"or {speech_embedding.NAME}, to pretrain a stream_cnn on Google's"
    add("teacher", f"{teacher} (knowledge distillation); {embedding}", metavar="PATH")
    interval = "steps between validations; an interruption loses no more than these"
    add("eval_step_interval", interval, type=count, metavar="N")
    add(
        "ambient",
        "validate on an open microphone too: folders of recordings without the words, other ones than those "
        "of --negatives_dir. The checkpoint with the best mean of clip accuracy and words detected is kept",
        nargs="*",
        action=StoreTuple,
        metavar="DIR",
    )
    alarms = "false alarms an hour in --ambient at which words are to be detected; half and twice as many too"
    add("false_alarms_per_hour", alarms, type=bounded(float, 0.01), metavar="N")
    add("train_dir", "where checkpoints and exported models go", metavar="DIR")
    summaries = "where summaries for TensorBoard go; TRAIN_DIR/summaries if not given"
    add("summaries_dir", summaries, metavar="DIR")
    parser.set_defaults(how_many_training_steps=integers(steps), learning_rate=floats(rates))
    parser.set_defaults(train_dir=str(WORK_FOLDER / train_dir))
    return group


# ---- the same run ----


def run_identity(trainee: Trainee, data: Data, settings: Settings, options: RunOptions) -> dict[str, str]:
    """Return what must be the same for a run to be resumed: {flag or name: value}.

    All fields of all options are part of it but PLACES.
    """
    # all options as flags, whatever is added to them later
    values = {}
    for group in (options.training, options.data, options.variation, settings, *trainee.made_by):
        values |= {field.name: getattr(group, field.name) for field in dataclasses.fields(group)}
    identity = {
        f"--{name}": "not given" if value is None else show(value)
        for name, value in values.items()
        if name not in PLACES
    }
    # files by their contents, data by its size
    teacher, windows = options.training.teacher, data.negatives.windows if data.negatives else 0
    if teacher not in (None, speech_embedding.NAME):
        teacher = fingerprint(checkpoint_files(teacher))
    return identity | {
        "--data_dir": str(Path(options.data.data_dir).resolve()),
        "--teacher": teacher or "none",
        "starting weights": trainee.start,
        "number of training clips": str(len(data.training)),
        "number of windows of negatives": str(windows) if windows else "not given",
    }


@contextlib.contextmanager
def claimed_folder(train_dir, identity: dict[str, str]):
    """Hold `train_dir` for the run of this identity.

    A run is the same with more steps, and with learning rates that begin like those before or are their
    beginning: it continues. Raises UserError if the folder holds another run, a running one, or one that has
    taken more steps than it now has.
    """
    folder, note = Path(train_dir), Path(train_dir) / "run.json"
    refuse_wildcards(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(lock(folder / "lock"))
        except BlockingIOError:
            # the system unlocks the file of a process that was killed
            what_to_do = "wait for its end, or give another --train_dir"
            raise UserError(f"another run is training in {folder}: {what_to_do}") from None
        # without a state to resume from, what is logged is of a run that failed at once
        if (folder / "resume" / "checkpoint").exists():
            _check_same_run(identity, note)
        else:
            (folder / HISTORY_NAME).unlink(missing_ok=True)
        # the flags of now: the run may go on with more steps or other rates than before
        write_text(note, json.dumps(identity, indent=1))
        try:
            with as_interrupt():
                yield
        except KeyboardInterrupt:
            print("\nrun the same command to resume after the last validation", file=sys.stderr)
            raise


def _check_same_run(identity, note):
    try:
        theirs = dict(json.loads(note.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        raise UserError(f"{note} is damaged; delete {note.parent} to start over") from None
    # flags that either version lacks count too
    for name in theirs | identity:
        known, value = theirs.get(name), identity.get(name)
        if not (name == STEPS or _agree(known, value) or name == RATES and _continues(theirs, value)):
            raise UserError(_how_to_go_on(note.parent, name, known or "not given", value or "not given"))
    # the same run; fewer steps than were taken cannot be undone
    done, total = _steps_done(note.parent), sum(map(int, identity[STEPS].split()))
    if done > total:
        raise UserError(
            f"{note.parent} holds a run that has taken {done:,} steps, more than the {total:,} of {STEPS}: "
            "give at least as many, or another --train_dir"
        )
    # a cosine falls over all steps of a part, so more steps change the rates from here on
    if theirs.get(STEPS) != identity[STEPS] and done < total:
        cosine = " (a cosine over the new steps)" if identity["--learning_rate_schedule"] == "cosine" else ""
        before, now = (",".join(group[STEPS].split()) for group in (theirs, identity))
        print(
            f"{note.parent} had {STEPS} {before}: it continues with {now}; the learning rate from step "
            f"{done + 1:,} on follows the new schedule{cosine}",
            flush=True,
        )


def _agree(known, value):
    """Return whether two values of a flag are the same; None if a version has no such flag."""
    if known is None or value is None:
        return (known or value) in WITHOUT_EFFECT
    return known == value


def _continues(theirs, rates):
    """Return whether one list of learning rates, of the earlier run `theirs` or `rates`, begins the other."""
    # as text, since `show` writes equal numbers alike
    ours, before = rates.split(","), theirs.get(RATES, "").split(",")
    return all(a == b for a, b in zip(ours, before, strict=False))


def _how_to_go_on(folder, name, known, value):
    """Say why a run with `name` `value` cannot resume the run in `folder`, and what to do."""
    setting, start = name.removeprefix("--"), ""
    if setting not in FIELDS or setting in DATA_FIELDS:
        # the network is the same, so its weights can be kept
        start = f", with train.py's --start_checkpoint {folder / 'best'} to start from its weights"
    what_to_do = f"give another --train_dir{start}, or delete {folder}"
    return f"{folder} holds a run with {name} {known}, not {value}: {what_to_do}"


def _steps_done(folder) -> int:
    """Return the steps after which the run in `folder` can be resumed, from the name of its state."""
    note = (folder / "resume" / "checkpoint").read_text(errors="replace")
    named = re.search(r'^model_checkpoint_path: ".*-(\d+)"', note, re.M)
    return int(named[1]) if named else 0  # restoring will say what is wrong


# ---- what is logged ----


def read_history(train_dir) -> np.ndarray:
    """Read HISTORY_COLUMNS after each validation of the run in `train_dir`, float [validations, 7]."""
    file = Path(train_dir) / HISTORY_NAME
    if not file.exists():
        return np.zeros((0, len(HISTORY_COLUMNS)))
    try:
        # the first line has the names of the columns
        return np.loadtxt(file, delimiter=",", skiprows=1, ndmin=2).reshape(-1, len(HISTORY_COLUMNS))
    except ValueError:
        raise UserError(f"{file} is damaged; delete it to continue without it") from None


def write_history(train_dir, row):
    """Add a row to the history, in place of rows from its step on.

    An interrupted run may have written those before it could save its state.
    """
    known = read_history(train_dir)
    # seven digits: float32 has no more
    rows = [*known[known[:, 0] < row[0]].tolist(), row]
    lines = [",".join(HISTORY_COLUMNS), *(",".join(f"{value:.7g}" for value in row) for row in rows)]
    write_text(Path(train_dir) / HISTORY_NAME, "\n".join(lines) + "\n")


def log_progress(options: TrainingOptions, row, pace: float):
    """Print one line, and write the same for TensorBoard; `row` as HISTORY_COLUMNS, `pace` in steps/s."""
    step, rate, loss, accuracy, validated, validation_loss, miss_rate = row
    total, alarms = options.total_steps, options.false_alarms_per_hour
    # not a number without --ambient
    measure = "explained variance" if options.teacher == speech_embedding.NAME else "accuracy"
    missed = "" if math.isnan(miss_rate) else f", {100 * miss_rate:.1f} % misses at {alarms:g} false alarms/h"
    print(
        f"step {step:,} of {total:,}: rate {rate:g}, loss {loss:.3f}, "
        f"training {measure} {100 * accuracy:.1f} %, validation {measure} {100 * validated:.2f} %{missed}; "
        f"{pace:.0f} steps/s, {timedelta(seconds=round((total - step) / pace))} left",
        flush=True,
    )
    summaries = options.summaries_dir or str(Path(options.train_dir) / "summaries")
    # a slash in a name makes a folder of curves in TensorBoard
    with writing(summaries), _summary_writer(summaries).as_default(step):
        tf.summary.scalar("loss", loss)
        tf.summary.scalar("loss/validation", validation_loss)
        tf.summary.scalar("accuracy/training", accuracy)
        tf.summary.scalar("accuracy/validation", validated)
        if missed:
            tf.summary.scalar("misses/validation", miss_rate)
        tf.summary.scalar("learning_rate", rate)
        # so that curves can be watched, and survive an interruption
        tf.summary.flush()


@functools.lru_cache
def _summary_writer(folder):
    return tf.summary.create_file_writer(folder)
