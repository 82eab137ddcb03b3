import pandas as pd
import pytest
import torch
from helpers import randomised

from gradcam_gan.data import to_model_range
from gradcam_gan.explaining.cam import explain
from gradcam_gan.explaining.measures import normalise
from gradcam_gan.models.dcgan import Discriminator
from gradcam_gan.studies.epoch_heatmaps.literal import library_maps, literal_panel, saturation
from gradcam_gan.studies.style import heatmap_grid


def discriminator(images, mean_logit=0.0):
    """A tiny D whose logits for these images have a standard deviation of 2 and the given mean."""
    network = randomised(Discriminator("paper28" if images.shape[-1] == 28 else "paper64", width=2), 5)
    with torch.no_grad():
        logits = network(to_model_range(images))
        head = network.layers[-1]
        head.weight *= 2 / logits.std()
        head.bias = torch.nn.Parameter(mean_logit - 2 * logits.mean() / logits.std()[None])
    return network


@pytest.mark.parametrize("size", [64, 28])
def test_where_nothing_saturates_the_map_is_the_logits_up_to_a_factor(digits, size):
    images = digits[:12, :, 32 - size // 2 :, 32 - size // 2 :][..., :size, :size]
    network = discriminator(images)
    maps, probabilities = library_maps(network, images)
    ours = explain(network, images)
    assert (ours.amax((1, 2)) > 0).sum() > 6
    torch.testing.assert_close(maps, normalise(ours, "min-max"), rtol=0, atol=1e-3)
    torch.testing.assert_close(probabilities, network(to_model_range(images)).sigmoid())


def test_where_the_sigmoid_saturates_the_map_is_blank(digits):
    images = digits[:12]
    clear, _ = library_maps(discriminator(images), images)
    maps, probabilities = library_maps(discriminator(images, mean_logit=30.0), images)
    assert clear.flatten(1).any(1).sum() > 6
    assert (probabilities == 1).all()
    assert not maps.any()


def test_the_network_is_left_as_it_was(digits):
    network = discriminator(digits[:4]).train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    library_maps(network, digits[:4])
    assert network.training
    assert all(parameter.grad is None for parameter in network.parameters())
    assert not any(module._forward_hooks for module in network.modules())
    assert all(torch.equal(value, before[name]) for name, value in network.state_dict().items())


@pytest.fixture
def saturating(tiny_run, digits, monkeypatch):
    """The tiny run with a D that saturates from epoch 2 on."""
    monkeypatch.setattr(
        type(tiny_run),
        "discriminator",
        lambda run, epoch: discriminator(digits[:12], mean_logit=30.0 if epoch >= 2 else 0.0),
    )
    return tiny_run


def test_panel_and_saturation_have_a_row_an_epoch(saturating, digits):
    panel = literal_panel(saturating, digits[:12], [1, 2], [str(i) for i in range(12)])
    expected = torch.stack([library_maps(saturating.discriminator(e), digits[:12])[0] for e in (1, 2)])
    assert torch.equal(panel.maps, expected)
    assert panel.rows == ["epoch 1", "epoch 2"]
    assert panel.table[["epoch", "image"]].to_numpy().tolist() == [[e, i] for e in (1, 2) for i in range(12)]
    heatmap_grid(panel)

    table = saturation(saturating, digits[:12], [1, 2]).set_index("epoch")
    assert list(table) == ["preset", "seed", "logit", "blank", "rounded"]
    assert table["logit"].tolist() == pytest.approx([0, 30], abs=1e-3)
    assert table["rounded"].tolist() == [0, 1]
    assert table["blank"].tolist() == [
        pytest.approx(float((~expected[0].flatten(1).any(1)).float().mean())),
        1,
    ]


def test_what_is_kept_is_there_without_the_networks(saturating, digits, monkeypatch):
    images, captions = digits[:3], ["a", "b", "c"]
    panel, table = literal_panel(saturating, images, [1, 2], captions), saturation(saturating, images, [1, 2])
    monkeypatch.delattr(type(saturating), "discriminator")
    again = literal_panel(saturating, images, [1, 2], captions)
    assert torch.equal(again.maps, panel.maps)
    pd.testing.assert_frame_equal(again.table, panel.table)
    pd.testing.assert_frame_equal(saturation(saturating, images, [1, 2]), table)
