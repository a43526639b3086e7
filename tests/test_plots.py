"""Pictures, and the history of a training that the learning curves are drawn from."""

import numpy as np
import pytest
from matplotlib import image

from conftest import DNN_SMALL_FLAGS, SAMPLE_DATA, assert_one_clear_line, call
from kws import checkpoints, plots, run_folder
from kws.cli import UserError

SHORT = [
    "--data_dir",
    SAMPLE_DATA,
    *DNN_SMALL_FLAGS,
    *"--learning_rate 0.001 --eval_step_interval 10 --how_many_training_steps 30".split(),
]


def assert_pictures(folder, *names):
    assert sorted(path.name for path in folder.iterdir()) == sorted(f"{name}.png" for name in names)
    for name in names:
        picture = image.imread(folder / f"{name}.png")
        assert min(picture.shape[:2]) > 150 and picture.std() > 0.05


def test_training_draws_its_curves_and_confusions(tmp_path):
    output = call("train.py", *SHORT, "--train_dir", tmp_path / "run", "--plots", tmp_path / "plots").stdout
    names = "learning_curves", "testing_confusion", "testing_recall", "testing_misclassified"
    assert_pictures(tmp_path / "plots", *names)
    history = run_folder.read_history(tmp_path / "run")
    np.testing.assert_array_equal(history[:, 0], [10, 20, 30])
    for step, _, loss, _, validated in history:
        assert f"step {step:.0f} of 30: rate 0.001, loss {loss:.3f}" in output
        assert f"validation accuracy {100 * validated:.2f} %" in output


def test_several_models_are_drawn_side_by_side(trained, tmp_path):
    path = tmp_path / "float.tflite"
    call(
        "convert_to_tflite.py", "--checkpoint", trained / "best", "--data_dir", SAMPLE_DATA, "--output", path
    )
    both = "--checkpoint", trained / "best", "--tflite_path", path
    call("evaluation.py", *both, "--data_dir", SAMPLE_DATA, "--plots", tmp_path / "plots")
    kinds = [
        f"{part}_{kind}"
        for part in ("validation", "testing")
        for kind in ("confusion", "recall", "misclassified")
    ]
    assert_pictures(
        tmp_path / "plots", *(f"{stem}_{kind}" for stem in ("best", "float") for kind in kinds), "comparison"
    )


def test_a_folder_that_cannot_be_made_is_a_clear_error(trained, tmp_path):
    (tmp_path / "file").write_text("")
    flags = "--checkpoint", trained / "best", "--data_dir", SAMPLE_DATA, "--plots", tmp_path / "file"
    assert_one_clear_line(call("evaluation.py", *flags, check=False), tmp_path / "file")


def test_the_history_keeps_no_steps_that_were_taken_in_vain(tmp_path):
    for step in (10, 20, 30, 20):
        run_folder.write_history(tmp_path, (step, 0.1, 2.5, 0.5, step / 100))
    np.testing.assert_allclose(run_folder.read_history(tmp_path)[:, [0, 4]], [[10, 0.1], [20, 0.2]])
    (tmp_path / run_folder.HISTORY_NAME).write_text("step\nhello\n")
    with pytest.raises(UserError, match="is damaged"):
        run_folder.read_history(tmp_path)


def test_a_training_without_validations_has_a_picture(tmp_path):
    plots.write_training_plots(tmp_path, run_folder.read_history(tmp_path))
    assert (tmp_path / "learning_curves.png").exists()


def test_the_cost_of_a_checkpoint_is_that_of_its_files(trained):
    cost = checkpoints.load(trained / "best").cost()
    assert cost.bytes == sum(file.stat().st_size for file in checkpoints.checkpoint_files(trained / "best"))
    assert (cost.parameters, cost.macs) == (79_644, 79_200)
