import ast
import json

import nbformat
import pytest

from gradcam_gan.studies import paths

NOTEBOOKS = sorted(paths.NOTEBOOKS.glob("*.ipynb"))
LARGEST = 1_500_000  # bytes, with outputs
PARAMETERS = {"profile": "quick", "width": None, "epochs": None, "seeds": None, "changes": {}, "folder": None}

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def code_cells(path):
    return [cell for cell in nbformat.read(path, 4).cells if cell.cell_type == "code"]


def tags(cell):
    return cell.metadata.get("tags", [])


def calls(path, name):
    """The calls of that name in a notebook's cells."""
    trees = [ast.parse(cell.source) for cell in code_cells(path)]
    nodes = [node for tree in trees for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return [node for node in nodes if ast.unparse(node.func) == name]


def test_a_notebook_has_a_study_and_a_test_of_its_own_name():
    *numbers, last = [path.stem[:2] for path in NOTEBOOKS]
    assert numbers == [f"{i:02}" for i in range(len(numbers))]
    assert last == "99"  # what all come to
    for path in NOTEBOOKS:
        stem = path.stem[3:]
        for folder, name in (("gradcam_gan", f"{stem}.py"), ("tests", f"test_{stem}.py")):
            studies = paths.REPOSITORY / folder / "studies"
            assert (studies / name).is_file() or (studies / stem).is_dir(), stem


@each_notebook
def test_takes_the_same_parameters_as_every_notebook_and_uses_all_of_them(path):
    (cell,) = [cell for cell in code_cells(path) if "parameters" in tags(cell)]
    body = ast.parse(cell.source).body
    assert {node.targets[0].id: ast.literal_eval(node.value) for node in body} == PARAMETERS
    (study,), (results,) = calls(path, "Study.of_notebook"), calls(path, "Results")
    assert [ast.unparse(node) for node in study.args] == ["profile", "changes"]
    given = {keyword.arg: ast.unparse(keyword.value) for keyword in study.keywords}
    assert given == {name: name for name in ("width", "epochs", "seeds")}
    assert [ast.unparse(node) for node in results.args] == ["study", repr(path.stem), "folder"]


@each_notebook
def test_is_a_valid_notebook_for_the_kernel_python3_small_and_without_errors(path):
    notebook = nbformat.read(path, 4)
    nbformat.validate(notebook)
    assert notebook.metadata.kernelspec.name == "python3"
    assert path.stat().st_size < LARGEST
    assert "papermill" not in json.loads(path.read_text())["metadata"]
    for cell in code_cells(path):
        assert not {"injected-parameters", "papermill-error-cell-tag"} & set(tags(cell))
        assert all(output.output_type != "error" for output in cell.outputs)
        assert all(output.get("name") != "stderr" for output in cell.outputs)


@each_notebook
def test_some_outputs_are_compared_with_the_stored_ones(path):
    checked = [cell for cell in code_cells(path) if "nbval-check-output" in tags(cell)]
    assert checked
    assert all("print(" in cell.source for cell in checked)


@each_notebook
def test_opens_on_its_picture(path):
    """Question, picture and answer before the how: few lines of code before the first picture."""
    lines = 0
    for cell in code_cells(path):
        lines += sum(bool(line.strip()) for line in cell.source.splitlines())
        if "results.show(" in cell.source:
            break
    assert lines < 60
