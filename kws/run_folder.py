"""The folder of a training run: whose it is, and what is logged in it."""

import contextlib
import dataclasses
import functools
import json
import sys
from datetime import timedelta
from pathlib import Path

import numpy as np

from kws.checkpoints import checkpoint_files, refuse_wildcards, writing
from kws.cli import UserError, show
from kws.files import fingerprint, lock, write_text
from kws.quiet_tf import tf

HISTORY_NAME = "history.csv"
HISTORY_COLUMNS = "step", "learning_rate", "loss", "training_accuracy", "validation_accuracy"


def run_identity(options, variation, data_options, settings, clip_count: int, start: str) -> dict[str, str]:
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
    return identity | {
        "--data_dir": str(Path(data_options.data_dir).resolve()),
        "--teacher": fingerprint(checkpoint_files(options.teacher)) if options.teacher else "none",
        "starting weights": start,
        "number of training clips": str(clip_count),
    }


@contextlib.contextmanager
def claimed_folder(train_dir, identity: dict[str, str]):
    """Hold `train_dir` for the run of this identity; UserError where it belongs to another one."""
    folder, note = Path(train_dir), Path(train_dir) / "run.json"
    refuse_wildcards(folder)
    folder.mkdir(parents=True, exist_ok=True)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(lock(folder / "lock"))
        except BlockingIOError:
            raise UserError(f"another run is training in {folder}: give another --train_dir") from None
        if (folder / "resume" / "checkpoint").exists():
            _check_same_run(identity, note)
        else:
            write_text(note, json.dumps(identity, indent=1))
            (folder / HISTORY_NAME).unlink(missing_ok=True)
        try:
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
        if theirs.get(name) != value:
            raise UserError(
                f"{note.parent} holds a run with {name} {theirs.get(name)}, not {value}: give another "
                f"--train_dir, or delete {note.parent}"
            )


# ---- what is logged ----


def read_history(train_dir) -> np.ndarray:
    """What HISTORY_COLUMNS names, after each validation of the run in `train_dir`: float [validations, 5]."""
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
    step, rate, loss, accuracy, validated = row
    total = options.total_steps
    print(
        f"step {step:,} of {total:,}: rate {rate:g}, loss {loss:.3f}, "
        f"training accuracy {100 * accuracy:.1f} %, validation accuracy {100 * validated:.2f} %; "
        f"{pace:.0f} steps/s, {timedelta(seconds=round((total - step) / pace))} left",
        flush=True,
    )
    summaries = options.summaries_dir or str(Path(options.train_dir) / "summaries")
    with writing(summaries), _summary_writer(summaries).as_default(step):
        tf.summary.scalar("loss", loss)
        tf.summary.scalar("accuracy/training", accuracy)
        tf.summary.scalar("accuracy/validation", validated)
        tf.summary.scalar("learning_rate", rate)
        tf.summary.flush()


@functools.lru_cache
def _summary_writer(folder):
    return tf.summary.create_file_writer(folder)
