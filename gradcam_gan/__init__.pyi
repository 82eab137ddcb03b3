from .errors import GradcamGanError as GradcamGanError
from .errors import InputError as InputError
from .errors import RunError as RunError
from .networks import Discriminator as Discriminator
from .networks import Generator as Generator
from .networks import StandardDiscriminator as StandardDiscriminator
from .networks import to_model_range as to_model_range
