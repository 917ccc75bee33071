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
from torch import Tensor

from ...tts.decoders.flow.decoder import PATCH
from .flow_batch import FlowBatch
from .flow_recipe import FlowAdversary
from .voice_critic import Judged


@dataclass(frozen=True)
class Drawn:
    """Normalised frames (B, T, F) of a step: of the recordings, of the trunk and of the head."""

    clean: Tensor
    mean: Tensor
    head: Tensor


def stretch(drawn: Drawn, batch: FlowBatch, frames: int, generator: torch.Generator | None = None) -> Judged:
    """`frames` mel frames of each target, at random: (B, 2, M, 2 t), what was made or recorded and the trunk's mean.
    What lies beyond the target's end, and bands that the recording does not have, are 0 in all."""
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
    return Judged(real, fake, batch.speaker)


def as_in_speaking(
    time: Tensor, sample: Tensor, section: FlowAdversary
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Times (B,) and noise (B, T, F) of which a share is drawn as the head speaks in two steps: at time 0 from noise of
    its temperature, or at a half, from that noise and what the first step drew. One at least: processes that share
    gradients all have something to judge.

    -> times, noise; which examples these are (B,), and which of them are in the second step (B,).
    """
    u = torch.rand(len(time), device=time.device)
    u[u.argmin()] = 0
    spoken, second = u < section.spoken, u < section.spoken / 2
    sample = torch.where(spoken[:, None, None], section.temperature * sample, sample)
    time = torch.where(spoken, torch.where(second, 0.5, 0.0), time)
    return time, sample, spoken, second
