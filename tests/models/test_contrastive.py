import math

import pytest
import torch
from helpers import randomised, refused
from torch.nn import functional as F

from gradcam_gan.models.contrastive import ContrastiveClassifier, supervised_contrast

SIZE = {"paper64": 64, "paper28": 28}


@pytest.mark.parametrize("preset", SIZE)
def test_the_classifier_gives_embeddings_of_length_one_and_logits(preset):
    classifier = randomised(ContrastiveClassifier(preset, width=2, classes=7))
    images = torch.rand(5, 1, SIZE[preset], SIZE[preset]) * 2 - 1
    embeddings, logits = classifier.both(images)
    assert (embeddings.shape, logits.shape) == ((5, 128), (5, 7))
    features = classifier.layers(images).sum((2, 3))
    assert torch.equal(classifier(images), logits)
    torch.testing.assert_close(logits, classifier.head(features))
    torch.testing.assert_close(embeddings, F.normalize(classifier.embedding(features), dim=1))
    assert list(classifier.named_layers.values()) == list(classifier.layers)  # it has no head for "real"
    assert "takes images of shape (N, 1" in refused(classifier, images[..., 1:])


def naive_contrast(embeddings, labels, temperature):
    """Khosla et al. 2020, equation 2, written out."""
    rows, labels = embeddings.double(), labels.tolist()
    losses = []
    for i, own in enumerate(rows):
        others = [a for a in range(len(rows)) if a != i]
        positives = [p for p in others if labels[p] == labels[i]]
        if positives:
            total = sum(torch.exp(own @ rows[a] / temperature) for a in others)
            shares = [torch.log(torch.exp(own @ rows[p] / temperature) / total) for p in positives]
            losses.append(-sum(shares) / len(positives))
    return sum(losses) / len(losses) if losses else torch.zeros((), dtype=torch.float64)


class TestSupervisedContrast:
    def test_three_rows_worked_by_hand(self):
        """Two of a class at a right angle, one of another class opposite to the first."""
        embeddings = torch.tensor([[1.0, 0.0], [0.0, 1.0], [-1.0, 0.0]])
        labels, temperature = torch.tensor([4, 4, 1]), 0.5
        first = -math.log(math.exp(0) / (math.exp(0) + math.exp(-1 / 0.5)))
        second = -math.log(math.exp(0) / (math.exp(0) + math.exp(0)))
        loss = supervised_contrast(embeddings, labels, temperature)
        assert loss.item() == pytest.approx((first + second) / 2, rel=1e-6)  # the third row has no positive

    @pytest.mark.parametrize("temperature", [0.07, 1.0])
    @pytest.mark.parametrize("classes", [1, 2, 10])
    def test_it_is_the_double_sum_and_so_is_its_gradient(self, classes, temperature):
        generator = torch.Generator().manual_seed(classes)
        rows = F.normalize(torch.randn(12, 8, generator=generator), dim=1).requires_grad_()
        labels = torch.randint(classes, (12,), generator=generator)
        loss, expected = (f(rows, labels, temperature) for f in (supervised_contrast, naive_contrast))
        torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-6)
        found, wanted = (torch.autograd.grad(value, rows)[0] for value in (loss, expected))
        torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)

    @pytest.mark.parametrize("temperature", [0.07, 0.001])
    def test_without_any_positive_it_is_zero_and_gradients_are_finite(self, temperature):
        rows = F.normalize(torch.randn(4, 8, generator=torch.Generator().manual_seed(0)), dim=1)
        for labels in ([0, 1, 2, 3], [0, 1, 1, 3]):
            rows = rows.detach().requires_grad_()
            loss = supervised_contrast(rows, torch.tensor(labels), temperature)
            loss.backward()
            assert rows.grad.isfinite().all()
            assert (loss == 0) == (len(set(labels)) == 4)

    def test_equal_rows_leave_gradients_finite(self):
        rows = torch.ones(6, 4).div(2).requires_grad_()
        loss = supervised_contrast(rows, torch.tensor([0, 0, 0, 1, 1, 1]), 0.07)
        loss.backward()
        assert loss.item() == pytest.approx(math.log(5), rel=1e-5)
        assert rows.grad.isfinite().all()
