import math
from dataclasses import asdict
from itertools import product

import matplotlib as mpl
import matplotlib.pyplot as plt
import pandas as pd
import pytest
import torch
from helpers import randomised, replace_weights, tiny

from gradcam_gan.data import load_images
from gradcam_gan.models.options import ClassifierOptions, Diffusion, Model
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


@pytest.fixture(autouse=True)
def closed_figures():
    yield
    plt.close("all")


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
    """A function that builds a table such as ``ExplainedRun.measures`` gives, with the focus lifts one wants."""

    def make(
        lift, *, seeds=range(3), epochs=range(26), images=range(4), readings=ALL_READINGS, padding="zeros"
    ):
        """``lift(seed, epoch, image, reading)`` gives the focus lift; None makes the map zero everywhere."""
        rows = []
        for seed, epoch, reading, image in product(seeds, epochs, readings, images):
            value = lift(seed, epoch, image, reading)
            keys = {"padding": padding, "seed": seed, "epoch": epoch, **asdict(reading), "image": image}
            measured = {
                "focus_lift": math.nan if value is None else value,
                "border_lift": math.nan if value is None else 2 * value,
                "all_zero": value is None,
                "mask_area": 0.2,
            }
            rows.append({**keys, **measured})
        return pd.DataFrame(rows)

    return make


# D and C differ in everything, so that neither can be taken for the other; T is known from the number of iterations
FOLLOW_UP_MODELS = {
    "dudgan": Model(
        diffusion=Diffusion(shortest=10, longest=300, target=None, rise=1.0, sigma=0.3),
        classifier=ClassifierOptions(
            diffusion=Diffusion(shortest=5, longest=100, target=None, rise=1.0, sigma=0.1)
        ),
        averaging=0.9,
    ),
    "diffusion": Model(
        conditional=False, diffusion=Diffusion(shortest=4, longest=200, target=None, rise=1.0, sigma=0.2)
    ),
    "dcgan": None,
}


@pytest.fixture(scope="session")
def follow_up_runs(tmp_path_factory):
    """Two epochs of each model, by name, then weights of trained size: after twelve steps such small networks all but
    ignore the image.
    """
    folder = tmp_path_factory.mktemp("follow_up")
    runs = {
        name: train(tiny(model=model, train_images=96, batch_size=16), folder)
        for name, model in FOLLOW_UP_MODELS.items()
    }
    for name, run in runs.items():
        for network in ("discriminator", "classifier") if name == "dudgan" else ("discriminator",):
            for epoch in range(3):
                weights = randomised(getattr(run, network)(epoch), epoch).state_dict()
                replace_weights(run, epoch, network, weights)
    return runs
