"""What a GAN's discriminator looks at, epoch by epoch: models, training, Grad-CAM and measures.

The public names are listed once, in ``__init__.pyi``; each is imported when it is first used, so that tools
that only need a configuration (the Snakefile, the command line) do not wait for torch.
"""

import lazy_loader

__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
