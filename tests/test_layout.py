"""The architecture, read off the source: what imports what, and how large the files are."""

import ast
import importlib
import re

import pytest

from conftest import ROOT

pytestmark = pytest.mark.fast

# Lowest first: a module imports only from those before it. CONTRIBUTING.md explains them.
FLOORS = """
kws.cli kws.files kws.word_lists kws.quiet_tf kws.features kws.settings kws.folders kws.download
kws.containers kws.recordings kws.pipes kws.negatives kws.clips kws.confusables kws.synthesis
kws.synthetic_data kws.acoustics kws.augmentation kws.batches input_data kws.data_checks
kws.recurrent kws.muon models kws.tflite kws.checkpoints kws.batch_norm kws.kept kws.reports
kws.verifier kws.streaming kws.detected_audio kws.live kws.streams kws.ambient kws.mining
kws.validation kws.quantizers kws.compression
kws.distribution kws.run_folder kws.training kws.plots kws.firmware kws.layers kws.packing
kws.c_library kws.c_verifier
train optimisations convert_to_tflite evaluation label_wav export_c synthesize
""".split()
SCRIPTS = FLOORS[FLOORS.index("train") :]
DOORS = "main parse_arguments add_arguments add_training_arguments options_from from_arguments".split()


def path(module):
    return ROOT / f"{module.replace('.', '/')}.py"


def imports(module):
    """The project's modules that a module imports, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(path(module).read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found & set(FLOORS)


def test_every_module_has_a_floor():
    modules = [file.stem for file in ROOT.glob("*.py")] + [
        f"kws.{file.stem}" for file in (ROOT / "kws").glob("*.py")
    ]
    assert sorted(modules) == sorted(FLOORS)


@pytest.mark.parametrize("module", FLOORS)
def test_a_module_imports_only_from_the_floors_below(module):
    assert not imports(module) & set(FLOORS[FLOORS.index(module) :])


@pytest.mark.parametrize("module", [module for module in FLOORS if module not in SCRIPTS])
def test_below_the_scripts_no_function_takes_an_argparse_namespace(module):
    for node in ast.walk(ast.parse(path(module).read_text())):
        if isinstance(node, ast.FunctionDef) and node.name not in DOORS:
            for argument in node.args.args:
                annotation = ast.unparse(argument.annotation) if argument.annotation else ""
                assert argument.arg != "args" and "Namespace" not in annotation, node.name


@pytest.mark.parametrize("module", FLOORS)
def test_no_file_is_too_long_to_read(module):
    assert len(path(module).read_text().splitlines()) <= (130 if module == "kws.features" else 450)


def test_the_front_end_needs_nothing_of_the_project():
    assert not imports("kws.features")


@pytest.mark.parametrize("recipe", sorted((ROOT / "recipes").glob("*.txt")), ids=lambda recipe: recipe.stem)
def test_a_recipe_holds_flags_that_its_script_has(recipe, monkeypatch):
    commands = re.findall(rf"python (\w+)\.py ((?:@\S+ )*)@recipes/{recipe.name}", recipe.read_text())
    for script, earlier in commands:
        checkpoint = ["--checkpoint" if script == "optimisations" else "--start_from", "x"]
        files = [f"@{ROOT / name[1:]}" for name in earlier.split()]
        monkeypatch.setattr("sys.argv", [f"{script}.py", *files, f"@{recipe}", *checkpoint])
        args = importlib.import_module(script).parse_arguments()
        assert len(args.how_many_training_steps) == len(args.learning_rate) == 1
    assert commands
