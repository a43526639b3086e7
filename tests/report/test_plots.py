"""Pictures of a training and of an evaluation."""

import numpy as np
import pytest
from matplotlib import image

from conftest import DATA, DNN_SMALL_FLAGS, assert_one_clear_line, call
from kws.model.tflite import Cost
from kws.report import plots
from kws.report.reports import Report
from kws.train import runs

SHORT = [
    *DATA,
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
    history = runs.read_history(tmp_path / "run")
    np.testing.assert_array_equal(history[:, 0], [10, 20, 30])
    for step, _, loss, _, validated, *_ in history:
        assert f"step {step:.0f} of 30: rate 0.001, loss {loss:.3f}" in output
        assert f"validation accuracy {100 * validated:.2f} %" in output


def test_several_models_are_drawn_side_by_side(trained, tmp_path):
    path = tmp_path / "float.tflite"
    call("convert_to_tflite.py", "--checkpoint", trained / "best", *DATA, "--output", path)
    both = "--checkpoint", trained / "best", "--tflite_path", path
    call("evaluation.py", *both, *DATA, "--plots", tmp_path / "plots")
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
    flags = "--checkpoint", trained / "best", *DATA, "--plots", tmp_path / "file"
    assert_one_clear_line(call("evaluation.py", *flags, check=False), tmp_path / "file")


@pytest.mark.fast
def test_names_in_a_comparison_lie_in_the_picture_beside_their_points(tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(plots, "_save", lambda figure, *_: drawn.append(figure))
    places = {"a_name": (90, 4), "of_another": (91, 4.05), "nearby": (90.5, 4), "at_the_right_end": (91, 9)}
    reports = {name: of_accuracy(accuracy) for name, (accuracy, _) in places.items()}
    costs = {name: Cost(int(1e5 * size), 0, 0, int(1e6 * size)) for name, (_, size) in places.items()}
    plots.write_comparison_plot(tmp_path, reports, costs)
    drawn[0].draw_without_rendering()  # the layout is known then
    for axes in drawn[0].axes:
        assert sorted(text.get_text() for text in axes.texts) == sorted(places)
        for text in axes.texts:
            box, point = text.get_window_extent(), axes.transData.transform(text.xy)
            assert axes.bbox.containsx(box.x0) and axes.bbox.containsx(box.x1)
            assert axes.bbox.containsy(box.y0) and axes.bbox.containsy(box.y1)
            assert text.xy[1] == pytest.approx(places[text.get_text()][0])
            assert box.x0 - 20 < point[0] < box.x1 and box.y0 - 20 < point[1] < box.y1 + 20


def of_accuracy(percent):
    return Report("by hand", ("right", "wrong"), np.array([[10 * percent, 1000 - 10 * percent], [0, 0]]))


@pytest.mark.fast
def test_a_training_without_validations_has_a_picture(tmp_path):
    plots.write_training_plots(tmp_path, runs.read_history(tmp_path))
    assert (tmp_path / "learning_curves.png").exists()
