"""A discriminator over mel spectrograms that knows what was asked for: is it speech, and is it this voice?

    mel, and what it was made from (B, C, M, T) -> 2-d convolutions, of stride 2 in both -> logits of every place
                                                    \\-> all bands of a time -> mean over time . voice -> one logit

The first judgement is a conditional one (Mirza and Osindero 2014; Isola et al. 2017, equation 1): it sees the
generator's input beside its output. The second is a projection discriminator's (Miyato and Koyama 2018, equation 3):
what was heard, times what was asked for. It also learns from recordings of other voices than the one that it is told
(as Reed et al. 2016, section 4.3, with texts).

Shapes: B batch, C channels, V channels of a voice, M bands, T frames.
"""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor, nn

from .base import Judgement, norm_conv2d


class MelVoiceDiscriminator(nn.Module):
    """Mel spectrograms and voices to judgements. voice: channels of what voices are given as."""

    def __init__(self, channels: int, voice: int, bands: int = 80, width: int = 24, compared: int = 128):
        super().__init__()
        self.layers = nn.ModuleList(
            [
                norm_conv2d(channels, width, (3, 7)),
                norm_conv2d(width, 2 * width, (3, 5), stride=(2, 2)),
                norm_conv2d(2 * width, 4 * width, (3, 5), stride=(2, 2)),
                norm_conv2d(4 * width, 4 * width, (3, 3), stride=(2, 1)),
            ]
        )
        self.to_logits = norm_conv2d(4 * width, 1, (3, 3))
        heights = bands
        for _ in range(3):
            heights = (heights + 1) // 2
        self.heard = nn.Linear(4 * width * heights, compared)
        self.heard_logit = nn.Linear(compared, 1)
        self.asked = nn.Sequential(nn.LayerNorm(voice), nn.Linear(voice, compared))

    def read(self, x: Tensor) -> tuple[Judgement, Tensor]:
        """x (B, C, M, T) -> whether it is speech, place by place, and what was heard of the voice (B, compared)."""
        features = []
        for layer in self.layers:
            x = F.leaky_relu(layer(x), 0.2)
            features.append(x)
        at_times = F.leaky_relu(self.heard(x.flatten(1, 2).transpose(1, 2)), 0.2)
        return Judgement(self.to_logits(x), tuple(features)), at_times.mean(1)

    def compare(self, heard: Tensor, voice: Tensor) -> Judgement:
        """What was heard, and the voice (B, V) that was asked for -> whether it is that voice, logits (B, 1)."""
        asked = self.asked(voice)
        product = (heard * asked).sum(1, keepdim=True) / asked.shape[1] ** 0.5
        return Judgement(product + self.heard_logit(heard), ())

    def forward(self, x: Tensor, voice: Tensor) -> list[Judgement]:
        """x as `read` takes it, voice (B, V) -> both judgements."""
        speech, heard = self.read(x)
        return [speech, self.compare(heard, voice)]
