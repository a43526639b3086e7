"""A training run: what makes it the same one, what continues it, and the history in its folder."""

import json

import numpy as np
import pytest

from kws.base.errors import UserError
from kws.train import runs

pytestmark = pytest.mark.fast

RUN = {
    "--how_many_training_steps": "60 20",
    "--learning_rate": "0.001,0.0001",
    "--learning_rate_schedule": "constant",
    "--seed": "0",
    "--model_size_info": "144 144",
    "number of training clips": "96",
}


def claim(folder, **changes):
    """Hold the folder for RUN with these changes, by name of the flag, or `clips`."""
    renamed = {"clips": "number of training clips"} | {name[2:]: name for name in RUN}
    with runs.claimed_folder(folder, RUN | {renamed[name]: value for name, value in changes.items()}):
        pass


@pytest.fixture
def finished(tmp_path):
    """Make the folder of RUN, all 80 steps of which are done."""
    claim(tmp_path)
    (tmp_path / "resume").mkdir()
    (tmp_path / "resume" / "checkpoint").write_text('model_checkpoint_path: "ckpt-80"\n')
    return tmp_path


@pytest.mark.parametrize(
    ("changes", "shown"),
    [
        (
            {"how_many_training_steps": "60 120"},
            "had --how_many_training_steps 60,20: it continues with 60,120",
        ),
        ({"how_many_training_steps": "100"} | {"learning_rate": "0.001"}, "from step 81 on"),
        (
            {"how_many_training_steps": "60 20 20", "learning_rate": "0.001,0.0001,0.00001"},
            "it continues with 60,20,20",
        ),
    ],
)
def test_a_run_with_more_steps_continues_and_says_at_what_rate(finished, capsys, changes, shown):
    claim(finished, **changes)
    output = capsys.readouterr().out
    assert shown in output and "cosine" not in output
    noted = json.loads((finished / "run.json").read_text())["--how_many_training_steps"]
    assert noted == changes["how_many_training_steps"]


def test_the_same_run_says_nothing(finished, capsys):
    claim(finished)
    claim(finished, how_many_training_steps="80", learning_rate="0.001")
    assert capsys.readouterr().out == ""


def test_a_cosine_over_more_steps_is_said_to_be_another(finished, capsys):
    (finished / "run.json").write_text(json.dumps(RUN | {"--learning_rate_schedule": "cosine"}))
    claim(finished, how_many_training_steps="60 40", learning_rate_schedule="cosine")
    assert "follows the new schedule (a cosine over the new steps)" in capsys.readouterr().out


def test_fewer_steps_than_are_done_are_an_error(finished):
    with pytest.raises(UserError, match="has taken 80 steps, more than the 70 of --how_many_training_steps"):
        claim(finished, how_many_training_steps="60 10")


@pytest.mark.parametrize(
    ("change", "differs"),
    [
        ({"seed": "7"}, "--seed 0, not 7"),
        ({"clips": "97"}, "number of training clips 96, not 97"),
        ({"learning_rate": "0.002,0.0001"}, "--learning_rate 0.001,0.0001, not 0.002,0.0001"),
    ],
)
def test_another_run_is_told_how_to_start_from_this_ones_weights(finished, change, differs):
    with pytest.raises(UserError) as refusal:
        claim(finished, **change)
    for part in (differs, "another --train_dir", f"--start_checkpoint {finished}/best", f"delete {finished}"):
        assert part in str(refusal.value)


def test_a_run_noted_before_there_was_a_flag_continues_without_that_flag(finished):
    with runs.claimed_folder(finished, RUN | {"--new": "not given"}):
        pass
    (finished / "run.json").write_text(json.dumps(RUN))
    with pytest.raises(UserError, match="--new"), runs.claimed_folder(finished, RUN | {"--new": "3"}):
        pass


def test_a_run_noted_with_a_flag_that_there_is_no_longer_continues_if_the_flag_did_nothing(finished):
    for value in ("0", "not given", "False"):
        (finished / "run.json").write_text(json.dumps(RUN | {"--removed": value}))
        claim(finished)
    (finished / "run.json").write_text(json.dumps(RUN | {"--removed": "10"}))
    with pytest.raises(UserError, match="holds a run with --removed 10, not not given"):
        claim(finished)


def test_a_run_of_another_network_cannot_start_from_this_ones_weights(finished):
    with pytest.raises(
        UserError, match="--model_size_info 144 144, not 12: give another --train_dir, or"
    ) as it:
        claim(finished, model_size_info="12")
    assert "--start_checkpoint" not in str(it.value)


def test_the_history_keeps_no_steps_that_were_taken_in_vain(tmp_path):
    for step in (10, 20, 30, 20):
        runs.write_history(tmp_path, (step, 0.1, 2.5, 0.5, step / 100, 2, 0.3))
    np.testing.assert_allclose(runs.read_history(tmp_path)[:, [0, 4]], [[10, 0.1], [20, 0.2]])
    (tmp_path / runs.HISTORY_NAME).write_text("step\nhello\n")
    with pytest.raises(UserError, match="is damaged"):
        runs.read_history(tmp_path)
