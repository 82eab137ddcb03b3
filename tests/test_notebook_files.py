import ast
import json
from pathlib import Path

import nbformat
import pytest
import yaml

from gradcam_gan.studies.profile import PROFILES, Study

ROOT = Path(__file__).parent.parent
NOTEBOOKS = sorted((ROOT / "notebooks").glob("*.ipynb"))
LARGEST = 1_500_000  # bytes, with outputs
EXPERIMENTS = {
    "03_prune_70": "pruning_",
    "04_diffusion_gans": "comparison_",
    "05_explain_dudgan": "comparison_",
}

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def code_cells(path):
    return [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]


def tags(cell):
    return cell.metadata.get("tags", [])


def parameters(path):
    """The names and values of the cell tagged ``parameters``, in order; literals only."""
    (cell,) = [cell for cell in code_cells(path) if "parameters" in tags(cell)]
    values = {}
    for statement in ast.parse(cell.source).body:
        assert isinstance(statement, ast.Assign), ast.unparse(statement)
        (target,) = statement.targets
        assert target.id not in values
        values[target.id] = ast.literal_eval(statement.value)
    return values


def profile(name):
    return yaml.safe_load((ROOT / "params" / f"{name}.yaml").read_text())


def test_there_are_notebooks():
    assert [path.stem[:2] for path in NOTEBOOKS] == [f"{i:02}" for i in range(1, len(NOTEBOOKS) + 1)] != []


@each_notebook
def test_is_a_valid_notebook_for_the_kernel_python3(path):
    notebook = nbformat.read(path, 4)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"


@each_notebook
def test_the_first_code_cell_holds_the_parameters(path):
    assert [i for i, cell in enumerate(code_cells(path)) if "parameters" in tags(cell)] == [0]


@each_notebook
def test_the_parameters_are_those_of_the_quick_profile(path):
    """All of them; those of an experiment in its own notebooks only."""
    others = set(EXPERIMENTS.values()) - {EXPERIMENTS.get(path.stem)}
    expected = {name: value for name, value in profile("quick").items() if not name.startswith(tuple(others))}
    assert parameters(path) == expected
    assert list(parameters(path)) == list(expected)


@each_notebook
def test_the_study_is_made_of_every_parameter(path):
    """Else a value injected by papermill would be ignored."""
    (call,) = [
        node
        for cell in code_cells(path)
        for node in ast.walk(ast.parse(cell.source))
        if isinstance(node, ast.Call) and ast.unparse(node.func) == "Study.of_notebook"
    ]
    given = [ast.unparse(argument) for argument in call.args]
    given += [keyword.arg for keyword in call.keywords]
    assert given == list(parameters(path))
    assert all(keyword.arg == ast.unparse(keyword.value) for keyword in call.keywords)


@pytest.mark.parametrize("name", PROFILES)
def test_every_profile_has_the_same_parameters_and_is_a_study(name):
    assert list(profile(name)) == list(profile("quick")) == list(Study.model_fields)
    assert profile(name)["profile"] == name
    assert Study.load(name).changes() == {}


@each_notebook
def test_cells_only_call_the_package(path):
    """No function, class or lambda of their own: those are tested where they are."""
    logic = ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Lambda
    for cell in code_cells(path):
        found = [node for node in ast.walk(ast.parse(cell.source)) if isinstance(node, logic)]
        assert not found, cell.source


@each_notebook
def test_some_outputs_are_compared_with_the_stored_ones(path):
    checked = [cell for cell in code_cells(path) if "nbval-check-output" in tags(cell)]
    assert checked
    for cell in checked:
        assert "print(" in cell.source


@each_notebook
def test_names_itself(path):
    """The JSON beside every figure says which notebook made it."""
    names = [
        ast.literal_eval(node.value)
        for cell in code_cells(path)
        for node in ast.parse(cell.source).body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "NOTEBOOK"
    ]
    assert names == [path.name]


@each_notebook
def test_is_small_and_without_errors_or_papermills_traces(path):
    assert path.stat().st_size < LARGEST
    assert "papermill" not in json.loads(path.read_text())["metadata"]
    for cell in code_cells(path):
        assert not {"injected-parameters", "papermill-error-cell-tag"} & set(tags(cell))
        assert all(output.output_type != "error" for output in cell.outputs)
        assert all(output.get("name") != "stderr" for output in cell.outputs)
