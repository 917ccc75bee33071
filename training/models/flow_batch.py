"""Plans of examples to batches of frames, for the flow decoder and the speech tokens.

Shapes: B batch, T frames of 50 Hz, F numbers of a frame, M mel bands, P phones, S = T / 2 tokens, E speaker vector.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from ...codec.mel.speech_tokens import SILENCE
from ...layers.mel import mel_centres
from ...tts.decoders.flow.decoder import FlowConfig
from ..sets.examples import Plans
from ..sets.mel_set import MelSet
from .prompt_noise import disturbed

_NEVER = 1_000_000  # the block of what nobody may see
_HIGHS = 68  # the first mel band above 7.4 kHz
_PAD = 32  # lengths are multiples of it: fewer shapes, and fast attention


@dataclass(frozen=True)
class FlowBatch:
    """Examples as frames, the prompt's first.

    mel (B, M, 2 T).   pitch (B, T) Hz, loudness (B, T): of each frame.   phones (B, 3, P), n_phones (B,).
    pointer, visible, blocks (B, T).   symbols (B, T): the phone's symbol, -1 unknown.   speaker (B, E).
    prompted, target, inside (B, T) bool: frames of the prompt, the target, either.   knows_phone (B, T),
    knows_token (B, S) bool.   bands, prompt_bands (B, F): 1 where a loss may look, and what is seen of the prompt.
    content (B, T, C): states of a recogniser's encoder; C = 0 where the set has none.   clarity (B,): the aligner's
    score of the target, NaN where it is not told.
    """

    mel: Tensor
    pitch: Tensor
    loudness: Tensor
    phones: Tensor
    n_phones: Tensor
    pointer: Tensor
    visible: Tensor
    blocks: Tensor
    symbols: Tensor
    speaker: Tensor
    prompted: Tensor
    target: Tensor
    inside: Tensor
    knows_phone: Tensor
    knows_token: Tensor
    bands: Tensor
    prompt_bands: Tensor
    content: Tensor
    clarity: Tensor


class Reader:
    """Plans to batches, on the device of the mel set."""

    def __init__(self, speech: MelSet, config: FlowConfig):
        self.speech, self.config = speech, config
        device = speech.mel.device
        self.phone_starts = torch.from_numpy(speech.phone_starts).to(device)
        self.starts = torch.from_numpy(speech.starts).to(device)
        self.bandwidth = torch.tensor([item.bandwidth for item in speech.items], device=device)
        self.score = torch.tensor([item.score for item in speech.items], device=device)
        self.centres = mel_centres(24_000, config.mel_bands).to(device)

    def batch(self, plans: Plans, block: int, offset: int) -> FlowBatch:
        """block: frames of a block, the first shorter by `offset`, which is even."""
        s, device = self.speech, self.speech.mel.device
        p = plans.to(device)
        lengths = plans.prompt_frames + plans.frames
        t = -(-int(lengths.max()) // _PAD) * _PAD
        at = torch.arange(t, device=device)[None]
        n_prompt, n = p.prompt_frames[:, None], (p.prompt_frames + p.frames)[:, None]
        own, inside = at < n_prompt, at < n
        frame = torch.where(own, p.prompt_start[:, None] + at, p.start[:, None] + at - n_prompt)
        frame = torch.where(inside, frame, 0)
        bands = s.mel.shape[1]
        mel = s.mel.view(-1, 2 * bands)[frame].float()
        mel = (
            torch.where(inside[..., None], mel, SILENCE)
            .unflatten(-1, (2, bands))
            .flatten(1, 2)
            .transpose(1, 2)
        )
        pointer = torch.where(inside & ~own, s.pointer[frame], -1)
        phones, n_phones = self._phones(plans, p)
        symbols = phones[:, 0].gather(1, pointer.clamp(min=0))
        since = at - n_prompt + offset
        blocks = torch.where(own, 0, 1 + since.clamp(min=0) // block)
        ends = n_prompt + (since.clamp(min=0) // block + 1) * block - offset + self.config.look_ahead
        visible = torch.where(ends >= n, _NEVER, ends)
        hidden_prompt = own & p.hide_prompt[:, None]
        blocks = torch.where(inside & ~hidden_prompt, blocks, _NEVER)
        prompted = own & inside & ~p.hide_prompt[:, None]
        heard = own.repeat_interleave(2, 1) & p.disturb_prompt[:, None]
        if bool(plans.disturb_prompt.any()):
            mel = torch.where(heard[:, None], disturbed(mel, heard), mel)
        loudness = mel.unflatten(2, (t, 2)).mean((1, 3)) / 2.5 + 2
        even = inside[:, ::2]
        shown = torch.arange(bands, device=device) < _HIGHS
        return FlowBatch(
            mel=mel,
            pitch=s.pitch.view(-1, 2)[frame].float().amax(-1) * inside,
            loudness=loudness,
            phones=phones,
            n_phones=n_phones,
            pointer=pointer,
            visible=visible,
            blocks=blocks,
            symbols=torch.where(pointer >= 0, symbols, -1),
            speaker=s.speakers[p.prompt_utterance].float() * ~p.hide_speaker[:, None],
            prompted=prompted,
            target=inside & ~own,
            inside=inside & ~hidden_prompt,
            knows_phone=(pointer >= 0) & ~p.hide_phones[:, None],
            knows_token=even & ~p.hide_tokens[:, None] & ~hidden_prompt[:, ::2],
            bands=(self.centres <= self.bandwidth[p.utterance][:, None]).float().repeat(1, 2),
            prompt_bands=(shown | ~p.hide_highs[:, None]).float().repeat(1, 2),
            content=mel.new_zeros(*frame.shape, 0) if s.content is None else s.content[frame],
            clarity=torch.where(p.hide_clarity, torch.nan, self.score[p.utterance]).float(),
        )

    def _phones(self, plans: Plans, p: Plans) -> tuple[Tensor, Tensor]:
        """The phones of the targets (B, 3, P), and how many each has (at least 1)."""
        device, last = self.starts.device, self.speech.phones.shape[1] - 1
        if last < 0:  # no utterance of the set has a text
            n = len(plans.utterance)
            return torch.zeros(n, 3, 1, dtype=torch.long, device=device), torch.ones(
                n, dtype=torch.long, device=device
            )
        counts = torch.from_numpy(self.speech.n_phones)[plans.utterance]
        longest = max(1, int(counts.max()))
        place = torch.arange(longest, device=self.starts.device)[None]
        counts = counts.to(self.starts.device)[:, None]
        row = self.phone_starts[p.utterance][:, None] + torch.where(place < counts, place, 0)
        row = row.clamp(max=last)
        phones = self.speech.phones[:, row].transpose(0, 1) * (place < counts)[:, None]
        return phones, counts[:, 0].clamp(min=1)
