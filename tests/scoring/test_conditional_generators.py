import pytest
import torch
from torch import nn

from gradcam_gan.data import ImageSet, load_images, to_model_range
from gradcam_gan.models.dcgan import Generator
from gradcam_gan.scoring.evaluator import load_evaluator
from gradcam_gan.scoring.scores import Reference, classes_to_draw, draw, evaluate


class Drawer(nn.Module):
    """A conditional generator that gives, for each class, one known image."""

    def __init__(self, images, shift=0):
        super().__init__()
        self.classes = len(images)
        self.images = nn.Parameter(to_model_range(images), requires_grad=False)
        self.shift, self.asked = shift, []

    def forward(self, latents, labels):
        assert len(latents) == len(labels)
        self.asked.append(labels)
        return self.images[(labels + self.shift) % self.classes] + 1e-4 * latents[:, :1, None, None].clamp(
            0, 1
        )


@pytest.fixture(scope="module")
def reference():
    held_out = load_images("mnist-5k", 64, "test")
    return Reference(
        ImageSet(held_out.images[:60], held_out.labels[:60], held_out.class_names), load_evaluator()
    )


@pytest.fixture(scope="module")
def one_of_each(reference):
    """Ten digits, 0 to 9, that the classifier gets right, uint8 (10, 1, 64, 64)."""
    held_out = load_images("mnist-5k", 64, "test")
    seen = reference.classes(reference.embed(held_out.images[:200]))
    right = [(seen == digit) & (held_out.labels[:200] == digit) for digit in range(10)]
    return torch.stack([held_out.images[:200][which][0] for which in right])


class TestEvaluation:
    def test_a_conditional_generator_is_asked_for_all_classes_alike(self, one_of_each):
        generator = Drawer(one_of_each).train()
        images = draw(generator, 230)
        asked = torch.cat(generator.asked)
        assert torch.equal(asked, torch.arange(230) % 10)
        assert torch.equal(asked, classes_to_draw(generator, 230))
        expected = one_of_each[asked].int()
        assert (images.int() - expected).abs().max() <= 1
        assert generator.training

    def test_an_unconditional_generator_is_asked_for_none(self):
        generator = Generator("paper64", width=1)
        assert classes_to_draw(generator, 5) is None
        assert draw(generator, 5).shape == (5, 1, 64, 64)

    @pytest.mark.parametrize(("shift", "expected"), [(0, 1.0), (1, 0.0)])
    def test_class_accuracy_is_the_share_of_images_of_the_class_asked_for(
        self, reference, one_of_each, shift, expected
    ):
        scores = evaluate(Drawer(one_of_each, shift), reference, count=40)
        assert scores["class_accuracy"] == expected
        assert scores["class_entropy"] == pytest.approx(1)

    def test_class_accuracy_counts_each_image(self, reference, one_of_each):
        same = one_of_each[[0, 1, 2, 3, 3, 3, 3, 3, 3, 3]]
        assert evaluate(Drawer(same), reference, count=40)["class_accuracy"] == pytest.approx(0.4)

    def test_there_is_no_class_accuracy_where_no_class_was_asked_for(self, reference, one_of_each):
        assert "class_accuracy" not in evaluate(Generator("paper64", width=1), reference, count=20)
        assert "class_accuracy" not in evaluate(one_of_each.repeat(2, 1, 1, 1), reference)
