"""Trains the evaluator that the package ships, gradcam_gan/scoring/digit_evaluator.safetensors: about ten minutes.

    python data/train_digit_evaluator.py [folder that holds MNIST/]

It learns from MNIST's training split without the 5,000 digits of mnist-5k, the first 500 of each class: no image that
a generator is scored against by default is known to it. Prints the accuracy on MNIST's test split and the checksum for
evaluator.py.
"""

import hashlib
import sys

import torch

from gradcam_gan.data import ImageSet, load_images
from gradcam_gan.scoring.evaluator import DIGIT_EVALUATOR, accuracy, save_evaluator, train_evaluator

PACKAGED = 500  # of each class: see build_mnist_5k.py


def main() -> None:
    """Train, measure, write."""
    torch.set_num_threads(1)  # the sums of other numbers of threads differ in their last bits
    folder = sys.argv[1] if len(sys.argv) > 1 else None
    images, labels, names = load_images("mnist", 64, "train", folder)
    known = torch.cat([(labels == digit).nonzero().flatten()[:PACKAGED] for digit in range(10)])
    unknown = torch.ones(len(labels), dtype=torch.bool)
    unknown[known] = False
    model = train_evaluator(ImageSet(images[unknown], labels[unknown], names))
    test = load_images("mnist", 64, "test", folder)
    save_evaluator(model, DIGIT_EVALUATOR)
    content = DIGIT_EVALUATOR.read_bytes()
    sys.stdout.write(
        f"trained on {int(unknown.sum())} digits, "
        f"accuracy on {len(test.images)} test digits {accuracy(model, test):.4f}\n"
        f"{len(content)} bytes, SHA-256 {hashlib.sha256(content).hexdigest()}\n"
    )


if __name__ == "__main__":
    main()
