"""The architecture, read off the source: the order of the packages, and what needs what."""

import ast
import importlib
import re

import pytest

from conftest import ROOT

pytestmark = pytest.mark.fast

PACKAGES = "base audio data model detect report board synth train trunk".split()  # lowest first
MOST_MODULES = 8  # of a package: more are hard to hold in the head
DOORS = "main parse_arguments add_arguments add_training_arguments options_from from_arguments".split()
MODULES = {
    ".".join(file.relative_to(ROOT).with_suffix("").parts): file
    for file in [*ROOT.glob("*.py"), *(ROOT / "kws").rglob("*.py")]
}
SCRIPTS = [name for name in MODULES if "." not in name and name not in ("input_data", "models")]


def imports(module):
    """The project's modules that a module imports, inside functions too."""
    found = set()
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found & MODULES.keys()


def package(module):
    return module.split(".")[1]


def everything_imported_by(module):
    found, to_do = set(), [module]
    while to_do:
        new = imports(to_do.pop()) - found
        found |= new
        to_do += new
    return found


@pytest.mark.parametrize("module", [name for name in MODULES if name.startswith("kws.")])
def test_a_module_imports_only_from_its_own_package_and_those_below(module):
    allowed = PACKAGES[: PACKAGES.index(package(module)) + 1]
    for other in imports(module):
        assert other.startswith("kws."), "a module of kws imports what lies above it"
        assert package(other) in allowed, other


def test_no_module_imports_itself_by_way_of_others():
    assert not [module for module in MODULES if module in everything_imported_by(module)]


def test_a_package_has_few_modules():
    for name in PACKAGES:
        assert sum(module.startswith(f"kws.{name}.") for module in MODULES) <= MOST_MODULES, name


def test_the_front_end_needs_nothing_of_the_project():
    assert not imports("kws.base.features")


def test_running_a_tflite_file_needs_five_modules_at_most():
    assert len(everything_imported_by("kws.model.tflite")) <= 5


@pytest.mark.parametrize("module", [module for module in MODULES if module not in SCRIPTS])
def test_below_the_scripts_no_function_takes_an_argparse_namespace(module):
    for node in ast.walk(ast.parse(MODULES[module].read_text())):
        if isinstance(node, ast.FunctionDef) and node.name not in DOORS:
            for argument in node.args.args:
                annotation = ast.unparse(argument.annotation) if argument.annotation else ""
                assert argument.arg != "args" and "Namespace" not in annotation, node.name


# augmentation.txt is a part of the others, without a command
@pytest.mark.parametrize(
    "recipe",
    sorted({*(ROOT / "recipes").glob("*.txt")} - {ROOT / "recipes" / "augmentation.txt"}),
    ids=lambda recipe: recipe.stem,
)
def test_a_recipe_holds_flags_that_its_script_has(recipe, monkeypatch):
    commands = re.findall(rf"python (\w+)\.py ((?:@\S+ )*)@recipes/{recipe.name}", recipe.read_text())
    for script, earlier in commands:
        checkpoint = ["--checkpoint" if script == "optimisations" else "--start_from", "x"]
        files = [f"@{ROOT / name[1:]}" for name in earlier.split()]
        monkeypatch.setattr("sys.argv", [f"{script}.py", *files, f"@{recipe}", *checkpoint])
        args = importlib.import_module(script).parse_arguments()
        assert len(args.how_many_training_steps) == len(args.learning_rate) == 1
    assert commands
