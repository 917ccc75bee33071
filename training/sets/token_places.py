"""Plans of examples to places of speech tokens, for the models that say them: prompt, then target.

Shapes: B batch, S tokens of 25 Hz, T = 2 S frames of 50 Hz, M mel bands, P phones, U utterances.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from ...codec.mel.speech_tokens import SILENCE
from .examples import Plans
from .mel_set import MelSet

_PAD = 16  # lengths are multiples of it


@dataclass(frozen=True)
class TokenPlaces:
    """Where the tokens of a batch lie in a set, and what they say; hidden prompts are left out.

    place (B, S): of each token, 0 in the padding.   inside (B, S) bool: no padding.   pointer (B, 2 S): the phone of
    each half, -1 in the prompt and the padding; a target that was cut begins and ends within its text.
    phones (B, 3, P), n_phones (B,): of the target.   n_prompt, n_tokens (B,): tokens of the prompt, in all.
    """

    place: Tensor
    inside: Tensor
    pointer: Tensor
    phones: Tensor
    n_phones: Tensor
    n_prompt: Tensor
    n_tokens: Tensor


def read_tokens(plans: Plans, speech: MelSet) -> TokenPlaces:
    """On the device of the set."""
    s, device = speech, speech.mel.device
    n_prompt = torch.where(plans.hide_prompt, 0, plans.prompt_frames) // 2
    n_tokens = n_prompt + plans.frames // 2
    p = plans.to(device)
    longest = -(-int(n_tokens.max()) // _PAD) * _PAD
    prompt, n = n_prompt.to(device)[:, None], n_tokens.to(device)[:, None]
    at = torch.arange(longest, device=device)
    own, inside = at < prompt, at < n
    place = torch.where(own, p.prompt_start[:, None] // 2 + at, p.start[:, None] // 2 + at - prompt)
    place = torch.where(inside, place, 0)
    halves = (2 * place[..., None] + torch.arange(2, device=device)).flatten(1)
    spoken = (inside & ~own).repeat_interleave(2, 1)
    counts = torch.from_numpy(s.n_phones)[plans.utterance]
    phones_at = torch.arange(int(counts.max()), device=device)
    counts = counts.to(device)
    first = torch.from_numpy(s.phone_starts).to(device)[p.utterance]
    row = first[:, None] + torch.where(phones_at < counts[:, None], phones_at, 0)
    return TokenPlaces(
        place=place,
        inside=inside,
        pointer=torch.where(spoken, s.pointer[halves], -1),
        phones=s.phones[:, row].transpose(0, 1) * (phones_at < counts[:, None])[:, None],
        n_phones=counts,
        n_prompt=prompt[:, 0],
        n_tokens=n[:, 0],
    )


def whole_mels(speech: MelSet, batch: int) -> Iterator[tuple[Tensor, list[tuple[slice, int]]]]:
    """Every utterance of a set, `batch` of like length at a time: mel (B, M, 2 T), silence behind the shorter ones, and
    for each where its tokens belong among those of the set, and how many there are."""
    device = speech.mel.device
    order = np.argsort(speech.n_frames, kind="stable")
    for first in range(0, len(order), batch):
        rows = order[first : first + batch]
        starts, n = torch.from_numpy(speech.starts[rows]).to(device), torch.from_numpy(speech.n_frames[rows])
        at = torch.arange(int(n.max()) * 2, device=device)
        inside = at < 2 * n.to(device)[:, None]
        frame = torch.where(inside, 2 * starts[:, None] + at, 0)
        mel = torch.where(inside[..., None], speech.mel[frame].float(), SILENCE).transpose(1, 2)
        places = [
            (slice(start // 2, (start + count) // 2), count // 2)
            for start, count in zip(starts.tolist(), n.tolist(), strict=True)
        ]
        yield mel, places
