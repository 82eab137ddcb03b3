import math
from dataclasses import asdict
from itertools import product

import matplotlib as mpl
import pandas as pd
import pytest
import torch

from gradcam_gan.data import load_images
from gradcam_gan.run_explainer import RunExplainer
from gradcam_gan.studies.readings import ALL_READINGS
from gradcam_gan.training.config import TrainingConfig
from gradcam_gan.training.loop import train

mpl.use("Agg")
torch.set_num_threads(1)  # tests run side by side, a core each


@pytest.fixture(autouse=True)
def one_thread():
    """Every test computes with one thread, whatever the one before it has set."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def digits():
    """Held-out digits, uint8 (1000, 1, 64, 64)."""
    return load_images("mnist-5k", 64, "test").images


@pytest.fixture(scope="session")
def tiny_run(tmp_path_factory):
    """Three epochs of a tiny network, trained in about a second."""
    config = TrainingConfig(
        width=2, epochs=3, train_images=128, batch_size=32, threads=1, device="cpu", precision="float32"
    )
    return train(config, tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="session")
def explainer(tiny_run, digits):
    return RunExplainer(tiny_run, digits[500:532])


@pytest.fixture(scope="session")
def make_table():
    """A function that builds a table such as ``measure_epochs`` gives, with the focus lifts one wants."""

    def make(
        lift, *, seeds=range(3), epochs=range(26), images=range(4), variants=ALL_READINGS, padding="zeros"
    ):
        """``lift(seed, epoch, image, variant)`` gives the focus lift; None makes the map zero everywhere."""
        rows = []
        for seed, epoch, variant, image in product(seeds, epochs, variants, images):
            value = lift(seed, epoch, image, variant)
            keys = {"padding": padding, "seed": seed, "epoch": epoch, **asdict(variant), "image": image}
            measured = {
                "focus_lift": math.nan if value is None else value,
                "border_lift": math.nan if value is None else 2 * value,
                "all_zero": value is None,
                "mask_area": 0.2,
            }
            rows.append({**keys, **measured})
        return pd.DataFrame(rows)

    return make
