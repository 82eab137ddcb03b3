import numpy as np
import pandas as pd
import pytest
import torch
from helpers import assert_nothing_is_cut_off, draw, legend_of

from gradcam_gan.studies import train_dcgan
from gradcam_gan.studies.style import PAGE
from gradcam_gan.studies.train_dcgan import generate, histories, sample_table, training_health
from gradcam_gan.training.loop import fixed_latents


def history(d_fake=0.2, *, padding="zeros", seed=0, epochs=10):
    """A history whose last five epochs have these values, and others before them."""
    epoch = np.arange(1, epochs + 1)
    late = epoch > epochs - 5
    return pd.DataFrame(
        {
            "epoch": epoch,
            "iterations": 10 * epoch,
            "images": 640 * epoch,
            "loss_discriminator": epoch + 0.1 * seed,
            "loss_generator": 2.0,
            "d_real": 0.9,
            "d_fake": np.where(late, d_fake, 0.5),
            "accuracy_running": np.where(late, 0.5, 1.0),
            "accuracy_batch": 0.95,
            "accuracy_reference": 0.8,
            "seconds": 1.0,
            "padding": padding,
            "seed": seed,
        }
    )


class TestHistories:
    def test_puts_runs_together_with_the_keys_asked_for(self, tiny_run):
        before = tiny_run.history.copy()
        table = histories([tiny_run, tiny_run], model="model_name", seed="seed")
        assert list(table) == [*before, "model", "seed"]
        pd.testing.assert_frame_equal(table[list(before)], pd.concat([before, before], ignore_index=True))
        assert set(table["model"]) == {"dcgan"}
        pd.testing.assert_frame_equal(tiny_run.history, before)

    def test_can_be_judged(self, tiny_run):
        health = training_health(histories([tiny_run], padding="padding", seed="seed"))
        assert health["d_fake"].iloc[0] == pytest.approx(tiny_run.history["d_fake"].mean())


class TestTrainingHealth:
    def test_has_the_means_of_the_last_five_epochs(self):
        health = training_health(history(0.1))
        assert list(health) == [
            "padding", "seed", "loss_discriminator", "loss_generator", "d_real", "d_fake", "accuracy_running",
            "accuracy_batch", "accuracy_reference", "won",
        ]  # fmt: skip
        row = health.iloc[0]
        assert row["loss_discriminator"] == np.mean([6, 7, 8, 9, 10])
        assert (row["accuracy_running"], row["d_fake"]) == pytest.approx((0.5, 0.1))

    def test_takes_all_epochs_where_there_are_fewer_than_five(self):
        assert training_health(history(epochs=3))["loss_discriminator"].tolist() == [2.0]

    @pytest.mark.parametrize(("d_fake", "won"), [(0.0199, True), (0.0201, False)])
    def test_flags_a_discriminator_that_rejects_everything(self, d_fake, won):
        assert training_health(history(d_fake))["won"].tolist() == [won]

    def test_has_one_row_per_training(self):
        table = pd.concat([history(0.0), history(0.2, seed=1), history(0.3, padding="background")])
        won = training_health(table).set_index(["padding", "seed"])["won"]
        assert won.to_dict() == {("zeros", 0): True, ("zeros", 1): False, ("background", 0): False}


@pytest.mark.parametrize("seeds", [[0], [0, 1, 2]])
def test_training_curves_have_a_line_per_seed_and_a_mean(seeds):
    figure = draw(train_dcgan.training_curves, pd.concat(history(seed=seed) for seed in seeds))
    assert_nothing_is_cut_off(figure, PAGE)
    assert [legend_of(axes) for axes in figure.axes] == [
        ["discriminator", "generator"],
        ["D(x), real", "D(G(z)), generated"],
        ["running statistics", "batch statistics", "reference statistics"],
    ]
    assert len(figure.axes[0].lines) == 2 * (len(seeds) + 1 if len(seeds) > 1 else 1)
    (mean,) = [line for line in figure.axes[0].lines if line.get_label() == "discriminator"]
    assert mean.get_ydata() == pytest.approx(np.arange(1, 11) + 0.1 * np.mean(seeds))


def test_generate_makes_the_same_latents_at_every_epoch_in_the_order_asked_for(tiny_run):
    latents = fixed_latents(4)
    samples = generate(tiny_run, [3, 0, 3], latents)
    assert samples.shape == (3, 4, 1, 64, 64)
    with torch.no_grad():
        for found, epoch in zip(samples, [3, 0, 3], strict=True):
            assert torch.equal(found, tiny_run.generator(epoch)(latents))
    assert not torch.equal(samples[0], samples[1])
    torch.testing.assert_close(generate(tiny_run, [3], latents[2:3])[0], samples[0, 2:3])


class TestSampleTable:
    def test_measures_brightness_contrast_and_ink(self):
        """Black, mid-grey, and a quarter white: at two epochs, two latents each."""
        samples = torch.full((2, 2, 1, 4, 4), -1.0)
        samples[0, 1] = 0.0
        samples[1, 1, :, :2, :2] = 1.0
        table = sample_table(samples, [5, 10])
        assert table[["epoch", "latent"]].to_numpy().tolist() == [[5, 0], [5, 1], [10, 0], [10, 1]]
        assert table["mean"].tolist() == [-1, 0, -1, -0.5]
        assert table["ink"].tolist() == [0, 0, 0, 0.25]
        white = np.repeat([1.0, -1.0], [4, 12]).std(ddof=1)
        assert table["contrast"].tolist() == pytest.approx([0, 0, 0, white])

    def test_takes_every_channel(self):
        samples = torch.full((1, 1, 3, 4, 4), -1.0)
        samples[:, :, 0] = 1.0
        assert sample_table(samples, [1])["ink"].tolist() == pytest.approx([1 / 3])
