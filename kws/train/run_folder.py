"""The folder of a training run: whose it is, and what is logged in it."""

import contextlib
import dataclasses
import functools
import json
import math
import re
import sys
from datetime import timedelta
from pathlib import Path

import numpy as np

from kws.base.errors import UserError, as_interrupt
from kws.base.files import fingerprint, lock, write_text
from kws.base.quiet_tf import tf
from kws.base.settings import DATA_FIELDS, FIELDS
from kws.base.text import show
from kws.model.checkpoints import checkpoint_files, refuse_wildcards, writing

HISTORY_NAME = "history.csv"
HISTORY_COLUMNS = (
    *("step", "learning_rate", "loss", "training_accuracy"),
    *("validation_accuracy", "validation_loss", "validation_miss_rate"),
)
STEPS, RATES = "--how_many_training_steps", "--learning_rate"


def run_identity(options, variation, data_options, settings, data, start: str) -> dict[str, str]:
    """What must be the same for a run to be resumed, by flag; all but where files are, where results go.

    Whatever is added to the options is part of it.
    """
    elsewhere = "train_dir", "summaries_dir", "teacher", "data_dir", "data_url"
    values = {}
    for group in (options, variation, data_options, settings):
        values |= {field.name: getattr(group, field.name) for field in dataclasses.fields(group)}
    identity = {
        f"--{name}": "not given" if value is None else show(value)
        for name, value in values.items()
        if name not in elsewhere
    }
    windows = data.negatives.windows if data.negatives else 0
    return identity | {
        "--data_dir": str(Path(data_options.data_dir).resolve()),
        "--teacher": fingerprint(checkpoint_files(options.teacher)) if options.teacher else "none",
        "starting weights": start,
        "number of training clips": str(len(data.training)),
        "number of windows of negatives": str(windows) if windows else "not given",
    }


@contextlib.contextmanager
def claimed_folder(train_dir, identity: dict[str, str]):
    """Hold `train_dir` for the run of this identity; UserError where it belongs to another one.

    A run that has other steps, and learning rates that begin or end with them, is the same one, to be
    continued; UserError where it has more steps behind it than it is to have.
    """
    folder, note = Path(train_dir), Path(train_dir) / "run.json"
    refuse_wildcards(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(lock(folder / "lock"))
        except BlockingIOError:
            raise UserError(
                f"another run is training in {folder}: wait for its end, or give another --train_dir"
            ) from None
        if (folder / "resume" / "checkpoint").exists():
            _check_same_run(identity, note)
        else:
            (folder / HISTORY_NAME).unlink(missing_ok=True)
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
    for name, value in identity.items():
        known = theirs.get(name, "not given")  # as a flag that there was not yet
        if name == STEPS or known == value or name == RATES and _continues(theirs, value):
            continue
        raise UserError(_how_to_go_on(note.parent, name, theirs.get(name), value))
    done, total = _steps_done(note.parent), sum(map(int, identity[STEPS].split()))
    if done > total:
        raise UserError(
            f"{note.parent} holds a run that has taken {done:,} steps, more than the {total:,} of {STEPS}: "
            "give at least as many, or another --train_dir"
        )
    if theirs.get(STEPS) != identity[STEPS] and done < total:
        cosine = " (a cosine over the new steps)" if identity["--learning_rate_schedule"] == "cosine" else ""
        before, now = (",".join(group[STEPS].split()) for group in (theirs, identity))
        print(
            f"{note.parent} had {STEPS} {before}: it continues with {now}; the learning rate from step "
            f"{done + 1:,} on is that of the new schedule{cosine}",
            flush=True,
        )


def _continues(theirs, rates):
    """Whether learning rates are those of the earlier run `theirs`, or some of them left out or added."""
    ours, before = rates.split(","), theirs.get(RATES, "").split(",")
    return all(a == b for a, b in zip(ours, before, strict=False))


def _how_to_go_on(folder, name, theirs, value):
    """Why a run with `name` `value` cannot resume the run in `folder`, and what to do."""
    differs = f"{folder} holds a run with {name} {theirs}, not {value}"
    setting = name.removeprefix("--")
    if setting in FIELDS and setting not in DATA_FIELDS:  # the weights are of another network
        return f"{differs}: give another --train_dir, or delete {folder}"
    return (
        f"{differs}: give another --train_dir, with train.py's --start_checkpoint {folder / 'best'} to start "
        f"from its weights, or delete {folder}"
    )


def _steps_done(folder) -> int:
    """The steps after which the run in `folder` can be resumed, by the name of its state."""
    note = (folder / "resume" / "checkpoint").read_text(errors="replace")
    named = re.search(r'^model_checkpoint_path: ".*-(\d+)"', note, re.M)
    return int(named[1]) if named else 0  # restoring will say what is wrong


# ---- what is logged ----


def read_history(train_dir) -> np.ndarray:
    """What HISTORY_COLUMNS names, after each validation of the run in `train_dir`: float [validations, 7]."""
    file = Path(train_dir) / HISTORY_NAME
    if not file.exists():
        return np.zeros((0, len(HISTORY_COLUMNS)))
    try:
        return np.loadtxt(file, delimiter=",", skiprows=1, ndmin=2).reshape(-1, len(HISTORY_COLUMNS))
    except ValueError:
        raise UserError(f"{file} is damaged; delete it to continue without it") from None


def write_history(train_dir, row):
    """Add a row to the history, in place of rows from its step on: an interrupted run may have written them
    before it could save its state.
    """
    known = read_history(train_dir)
    rows = [*known[known[:, 0] < row[0]].tolist(), row]
    lines = [",".join(HISTORY_COLUMNS), *(",".join(f"{value:.7g}" for value in row) for row in rows)]
    write_text(Path(train_dir) / HISTORY_NAME, "\n".join(lines) + "\n")


def log_progress(options, row, pace):
    """One line on the terminal, and the same for TensorBoard; `row` as HISTORY_COLUMNS, `pace` in steps/s."""
    step, rate, loss, accuracy, validated, validation_loss, miss_rate = row
    total, alarms = options.total_steps, options.false_alarms_per_hour
    missed = "" if math.isnan(miss_rate) else f", {100 * miss_rate:.1f} % misses at {alarms:g} false alarms/h"
    print(
        f"step {step:,} of {total:,}: rate {rate:g}, loss {loss:.3f}, "
        f"training accuracy {100 * accuracy:.1f} %, validation accuracy {100 * validated:.2f} %{missed}; "
        f"{pace:.0f} steps/s, {timedelta(seconds=round((total - step) / pace))} left",
        flush=True,
    )
    summaries = options.summaries_dir or str(Path(options.train_dir) / "summaries")
    with writing(summaries), _summary_writer(summaries).as_default(step):
        tf.summary.scalar("loss", loss)
        tf.summary.scalar("loss/validation", validation_loss)
        tf.summary.scalar("accuracy/training", accuracy)
        tf.summary.scalar("accuracy/validation", validated)
        if missed:
            tf.summary.scalar("misses/validation", miss_rate)
        tf.summary.scalar("learning_rate", rate)
        tf.summary.flush()


@functools.lru_cache
def _summary_writer(folder):
    return tf.summary.create_file_writer(folder)
