"""A codec's decoder on the person's recordings: the codes of a file stay what they are, and sound more like them.

    clips -> crops -> codec, whose decoder has an adapter --> the losses of the codec's own recipe
    clips kept apart -> crops, with all codebooks and with half of them --> the same distances: how it is judged

Shapes: B batch, N samples.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from ...codec import Codec
from ...codec.checkpoint import weights_hash
from ...codec.quantizer import dropout_codebooks
from ...codec.trainable import TrainableCodec
from ...data.corpus import Item
from ...errors import UsageError
from ...evaluation.measures.spectral import SpectralLoss
from ...tts.voices.codec_decoder import PART
from ..engine.recipe import load_recipe
from ..models.codec_recipe import CodecRecipe, weight_at
from ..models.perceptual import Intelligibility, Loudness
from .judge import Measured
from .material import RATE, Material
from .parts import attached
from .recipe import AdaptRecipe

_QUIET = 0.003  # RMS below which a crop teaches silence
_TRIES = 8
_JUDGED = 16  # crops at most
_HEARD = {"intelligibility": Intelligibility, "loudness": Loudness}


class CodecPart:
    """codec: trainable, at 24 kHz. Raises UsageError for another one."""

    name = PART
    speaker: Tensor | None = None

    def __init__(self, codec: Codec, mine: Material, recipe: AdaptRecipe):
        if not isinstance(codec, TrainableCodec) or codec.sample_rate != RATE:
            raise UsageError(f"{codec.name} cannot be adapted; codecs that myna trains, at {RATE} Hz, can")
        section, self._seed, self._mine = recipe.codec, recipe.seed, mine
        self.base = weights_hash(codec)[:16]
        self.codec = copy.deepcopy(codec).eval()  # codebooks that learn would give other codes
        self.codec.requires_grad_(False)
        self.layers = attached(self.codec.decoder, section, self.name, recipe.seed)
        learned_by = load_recipe(section.losses_of, CodecRecipe)
        self._weights = {name: weight_at(weight, 0) for name, weight in learned_by.losses.items()}
        self._spectral = SpectralLoss(RATE, learned_by.spectral)
        self._heard = {name: make(RATE) for name, make in _HEARD.items() if name in self._weights}
        self._length, self._batch_size = round(section.seconds * RATE), section.batch_size
        self._items = [item for item in mine.person.items if item.key not in mine.held]
        kept = [item for item in mine.person.items if item.key in mine.held]
        self._every_window = SpectralLoss(RATE)
        self._held = self._judged_by(kept)

    def loss(self, step: int) -> Tensor:
        rng = np.random.default_rng([self._seed, step, 5])
        lengths = np.array([item.length for item in self._items], np.float64)
        drawn = rng.choice(len(self._items), self._batch_size, p=lengths / lengths.sum())
        real = torch.stack([self._crop(self._items[i], rng) for i in drawn])
        n_codebooks = dropout_codebooks(len(real), self.codec.n_codebooks, 0.5)
        fake = self._decoded(real, n_codebooks)
        windows = torch.Generator().manual_seed(int(rng.integers(2**31)))
        return self._distance(fake, real, self._spectral(fake, real, windows))

    @torch.inference_mode()
    def measure(self) -> Measured:
        """Of the clips kept apart: the nearer, the better."""
        distances = []
        for k in (self.codec.n_codebooks, (self.codec.n_codebooks + 1) // 2):
            for real in self._held.split(8):
                fake = self._decoded(real, torch.full((len(real),), k))
                distance = self._distance(fake, real, self._every_window(fake, real))
                distances.append(float(distance) * len(real))
        return Measured(-sum(distances) / (2 * len(self._held)), 0.0)

    def _decoded(self, wav: Tensor, n_codebooks: Tensor) -> Tensor:
        """As a decoder gives back what so many codebooks hold, wav (B, 1, N), with gradients of the adapter."""
        with torch.no_grad():
            latents = self.codec.quantizer(self.codec.latents(wav), n_codebooks).quantized
        return self.codec.synthesize(latents, wav.shape[-1])

    def _distance(self, fake: Tensor, real: Tensor, spectral: dict[str, Tensor]) -> Tensor:
        losses = {**spectral, **{name: measure(fake, real) for name, measure in self._heard.items()}}
        return torch.stack(
            [self._weights[name] * losses[name] for name in losses if name in self._weights]
        ).sum()

    def _crop(self, item: Item, rng: np.random.Generator) -> Tensor:
        """A stretch (1, N) of a clip in which something is said, where a few tries find one."""
        wav = np.zeros(0, np.float32)
        for _ in range(_TRIES):
            start = int(rng.integers(max(1, item.length - self._length + 1)))
            wav = self._mine.corpus.read(item, start, min(self._length, item.length - start))
            if np.sqrt(np.square(wav).mean()) >= _QUIET:
                break
        return torch.from_numpy(np.pad(wav, (0, self._length - len(wav))))[None]

    def _judged_by(self, items: Sequence[Item]) -> Tensor:
        """Crops (B, 1, N) of two seconds, evenly over the clips."""
        n, crops = 2 * RATE, []
        for item in items:
            for start in range(0, max(1, item.length - n + 1), n):
                wav = self._mine.corpus.read(item, start, min(n, item.length - start))
                crops.append(torch.from_numpy(np.pad(wav, (0, n - len(wav))))[None])
        chosen = np.linspace(0, len(crops) - 1, min(_JUDGED, len(crops))).round().astype(int)
        return torch.stack([crops[i] for i in chosen])
