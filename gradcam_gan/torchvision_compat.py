"""Makes ``import torchvision`` work beside a CPU-only torch; import this module first.

PyPI's torchvision is linked against CUDA. Beside a CPU-only torch its compiled operators cannot be loaded and
its import stops at "operator torchvision::nms does not exist" (pytorch/vision issue 9077): it attaches shape
functions to operators that nobody declared. Declaring their schemas is enough for all that this package,
pytorch-grad-cam and captum take from torchvision: data sets, transforms, models and utilities. The operators
themselves stay absent; calling one raises torchvision's own "Couldn't load custom C++ ops".

Where the compiled operators load, where torchvision is already imported or is not installed, nothing is done.

Source of the schemas: torchvision/csrc/ops/nms.cpp, and the schema strings inside the compiled library of
torchvision 0.28.
"""

import importlib.util
import os
import sys
from importlib.machinery import EXTENSION_SUFFIXES
from pathlib import Path

import torch

# the operators to which torchvision/_meta_registrations.py attaches a shape function unconditionally
_SCHEMAS = {
    "nms": "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms": "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
}

# torch withdraws the declarations when this object goes; no value here, so that a reload keeps the object
_declarations: torch.library.Library


def _compiled_operators_load(package: Path) -> bool:
    """True if torchvision's compiled operators load; this is the first step of its own import.

    Importing torchvision to find out would leave a broken half of it in ``sys.modules``; loading twice is harmless.
    """
    if sys.platform == "win32":
        os.add_dll_directory(str(package))
    found = (library for suffix in EXTENSION_SUFFIXES if (library := package / f"_C{suffix}").is_file())
    try:
        torch.ops.load_library(str(next(found)))
    except (StopIteration, OSError):
        return False
    return True


def declare_missing_operators() -> list[str]:
    """Declares the operators that ``import torchvision`` would miss; done once when this module is imported.

    Returns:
        The names of the operators that were declared; empty where there was nothing to do.
    """
    global _declarations
    if "torchvision" in sys.modules:
        return []
    specification = importlib.util.find_spec("torchvision")
    if (
        specification is None
        or specification.origin is None
        or _compiled_operators_load(Path(specification.origin).parent)
    ):
        return []
    missing = [name for name in _SCHEMAS if not hasattr(torch.ops.torchvision, name)]
    if missing:
        _declarations = torch.library.Library("torchvision", "FRAGMENT")
        for name in missing:
            _declarations.define(_SCHEMAS[name])
    return missing


declare_missing_operators()
