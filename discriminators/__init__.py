"""Networks that tell codec output from recordings, for adversarial training."""

from .base import Discriminator, Ensemble, Judgement
from .mel_voice import MelVoiceDiscriminator
from .ms_stft import MultiScaleSTFTDiscriminator
from .multi_band_stft import MultiBandSTFTDiscriminator
from .multi_period import MultiPeriodDiscriminator
from .multi_resolution import MultiResolutionDiscriminator

__all__ = [
    "Discriminator",
    "Ensemble",
    "Judgement",
    "MelVoiceDiscriminator",
    "MultiBandSTFTDiscriminator",
    "MultiPeriodDiscriminator",
    "MultiResolutionDiscriminator",
    "MultiScaleSTFTDiscriminator",
]
