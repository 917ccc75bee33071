"""What a discriminator makes of the flow decoder's mels, and what the decoder learns from it.

    head's clean mel, or the recording's; beside it the trunk's mean -> a stretch of the target -> MelVoiceDiscriminator

Least squares pull a mel towards the mean of all that could have been said, which is a haze: consonants are dull and
pauses are not silent. What is judged beside the mean has to look like one recording instead, in one or two steps of
the head (Xiao et al. 2022, "Denoising Diffusion GANs"; Sauer et al. 2023, "Adversarial Diffusion Distillation").

Shapes: B batch, T frames of 50 Hz, F numbers of a frame, M mel bands.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from ...discriminators import Judgement, MelVoiceDiscriminator
from ...tts.decoders.flow.decoder import PATCH
from .adversarial import CriticStep, discriminator_loss, feature_matching_loss, generator_loss
from .flow_batch import FlowBatch
from .flow_recipe import FlowAdversary


@dataclass(frozen=True)
class Drawn:
    """Normalised frames (B, T, F) of a step: of the recordings, of the trunk and of the head."""

    clean: Tensor
    mean: Tensor
    head: Tensor


@dataclass(frozen=True)
class Stretch:
    """A part of each target, (B, 2, M, 2 t) each, what was made or recorded and the trunk's mean; and the voice (B, E),
    zeros where it is not told."""

    real: Tensor
    fake: Tensor
    voice: Tensor

    def rows(self, chosen: Tensor) -> Stretch:
        """Those examples alone; chosen (B,) bool."""
        return Stretch(self.real[chosen], self.fake[chosen], self.voice[chosen])


def stretch(drawn: Drawn, batch: FlowBatch, frames: int, generator: torch.Generator | None = None) -> Stretch:
    """`frames` mel frames of each target, at random; what lies beyond its end, and bands that the recording does not
    have, are 0 in all."""
    n = frames // PATCH
    b, t = batch.target.shape
    first = batch.target.int().argmax(1)
    spare = (batch.target.sum(1) - n).clamp(min=0)
    draw = torch.rand(b, generator=generator).to(first.device)
    at = (first + (draw * (spare + 1)).long())[:, None] + torch.arange(n, device=first.device)
    inside = at < t
    at = at.clamp(max=t - 1)
    shown = (batch.target.gather(1, at) & inside)[..., None] * batch.bands[:, None]

    def part(x: Tensor) -> Tensor:
        cut = x.float().gather(1, at[..., None].expand(-1, -1, x.shape[2])) * shown
        return cut.unflatten(2, (PATCH, -1)).flatten(1, 2).transpose(1, 2)

    beside = part(drawn.mean.detach())
    real, fake = (torch.stack([part(x), beside], dim=1) for x in (drawn.clean, drawn.head))
    return Stretch(real, fake, batch.speaker)


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
    judging: nn.Module, part: Stretch, step: CriticStep, autocast: torch.autocast
) -> dict[str, Tensor]:
    """A step of the discriminator, least squares (Mao et al. 2017)."""
    real, fake, voice = part.real, part.fake.detach(), part.voice
    with autocast:
        speech, on_real, on_fake, other = judging(real, fake, voice)
    pairs = [speech.split(len(real)), (on_real, on_fake)]
    if len(real) > 1:  # a single example has no other's voice
        pairs.append((on_real, other))
    learned = discriminator_loss([r for r, _ in pairs], [f for _, f in pairs], "least_squares")
    step(learned)
    return {"discriminator": learned.detach(), "told_apart": (on_real.logits > other.logits).float().mean()}


def heard_by(critic: MelVoiceDiscriminator, part: Stretch, autocast: torch.autocast) -> dict[str, Tensor]:
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


def as_in_speaking(
    time: Tensor, sample: Tensor, section: FlowAdversary
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Times (B,) and noise (B, T, F) of which a share is drawn as the head speaks in two steps: at time 0 from noise of
    its temperature, or at a half, from that noise and what the first step drew.

    -> times, noise; which examples these are (B,), and which of them are in the second step (B,).
    """
    u = torch.rand(len(time), device=time.device)
    spoken, second = u < section.spoken, u < section.spoken / 2
    sample = torch.where(spoken[:, None, None], section.temperature * sample, sample)
    time = torch.where(spoken, torch.where(second, 0.5, 0.0), time)
    return time, sample, spoken, second
