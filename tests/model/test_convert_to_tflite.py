"""convert_to_tflite.py as a user calls it."""

import re
import shutil
from dataclasses import replace

from conftest import DATA, assert_one_clear_line, call, call_here
from kws.base.settings import DetectorSettings, Sensitivity
from kws.model import checkpoints


def test_conversion_has_default_names_and_evaluates_what_it_wrote(trained, tmp_path):
    cases = (
        ([], "work/dnn_quantized.tflite", ""),
        (["--no-quantize"], "work/dnn.tflite", " in place of an earlier one"),
    )
    for flags, name, replaced in cases:
        if replaced:
            (tmp_path / name).touch()
        result = call("convert_to_tflite.py", "--checkpoint", trained / "best", *DATA, *flags, cwd=tmp_path)
        size = (tmp_path / name).stat().st_size
        assert f"wrote {name}{replaced}: {size:,} bytes" in result.stdout
        assert re.search(rf"{name}: testing, .*accuracy [\d.]+ %.*N = 480", result.stdout)


def test_the_same_seed_gives_the_same_file(trained, tmp_path):
    def converted(name, *flags):
        base = ["--checkpoint", trained / "best", *DATA, "--inference_type", "int8"]
        call("convert_to_tflite.py", *base, "--output", tmp_path / name, *flags)
        return (tmp_path / name).read_bytes()

    assert converted("a") == converted("b")


def test_integer_in_and_out_of_a_float_model_is_an_error(trained):
    flags = ["--no-quantize", "--inference_type", "int8"]
    result = call("convert_to_tflite.py", "--checkpoint", trained / "best", *flags, check=False)
    assert_one_clear_line(result, "--no-quantize")


def test_thresholds_chosen_for_the_float_model_are_left_out_of_the_quantized_one(trained, tmp_path):
    best = shutil.copytree(trained / "best", tmp_path / "best")
    sensitivity = Sensitivity(0.999, 1, 0.1)
    settings = checkpoints.read_settings(best)
    detector = DetectorSettings(40, 600, 1000, *3 * [sensitivity])
    checkpoints.write_settings(best, replace(settings, detector=detector))
    for flags, kept in (([], None), (["--no-quantize"], detector)):
        output = tmp_path / "x.tflite"
        command = "convert_to_tflite.py", "--checkpoint", best, *DATA, "--output", output, *flags
        assert ("are left out" in call_here(*command).stdout) == (kept is None)
        assert checkpoints.read_settings(output).detector == kept
