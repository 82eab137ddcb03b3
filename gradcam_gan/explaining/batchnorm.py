"""Which statistics a discriminator's BatchNorm layers use, which decides much of what it sees.

- running: as after training. D sees separate batches of real and fake images, so the running mean of both may
  fit neither, and D may sit near chance.
- batch: of the batch it is given, as in training; then every logit and map depends on the other images.
- reference: recomputed once on a fixed set of real images: one deterministic D, each image on its own.
- settled: running statistics that have caught up with the weights: those that a checkpoint holds lag behind, and what
  a map shows may be that lag.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm as BatchNorm  # 1d, 2d, 3d and synchronised

from gradcam_gan.data import check_images
from gradcam_gan.errors import InputError
from gradcam_gan.explaining.batches import Conditions, batches, check_count, eval_copy, evaluating

SETTLING_PASSES = 36  # twelve iterations of training


def calibrate(
    discriminator: nn.Module,
    reference_images: Tensor,
    *,
    batch_size: int = 256,
    conditions: Conditions | None = None,
    noise: float = 0.0,
) -> nn.Module:
    """A copy in eval mode whose BatchNorm running statistics are those of a reference set.

    Mean and (unbiased) variance are averaged over batches of equal size, give or take one image, so that no
    short last batch gets undue weight and the order of batches does not matter. While they are taken, each
    layer normalises with the statistics of the batch, as in training.

    Args:
        discriminator: or any network; left as it is. Without BatchNorm the copy is a plain one.
        reference_images: (N, C, H, W) with N > 1, uint8 or floating point in [-1, 1].
        batch_size: the most images in a batch; larger comes closer to the statistics of the whole set.
        conditions: of the reference images, as for ``explain``.
        noise: as for ``signed_maps``.

    Returns:
        The copy; layers without running statistics (``track_running_stats=False``) have them too.

    Raises:
        InputError: fewer than two images, images that cannot be used, or batch_size below 2.
    """
    check_images(reference_images, "reference_images", noise=noise)
    if len(reference_images) < 2 or batch_size < 2:
        raise InputError(
            f"reference_images has {len(reference_images)} images and batch_size={batch_size}; "
            "a variance needs 2 or more of both"
        )
    calibrated = eval_copy(discriminator)
    layers = [module for module in calibrated.modules() if isinstance(module, BatchNorm)]
    if layers:
        parts = batches(calibrated, reference_images, batch_size, conditions, noised=noise > 0)
        device = next(calibrated.parameters(), torch.empty(0)).device
        momenta = [layer.momentum for layer in layers]
        for layer in layers:
            _track_cumulative(layer, device)
        with torch.no_grad():
            for batch in parts:
                batch.output(calibrated)
        for layer, momentum in zip(layers, momenta, strict=True):
            layer.momentum = momentum
            layer.training = False
    return calibrated


def settle(
    discriminator: nn.Module,
    real: Tensor,
    generated: Tensor,
    *,
    passes: int = SETTLING_PASSES,
    batch_size: int = 64,
    conditions: Mapping[str, Conditions] | None = None,
    noise: float = 0.0,
) -> nn.Module:
    """A copy in eval mode whose running statistics have caught up with its weights.

    Passes in training mode, nothing but the statistics moving, each layer with the momentum of its own: a batch of real
    images, then two of generated ones, and so on, as one iteration of training shows them to D (its own two, and G's).

    Args:
        discriminator: left as it is.
        real: (N, C, H, W), uint8 or floating point in [-1, 1].
        generated: (M, C, H, W), likewise.
        passes: how many; after 36 with PyTorch's momentum of 0.1 a share of 0.02 is left of the stored statistics.
        batch_size: images drawn for each, with replacement, always the same.
        conditions: as for ``explain``, of ``real`` and ``generated`` under these names.
        noise: as for ``signed_maps``.

    Raises:
        InputError: images that cannot be used, or a condition that has not one value an image.
    """
    shown, told = {"real": real, "generated": generated}, conditions or {}
    for name, images in shown.items():
        check_images(images, name, noise=noise)
        for key, values in told.get(name, {}).items():
            check_count(f"conditions[{name!r}][{key!r}]", values, images)
    settled = eval_copy(discriminator)
    layers = [module for module in settled.modules() if isinstance(module, BatchNorm)]
    random = torch.Generator().manual_seed(0)
    for i in range(passes if layers else 0):
        name = "generated" if i % 3 else "real"
        images = shown[name]
        chosen = torch.randint(len(images), (batch_size,), generator=random)
        own = {key: values[chosen.to(values.device)] for key, values in told.get(name, {}).items()}
        # made before the layers train: the first batch is run to find its layout
        (batch,) = batches(settled, images[chosen.to(images.device)], batch_size, own, noised=noise > 0)
        for layer in layers:
            layer.training = True
        with torch.no_grad():
            batch.output(settled)
        for layer in layers:
            layer.training = False
    return settled


def batch_statistics(discriminator: nn.Module) -> nn.Module:
    """A copy in eval mode whose BatchNorm layers use the statistics of the batch they are given.

    Its logits and maps depend on the batch: explain real and fake images apart, in batches as in training.
    """
    copied = eval_copy(discriminator)
    for module in copied.modules():
        if isinstance(module, BatchNorm):
            module.track_running_stats = False
            module.running_mean = module.running_var = module.num_batches_tracked = None
    return copied


def real_fake_accuracy(
    discriminator: nn.Module,
    real: Tensor,
    fake: Tensor,
    *,
    reference: Tensor,
    batch_size: int = 256,
    conditions: Mapping[str, Conditions] | None = None,
) -> dict[str, float]:
    """Balanced accuracy of a discriminator (logit above 0 means real) with each kind of BatchNorm statistics.

    An explanation of a D that is at chance (0.5) explains nothing. Runs under the caller's autocast, if any.

    Args:
        discriminator: left as it is.
        real: real images (N, C, H, W), uint8 or floating point in [-1, 1].
        fake: generated images, likewise; another number of them is fine.
        reference: real images to calibrate on (``calibrate``), better not those in ``real``.
        batch_size: the most images in a batch, also of those whose statistics ``batch`` uses.
        conditions: as for ``explain``, of ``real``, ``fake`` and ``reference`` under these names.

    Returns:
        Accuracy in 0..1 under ``running``, ``batch`` (real and fake in separate batches) and ``reference``.

    Raises:
        InputError: images that cannot be used, or batch_size below 2.
    """
    check_images(real, "real")
    check_images(fake, "fake")
    told = conditions or {}
    modes = {
        "running": discriminator,
        "batch": batch_statistics(discriminator),
        "reference": calibrate(
            discriminator, reference, batch_size=batch_size, conditions=told.get("reference")
        ),
    }

    def called_real(model: nn.Module, images: Tensor, name: str) -> Tensor:
        """Share of images whose logit is above 0."""
        with torch.no_grad(), evaluating(model):
            parts = batches(model, images, batch_size, told.get(name))
            return (torch.cat([batch.scores(model) for batch in parts]) > 0).float().mean()

    return {
        mode: float((called_real(model, real, "real") + 1 - called_real(model, fake, "fake")) / 2)
        for mode, model in modes.items()
    }


def _track_cumulative(layer: BatchNorm, device: torch.device) -> None:
    """Set a layer to take the plain average of the statistics of all batches from now on."""
    if layer.running_mean is None:
        layer.track_running_stats = True
        layer.running_mean = torch.zeros(layer.num_features, device=device)
        layer.running_var = torch.ones(layer.num_features, device=device)
        layer.num_batches_tracked = torch.tensor(0, device=device)
    layer.reset_running_stats()
    layer.momentum = None
    layer.training = True
