import numpy as np
import pandas as pd
import pytest
import torch

from gradcam_gan.models.dcgan import LATENT_SIZE
from gradcam_gan.studies.health import describe_accuracy, describe_training, histories, training_health
from gradcam_gan.studies.samples import describe_samples, generate, sample_table
from gradcam_gan.training.loop import fixed_latents


class TestGenerate:
    def test_the_same_latents_at_every_epoch_in_the_order_asked_for(self, tiny_run):
        latents = fixed_latents(4)
        samples = generate(tiny_run, [3, 0, 3], latents)
        assert samples.shape == (3, 4, 1, 64, 64)
        with torch.no_grad():
            for found, epoch in zip(samples, [3, 0, 3], strict=True):
                assert torch.equal(found, tiny_run.generator(epoch)(latents))
        assert not torch.equal(samples[0], samples[1])
        assert not samples.requires_grad
        assert -1 <= samples.min() < samples.max() <= 1

    def test_a_latent_gives_its_image_whatever_the_others_are(self, tiny_run):
        latents = fixed_latents(4)
        alone = generate(tiny_run, [3], latents[2:3])[0]
        torch.testing.assert_close(generate(tiny_run, [3], latents)[0, 2:3], alone)

    def test_fixed_latents_are_the_same_on_every_call(self):
        assert fixed_latents(3).shape == (3, LATENT_SIZE)
        assert torch.equal(fixed_latents(3), fixed_latents(3))
        assert not torch.equal(fixed_latents(3, seed=1), fixed_latents(3))


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

    def test_is_described_beside_real_images(self):
        samples = torch.full((2, 2, 1, 4, 4), -1.0)
        samples[1, :, :, :2] = 1.0
        real = torch.zeros(3, 1, 4, 4, dtype=torch.uint8)
        real[:, :, :1] = 255
        text = describe_samples(sample_table(samples, [1, 25]), real)
        half, quarter = (np.repeat([1.0, -1.0], [white, 16 - white]).std(ddof=1) for white in (8, 4))
        assert "0 % ink and a contrast of 0.00 after epoch 1" in text
        assert f"50 % and {half:.2f} after epoch 25" in text
        assert f"real images have 25 % and {quarter:.2f}" in text


def history(d_fake, *, padding="zeros", seed=0, accuracy=0.8, epochs=10):
    """A history whose last five epochs have these values, and others before them."""
    rows = []
    for epoch in range(1, epochs + 1):
        late = epoch > epochs - 5
        rows.append(
            {
                "padding": padding,
                "seed": seed,
                "epoch": epoch,
                "iterations": 10 * epoch,
                "images": 640 * epoch,
                "loss_discriminator": epoch,
                "loss_generator": 2.0,
                "d_real": 0.9,
                "d_fake": d_fake if late else 0.5,
                "accuracy_running": 0.5 if late else 1.0,
                "accuracy_batch": 0.95,
                "accuracy_reference": accuracy,
            }
        )
    return pd.DataFrame(rows)


class TestTrainingHealth:
    def test_has_the_means_of_the_last_five_epochs(self):
        health = training_health(history(0.1))
        assert list(health) == [
            "padding", "seed", "loss_discriminator", "loss_generator", "d_real", "d_fake", "accuracy_running",
            "accuracy_batch", "accuracy_reference", "won",
        ]  # fmt: skip
        row = health.iloc[0]
        assert row["loss_discriminator"] == np.mean([6, 7, 8, 9, 10])
        assert row["accuracy_running"] == 0.5
        assert row["d_fake"] == pytest.approx(0.1)

    def test_takes_all_epochs_where_there_are_fewer_than_five(self):
        assert training_health(history(0.1, epochs=3))["loss_discriminator"].tolist() == [2.0]

    @pytest.mark.parametrize(("d_fake", "won"), [(0.0, True), (0.0199, True), (0.0201, False), (0.3, False)])
    def test_flags_a_discriminator_that_rejects_everything(self, d_fake, won):
        assert training_health(history(d_fake))["won"].tolist() == [won]

    def test_has_one_row_per_training(self):
        table = pd.concat(
            [history(0.0), history(0.2, seed=1), history(0.3, padding="background")], ignore_index=True
        )
        health = training_health(table)
        rows = {(row["padding"], row["seed"]): row["won"] for _, row in health.iterrows()}
        assert rows == {("zeros", 0): True, ("zeros", 1): False, ("background", 0): False}


class TestDescription:
    def test_says_how_many_won_and_which(self):
        table = pd.concat([history(0.0), history(0.2, seed=1), history(0.01, seed=2)], ignore_index=True)
        text = describe_training(training_health(table))
        assert "a probability of 0.90 of being real and generated ones 0.07." in text
        assert "Of 3 trainings D has won outright in 2 (seeds 0, 2)" in text

    def test_says_that_none_won(self):
        text = describe_training(training_health(history(0.2)))
        assert text.endswith("Of 1 trainings D has won outright in 0.")

    def test_gives_each_modes_accuracy_and_how_often_it_guesses(self):
        table = pd.concat([history(0.2, accuracy=0.9), history(0.2, seed=1, accuracy=0.5)])
        first, *sentences = describe_accuracy(training_health(table)).split("With ")
        assert first == ""
        expected = {
            "running": ("0.50", "2 of 2"),
            "batch": ("0.95", "0 of 2"),
            "reference": ("0.70", "1 of 2"),
        }
        for sentence, (mode, (mean, guessing)) in zip(sentences, expected.items(), strict=True):
            assert sentence.startswith(f"{mode} statistics D's balanced accuracy is {mean} on average")
            assert f"in {guessing} trainings it is close to guessing" in sentence


class TestHistories:
    def test_puts_runs_together_without_their_times(self, tiny_run):
        table = histories([tiny_run, tiny_run])
        assert len(table) == 2 * len(tiny_run.history) == 6
        assert list(table)[:3] == ["padding", "seed", "epoch"]
        assert not {"seconds", "images_per_second"} & set(table)
        assert {"padding", "seed", "seconds", "images_per_second"} ^ set(table) ^ set(
            tiny_run.history
        ) == set()

    def test_leaves_the_runs_history_as_it_is(self, tiny_run):
        before = tiny_run.history.copy()
        histories([tiny_run])
        pd.testing.assert_frame_equal(tiny_run.history, before)

    def test_can_be_judged(self, tiny_run):
        health = training_health(histories([tiny_run]))
        assert health["d_fake"].iloc[0] == pytest.approx(tiny_run.history["d_fake"].mean())
        assert "Of 1 trainings" in describe_training(health)
