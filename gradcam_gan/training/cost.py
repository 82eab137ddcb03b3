"""How long a training takes on one core: for the time limits of a cluster, which have to scale with the work."""

from gradcam_gan.training.config import TrainingConfig

# seconds that an image of 64x64 pixels takes at a width, on one core with bfloat16: fitted to 830 images a second at
# width 16 and 320 at width 32; width 64 then gives 94. A core of AVX2 alone, in float32, gives a third: 300 and 100
FIXED, PER_SQUARED_WIDTH = 5.7e-4, 2.5e-6
SIZE_POWER = 0.6  # of 28x28 pixels, 1,400 images a second at width 16: small layers are slow for their size
LARGEST_MODEL = 4  # times a DCGAN's: DuDGAN, with its classifier
IMAGES = {"mnist-5k": 4_000}  # of a data set that is not the largest
MOST_IMAGES = 60_000


def core_seconds(config: TrainingConfig) -> float:
    """Seconds that a training takes on one core, to a factor of about two with bfloat16.

    An unknown folder counts as 60,000 images.
    """
    images = config.train_images or IMAGES.get(config.data, MOST_IMAGES)
    per_image = (FIXED + PER_SQUARED_WIDTH * config.width**2) * (config.size / 64) ** SIZE_POWER
    return config.epochs * images * per_image * (LARGEST_MODEL if config.model else 1)
