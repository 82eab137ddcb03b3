"""Each case runs in a Python of its own: what is under test is the first import of torchvision."""

import importlib.machinery
import importlib.util
import shutil
import subprocess
import sys

import pytest


def run(code):
    """What the code prints and the last line of its error output."""
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)
    return process.stdout.strip(), (process.stderr.strip().splitlines() or [""])[-1]


def test_everything_imports_after_it_and_a_second_import_is_harmless():
    out, error = run(
        "import importlib, torch\n"
        "import gradcam_gan.torchvision_compat as compat\n"
        "importlib.reload(compat)\n"
        "import torchvision.datasets, torchvision.transforms.v2, torchvision.models, torchvision.utils\n"
        "import gradcam_gan.torchvision_compat\n"
        "importlib.reload(compat)\n"
        "import pytorch_grad_cam, captum.attr\n"
        "grid = torchvision.utils.make_grid(torch.zeros(4, 1, 8, 8))\n"
        "declared = torch._C._jit_get_schemas_for_operator('torchvision::nms')\n"
        "print(compat.declare_missing_operators(), grid.shape, len(declared))\n"
    )
    assert (out, error) == ("[] torch.Size([3, 12, 42]) 1", "")


def test_plain_import_fails_here_and_works_even_after_that_failure():
    out, error = run(
        "try:\n    import torchvision\nexcept RuntimeError as error:\n    print(error)\n"
        "from gradcam_gan import torchvision_compat\n"
        "import torchvision\n"
        "try:\n    torchvision.ops.nms(None, None, 0.5)\nexcept Exception as error:\n    print(error)\n"
    )
    assert error == ""
    if "does not exist" not in out:
        pytest.skip("torchvision imports without help here")
    assert out.startswith("operator torchvision::nms does not exist\n")
    assert "Couldn't load custom C++ ops" in out  # absent operators are still reported as absent


def fake_torchvision(folder):
    """A package called torchvision that says so if it is imported; the path of its compiled part."""
    package = folder / "torchvision"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("raise SystemExit('imported')")
    return package / f"_C{importlib.machinery.EXTENSION_SUFFIXES[-1]}"


def test_operators_are_declared_only_where_torchvision_is_there_and_does_not_load(tmp_path):
    loadable = importlib.util.find_spec("_ctypes").origin  # any compiled library that loads will do
    shutil.copyfile(loadable, fake_torchvision(tmp_path / "loads"))
    fake_torchvision(tmp_path / "broken").write_bytes(b"not a library")
    out, error = run(
        "import importlib.util, sys, torch\n"
        "real = importlib.util.find_spec\n"
        "importlib.util.find_spec = lambda name: None if name == 'torchvision' else real(name)\n"
        "from gradcam_gan.torchvision_compat import declare_missing_operators\n"
        "print('not installed', hasattr(torch.ops.torchvision, 'nms'))\n"
        "importlib.util.find_spec = real\n"
        f"for folder in ({str(tmp_path / 'loads')!r}, {str(tmp_path / 'broken')!r}):\n"
        "    sys.path.insert(0, folder)\n"
        "    print(declare_missing_operators(), hasattr(torch.ops.torchvision, 'nms'))\n"
        "print('imported' if 'torchvision' in sys.modules else 'not imported')\n"
    )
    assert error == ""
    assert out.splitlines() == ["not installed False", "[] False", "['nms', 'qnms'] True", "not imported"]
