import numpy as np
import pandas as pd
import pytest
import torch
from helpers import assert_nothing_is_cut_off, draw, legend_of, texts

from gradcam_gan.data import load_images, to_bytes, to_model_range
from gradcam_gan.scoring.evaluator import load_evaluator
from gradcam_gan.scoring.scores import Reference, evaluate
from gradcam_gan.scoring.scores import draw as draw_images
from gradcam_gan.studies import train_dcgan
from gradcam_gan.studies.style import PAGE
from gradcam_gan.studies.train_dcgan import histories, sample_table, samples
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


UNVEILED = [20, 9, 8, 7, 6]


def scores(fid, recall, seed=1):
    """Five epochs, rows of Figure 1 all of them, after the untrained state."""
    columns = {"fid": [140, *fid], "recall": [0, *recall], "row": [False, *[True] * 5]}
    columns |= {"fid_without_veil": [140, *UNVEILED], "recall_without_veil": [0, *[0.8] * 5]}
    accuracy = dict.fromkeys(train_dcgan.ACCURACIES, 0.8)
    return pd.DataFrame({"seed": seed, "epoch": range(6), **columns, **accuracy})


SCORES = pd.concat([
    scores([50, 9, 8, 7, 10], [0.0, 0.3, 0.4, 0.5, 0.6]),  # four healthy rows of five
    scores([50, 17, 8, 7, 10], [0.0, 0.3, 0.4, 0.5, 0.6], seed=2),
    scores([9, 9, 8, 7, 10], [0.0, 0.1, 0.4, 0.5, 0.6], seed=3),
])  # fmt: skip


def test_health_by_network():
    table = train_dcgan.health_table(SCORES).set_index("seed")
    assert table["healthy"].to_dict() == {1: True, 2: False, 3: False}
    assert table["healthy_rows"].tolist() == [0.8, 0.6, 0.6]
    assert table.loc[1, ["best_fid", "best_recall"]].tolist() == [7, 0.6]
    assert table["fid_18"].isna().all()  # there are five epochs
    said = train_dcgan.name_networks(table.reset_index())
    assert said.startswith("**1 of 3 networks")
    assert "did not: seed 2, seed 3. " in said
    assert said.endswith("counts as black, 3 of 3 did.")


def test_pilots_count_as_far_as_they_went():
    table = train_dcgan.pilots()
    assert not table.duplicated([*train_dcgan.REGIME, "seed"]).any()
    assert (table["healthy"] == ((table["fid"] < 16) & (table["recall"] > 0.2))).all()
    said = train_dcgan.describe_pilots(table.assign(width=32, learning_rate=2e-4, batch_size=64))
    assert (
        f"learning rate 0.0002, batches of 64: **{table['healthy'].sum()} of {len(table)} trainings**" in said
    )


def test_the_health_chart_has_a_line_a_network_their_median_and_the_limits():
    figure = draw(train_dcgan.health_chart, SCORES)
    assert_nothing_is_cut_off(figure, PAGE)
    low, high = figure.axes[0].get_ylim()
    assert low < 7
    assert high > 50
    # three networks, their median, of FID and recall that without the veil, the limit, five rows
    assert [len(axes.lines) for axes in figure.axes] == [11, 11, 10, 10, 10]
    assert figure.axes[0].lines[4].get_ydata().tolist() == UNVEILED
    assert [axes.lines[-6].get_ydata()[0] for axes in figure.axes] == [16.0, 0.2, 0.5, 0.5, 0.5]
    assert figure.axes[0].lines[3].get_ydata().tolist() == [50, 9, 8, 7, 10]


def test_the_health_chart_shows_the_networks_that_did_not_train_well():
    figure = draw(train_dcgan.health_chart, SCORES)
    assert [line.get_color() for line in figure.axes[0].lines[:4]] == ["C0", "black", "black", "C0"]
    assert "did not train well" in texts(figure.legends[0].get_texts())


@pytest.mark.parametrize("seeds", [[0], [0, 1, 2]])
def test_training_curves_have_a_line_per_seed_and_a_mean(seeds):
    figure = draw(train_dcgan.training_curves, pd.concat(history(seed=seed) for seed in seeds))
    assert_nothing_is_cut_off(figure, PAGE)
    assert [legend_of(axes) for axes in figure.axes] == [
        ["discriminator", "generator"],
        ["D(x), real", "D(G(z)), generated"],
    ]
    assert len(figure.axes[0].lines) == 2 * (len(seeds) + 1 if len(seeds) > 1 else 1)
    (mean,) = [line for line in figure.axes[0].lines if line.get_label() == "discriminator"]
    assert mean.get_ydata() == pytest.approx(np.arange(1, 11) + 0.1 * np.mean(seeds))


def test_samples_are_of_the_same_latents_at_every_epoch_and_are_kept_without_the_generator(
    tiny_run, monkeypatch
):
    found = samples(tiny_run, [3, 0, 3], 4)
    assert found.shape == (3, 4, 1, 64, 64)
    with torch.no_grad():
        for mine, epoch in zip(found, [3, 0, 3], strict=True):
            assert torch.equal(mine, to_bytes(tiny_run.generator(epoch)(fixed_latents(4))))
    assert not torch.equal(found[0], found[1])
    monkeypatch.delattr(type(tiny_run), "generator")
    assert torch.equal(samples(tiny_run, [3, 0, 3], 4), found)
    with pytest.raises(AttributeError):  # other epochs are other samples
        samples(tiny_run, [3], 4)


def test_the_veil_table_has_the_scores_at_every_level_and_is_kept(tiny_run, monkeypatch):
    held_out = load_images("mnist-5k", 64, "test")
    reference = Reference(
        held_out._replace(images=held_out.images[:40], labels=held_out.labels[:40]), load_evaluator()
    )
    found = train_dcgan.veil_table(tiny_run, reference, [3], 20)
    assert found["black_below"].tolist() == [0, 24, 64, 128]
    expected = [
        evaluate(tiny_run.generator(3), one, count=20)["fid"] for one in (reference, reference.without_veil)
    ]
    assert found["fid"][[0, 2]].tolist() == expected
    monkeypatch.delattr(type(tiny_run), "generator")
    pd.testing.assert_frame_equal(train_dcgan.veil_table(tiny_run, reference, [3], 20), found)


def test_the_discriminator_is_asked_with_and_without_the_veil(tiny_run):
    real = load_images("mnist-5k", 64, "test").images[:64]
    (row,) = train_dcgan.veil_logits(tiny_run, real, [3]).to_dict("records")
    network, made = tiny_run.discriminator(3).train(), draw_images(tiny_run.generator(3), 64)
    assert row["ground"] == int(made.median()) > 0
    for name, images in {
        "real": real,
        "generated": made,
        "lifted": (made.int() - row["ground"]).clamp(0, 255),
    }.items():
        with torch.no_grad():
            expected = network(to_model_range(images.to(torch.uint8))).mean()
        assert row[name] == pytest.approx(float(expected), abs=1e-5)


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
