"""Training on two fixed sets: what decides the weights, and what is kept."""

import pytest
import torch
from helpers import tiny

from gradcam_gan.explaining.batches import score_images
from gradcam_gan.studies.which_explanation import two_sets
from gradcam_gan.studies.which_explanation.two_sets import as_shown, discriminator_of, train_on_sets


@pytest.fixture(scope="module")
def sets():
    """Noise, and darker noise: learned in a moment."""
    noise = torch.randint(0, 256, (128, 1, 28, 28), generator=torch.Generator().manual_seed(0)).byte()
    return noise, noise.flip(0) // 2


def same(first, second):
    return all(
        torch.equal(one, other) for one, other in zip(first.parameters(), second.parameters(), strict=True)
    )


def test_learns_to_tell_them_apart(sets):
    trained = train_on_sets(tiny(epochs=8, learning_rate=0.01), *sets)
    assert not trained.training
    real, others = (score_images(trained, images, 64) for images in sets)
    assert (real > others.max()).float().mean() > 0.95


def test_the_same_training_is_kept_and_any_other_is_another(sets, tmp_path, monkeypatch):
    config = tiny(epochs=1)
    trained = discriminator_of(config, *sets, tmp_path)
    assert same(trained, train_on_sets(config, *sets))
    torch.manual_seed(1)  # the caller's random state decides nothing
    assert same(trained, train_on_sets(config, *sets))
    monkeypatch.setattr(two_sets, "train_on_sets", None)  # whatever comes now must have been kept
    assert same(trained, discriminator_of(config, *sets, tmp_path))
    monkeypatch.undo()
    changed = sets[1].clone()
    changed[0, 0, 0, 0] ^= 1
    others = [
        discriminator_of(config.changed(seed=1), *sets, tmp_path),
        discriminator_of(config, sets[0], changed, tmp_path),
        discriminator_of(config, *sets, tmp_path, together=False),
    ]
    assert not any(same(trained, other) for other in others)
    assert len([path for path in (tmp_path / "two_sets").iterdir() if path.is_dir()]) == 4


def test_as_shown_holds_as_many_of_either_in_no_order(sets):
    shown = as_shown(*sets, count=64)
    from_real = [any(torch.equal(image, one) for one in sets[0]) for image in shown]
    assert len(shown) == 64
    assert sum(from_real) == 32
    assert 8 < sum(from_real[:32]) < 24
