"""How a voice sounds with an adapter, as its user would hear it: likeness to recordings kept apart, and words.

sentences -> AR -> decoder, both with the adapter -> likeness: mean cosine of speaker vectors (GE2E)
                                                '--> words: the aligner's mean log-probability of the phones
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor

from ...errors import MynaError
from ...pretrained.ge2e import load_ge2e
from ...tts.aligner import Aligner
from ...tts.decoders.base import Latents
from ...tts.lm.adapter import Adapter
from ...tts.lm.batch import Prompt
from ...tts.presets import presets_of
from ...tts.synthesis import sentence_seed
from ...tts.text.phones import Phones
from ...tts.valle import Valle
from .people import speaker_vector

SENTENCES = (
    "The ferry leaves at seven, but only if the fog has lifted by then.",
    "Nobody had watered the garden, and yet the beans were taller than the fence.",
    "We could walk along the canal, or take the narrow road through the woods.",
    "Her brother mends old clocks, which is slower work than you would think.",
    "Bring the blue umbrella, please, because the brown one leaks.",
    "Three of the windows were open, and somebody was playing the piano.",
    "I thought the bridge would be closed, so we came by way of the harbour.",
    "What surprised everyone was how quickly the young foxes learned to climb.",
    "Put the larger boxes on the lower shelf and leave the rest for me.",
    "It was already dark when the post arrived, together with a parcel from abroad.",
    "The judge asked whether anybody had noticed a yellow van outside the bakery.",
    "Fresh bread, a little cheese, and two apples are all I ever take with me.",
    "Those children have been measuring the shadow of the tower since noon.",
    "If you turn the key too fast, the engine coughs and you must begin again.",
    "My uncle never trusted the weather forecast, although he listened to it every morning.",
    "Choose whichever chair you like, but mind the one with the loose leg.",
)  # the first of them while it learns, more of them when its strength is chosen
_SENTENCE = 25  # phones and more; a word alone does not tell whether sentences are said
_MUTE = -10.0  # nats, of speech in which no phone is found


@dataclass(frozen=True)
class Measured:
    """likeness: mean cosine, the more the better.   words: nats a phone, 0 at best."""

    likeness: float
    words: float


def judged_by(own: Sequence[Phones], given: Sequence[Phones], n: int) -> list[Phones]:
    """What is said to judge a voice: half of it the person's own sentences, of those that were kept apart, the rest
    given ones; where either are too few, more of the other."""
    long = [phones for phones in own if phones.tokens.shape[1] >= _SENTENCE]
    most = max((n + 1) // 2, n - len(given))
    chosen = long[:most]
    return [*chosen, *given[: n - len(chosen)]]


class Judge:
    """sentences: what is said each time.   references: (N, E) speaker vectors of the recordings kept apart."""

    def __init__(
        self,
        models: Valle,
        decoder: str,
        prompt: Prompt,
        sentences: Sequence[Phones],
        references: Tensor,
        aligner: Aligner | None,
        seed: int,
    ):
        self.models, self.decoder, self.prompt = models, decoder, prompt
        self.sentences, self.references, self.aligner, self.seed = sentences, references, aligner, seed
        self._network = load_ge2e()
        self._said: tuple[str, list[Latents]] | None = None  # by the AR with the last of its adapters

    def measure(self, adapters: Mapping[str, Adapter]) -> Measured:
        """Every sentence, said with adapters of some parts."""
        prompt = replace(self.prompt, adapters=dict(adapters))
        rate = self.models.codec.sample_rate
        likeness, words = [], []
        for i, (phones, latents) in enumerate(zip(self.sentences, self._latents(prompt), strict=True)):
            sound = self.models.sound(phones, prompt, self.decoder, sentence_seed(self.seed, i))
            wav = np.concatenate([sound.push(latents), sound.flush()])
            vector = speaker_vector(self._network, wav, rate)
            likeness.append(float((self.references @ vector).mean()))
            words.append(self._words(wav, phones))
        return Measured(float(np.mean(likeness)), float(np.mean(words)))

    def _latents(self, prompt: Prompt) -> list[Latents]:
        """What the AR says of each sentence; kept while its adapter stays the same."""
        adapter = prompt.adapters.get(self.models.ar_part)
        key = "" if adapter is None else adapter.weights.digest()
        if self._said is None or self._said[0] != key:
            sampling = presets_of(self.models.ar_part)["standard"].sampling
            said = [
                Latents.of(
                    list(
                        self.models.first_codes(
                            phones, prompt, replace(sampling, seed=sentence_seed(self.seed, i))
                        )
                    )
                )
                for i, phones in enumerate(self.sentences)
            ]
            self._said = key, said
        return self._said[1]

    def _words(self, wav: np.ndarray, phones: Phones) -> float:
        if self.aligner is None:
            return 0.0
        try:
            return self.aligner.align([torch.from_numpy(wav)], [phones])[0].score
        except (MynaError, ValueError, RuntimeError):  # fewer frames than phones
            return _MUTE
