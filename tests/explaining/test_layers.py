import torch
from helpers import refused
from torch import nn

from gradcam_gan.explaining.cam import explain
from gradcam_gan.explaining.layers import spatial_layers
from gradcam_gan.models.dcgan import LAYER_NAMES, Discriminator


class Branching(nn.Module):
    """A layer that runs twice, one that never runs, one of 1x1 and one that is no map."""

    def __init__(self):
        super().__init__()
        self.first, self.twice = nn.Conv2d(1, 2, 3), nn.ReLU()
        self.never = nn.Conv2d(2, 2, 1)
        self.tail = nn.Sequential(
            nn.Conv2d(2, 2, 3, 2), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(2, 1)
        )

    def forward(self, images):
        return self.tail(self.twice(self.twice(self.first(images))))


def test_names_what_a_map_can_be_made_at_in_the_order_of_the_pass():
    network, images = Branching().train(), torch.zeros(3, 1, 12, 12)
    assert spatial_layers(network, images) == ["first", "tail.0"]
    for layer in ("first", "tail.0"):
        explain(network, images, layer=layer)
    assert network.training
    assert not any(module._forward_hooks for module in network.modules())


def test_a_networks_own_names_go_before_dotted_ones():
    network = Discriminator(width=2)
    assert spatial_layers(network, torch.zeros(1, 1, 64, 64)) == list(LAYER_NAMES)


def test_a_network_without_a_map_is_one_line():
    flat = nn.Sequential(nn.Flatten(), nn.Linear(4, 1))
    assert "no layer that runs once" in refused(spatial_layers, flat, torch.zeros(2, 1, 2, 2))
