"""A step of a discriminator that knows the voice, and what it says of what was made: for the head of the flow
decoder. Least squares (Mao et al. 2017).

Shapes: B batch; what is judged has the shape that the discriminator reads, voices are (B, V).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...discriminators import Judgement
from ...discriminators.mel_voice import MelVoiceDiscriminator
from .adversarial import CriticStep, discriminator_loss, feature_matching_loss, generator_loss


@dataclass(frozen=True)
class Judged:
    """What was recorded, what was made in its place, and the voice (B, V) of both, zeros where it is not told."""

    real: Tensor
    fake: Tensor
    voice: Tensor

    def rows(self, chosen: Tensor) -> Judged:
        """Those examples alone; chosen (B,) bool."""
        return Judged(self.real[chosen], self.fake[chosen], self.voice[chosen])


class Judging(nn.Module):
    """What a step asks of the discriminator in one pass, as processes that share gradients need it."""

    def __init__(self, critic: MelVoiceDiscriminator):
        super().__init__()
        self.critic = critic

    def forward(self, real: Tensor, fake: Tensor, voice: Tensor) -> list[Judgement]:
        """-> is it speech (2 B); is it the voice, of real and of fake; is the real one the voice of another (B)."""
        speech, heard = self.critic.read(torch.cat([real, fake]))
        of_real, of_fake = heard.chunk(2)
        asked = [self.critic.compare(of_real, voice), self.critic.compare(of_fake, voice)]
        return [speech, *asked, self.critic.compare(of_real, voice.roll(1, 0))]


def learn_to_tell(
    judging: nn.Module, part: Judged, step: CriticStep, autocast: torch.autocast
) -> dict[str, Tensor]:
    """A step of the discriminator: its loss, and how often it tells a voice from another, where there are several."""
    with autocast:
        speech, on_real, on_fake, other = judging(part.real, part.fake.detach(), part.voice.detach())
    pairs, several = [speech.split(len(part.real)), (on_real, on_fake)], len(part.real) > 1
    if several:
        pairs.append((on_real, other))
    learned = discriminator_loss([r for r, _ in pairs], [f for _, f in pairs], "least_squares")
    told_apart = {"voices_told_apart": (on_real.logits > other.logits).float().mean()} if several else {}
    step(learned)
    return {"discriminator": learned.detach(), **told_apart}


def heard_by(critic: MelVoiceDiscriminator, part: Judged, autocast: torch.autocast) -> dict[str, Tensor]:
    """How far what was made is taken for real, and for the voice, and how like its inner layers are."""
    critic.requires_grad_(False)
    with autocast:
        with torch.no_grad():
            on_real = critic(part.real, part.voice)
        on_fake = critic(part.fake, part.voice)
    critic.requires_grad_(True)
    return {
        "generator": generator_loss(on_fake[:1], "least_squares"),
        "voice": generator_loss(on_fake[1:], "least_squares"),
        "features": feature_matching_loss(on_real[:1], on_fake[:1]),
    }
