"""CLVP: how well speech says a text, by two encoders that meet in one space (Betker 2023, section 4.2; Radford et al.
2021).

    phones -> transformer -> mean -> unit vector  ---.
                                                     +--> cosine
    speech tokens -> transformer -> mean -> unit vector

The same idea as TorToise's network (`tts.tortoise.model.clvp`), with phones for letters and the tokens of the flow
path for its codes; the blocks are the house's. In training a text has to find its speech among that of the batch, and
among speech of its own in which a stretch is another's: what a try with a wrong word sounds like.

Shapes: B batch, P phones, S tokens, W width, L latent.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...codec.mel.speech_tokens import STRIDE, SpeechTokenizer, SpeechTokensConfig
from ...codec.mel.trained_on import check_trained_on
from ...data.checkpoint import load_checkpoint
from ...data.resample import resample
from ...layers.mel import MelFrames
from ...layers.transformer import Transformer, TransformerConfig
from ..lm.text_encoder import TextEncoder, TextEncoderConfig
from ..text.phones import N_SYMBOLS
from .base import Attempt

_RATE = 24_000


@dataclass(frozen=True)
class CLVPConfig:
    """Dimensions; the defaults are `myna-clvp`, 4.5 million parameters."""

    name: str = "myna-clvp"
    n_symbols: int = N_SYMBOLS
    n_tokens: int = 1000  # of the tokenizer
    width: int = 224  # of both encoders
    latent: int = 224
    depth: int = 4
    n_heads: int = 4
    n_kv_heads: int = 2
    hidden: int = 560
    dropout: float = 0.1


@dataclass(frozen=True)
class CLVPResult:
    """loss: nats, mean of both directions.   right: share of the texts that find their speech, and of the speech its
    text.   undamaged: share of the texts that lie nearer to their speech than to its damaged double; nan without."""

    loss: Tensor
    right: Tensor
    undamaged: Tensor


class CLVP(nn.Module):
    """The two encoders."""

    def __init__(self, config: CLVPConfig | None = None):
        super().__init__()
        self.config = c = config or CLVPConfig()
        shape = {
            "width": c.width,
            "depth": c.depth,
            "n_heads": c.n_heads,
            "n_kv_heads": c.n_kv_heads,
            "hidden": c.hidden,
            "dropout": c.dropout,
        }
        self.text = TextEncoder(TextEncoderConfig(n_symbols=c.n_symbols, **shape))
        self.token = nn.Embedding(c.n_tokens, c.width)
        nn.init.normal_(self.token.weight, 0, 0.5)
        self.speech = Transformer(TransformerConfig(**shape))
        self.text_latent = nn.Linear(c.width, c.latent, bias=False)
        self.speech_latent = nn.Linear(c.width, c.latent, bias=False)
        self.temperature = nn.Parameter(torch.tensor(math.log(10.0)))  # its logarithm

    def texts(self, phones: Tensor, n_phones: Tensor) -> Tensor:
        """phones (B, 3, P), how many are no padding (B,) -> unit vectors (B, L)."""
        return F.normalize(self.text_latent(_mean(self.text(phones, n_phones), n_phones)), dim=-1)

    def speeches(self, tokens: Tensor, n_tokens: Tensor) -> Tensor:
        """tokens (B, S), how many are no padding (B,) -> unit vectors (B, L)."""
        padding = torch.arange(tokens.shape[1], device=tokens.device) >= n_tokens[:, None]
        x = self.speech(self.token(tokens).transpose(1, 2), padding.long()).transpose(1, 2)
        return F.normalize(self.speech_latent(_mean(x, n_tokens)), dim=-1)

    def forward(
        self,
        phones: Tensor,
        n_phones: Tensor,
        tokens: Tensor,
        n_tokens: Tensor,
        same: Tensor,
        damaged: Tensor | None = None,
    ) -> CLVPResult:
        """A batch of texts and the speech of each. same (B, B) bool: pairs that say the same, and are no negatives.
        damaged (B, S): tokens of each with a stretch that is another's."""
        texts, speech = self.texts(phones, n_phones).float(), self.speeches(tokens, n_tokens).float()
        scale = self.temperature.exp().clamp(max=100)
        pairs = texts @ speech.t()
        target = torch.arange(len(texts), device=texts.device)
        others = same & ~torch.eye(len(texts), dtype=torch.bool, device=texts.device)
        logits = (scale * pairs).masked_fill(others, -torch.inf)
        from_text, undamaged = logits, logits.new_tensor(torch.nan)
        if damaged is not None:
            doubles = (texts * self.speeches(damaged, n_tokens).float()).sum(-1)
            undamaged = (pairs.diagonal() > doubles).float().mean()
            from_text = torch.cat([logits, scale * doubles[:, None]], dim=1)
        loss = (F.cross_entropy(from_text, target) + F.cross_entropy(logits.t(), target)) / 2
        right = ((logits.argmax(0) == target).float() + (logits.argmax(1) == target).float()).mean() / 2
        return CLVPResult(loss, right, undamaged)


def _mean(x: Tensor, n: Tensor) -> Tensor:
    """x (B, T, W) over the first n (B,) of T -> (B, W)."""
    inside = (torch.arange(x.shape[1], device=x.device) < n[:, None])[..., None]
    return (x * inside).sum(1) / n.clamp(min=1)[:, None]


class CLVPScorer:
    """The cosine between a try and its text, -1 to 1. The tokens are those of the sound, so that tries of any AR and
    decoder can be judged.

    path, tokens: files of the network and of the tokenizer that it was trained on; loaded when a try is first judged,
    which raises MissingModelError where they do not belong together, InputError for a damaged file.
    """

    name = "clvp"

    def __init__(self, path: str | Path, tokens: str | Path):
        self._path, self._tokens = Path(path), Path(tokens)

    @cached_property
    def _models(self) -> tuple[CLVP, SpeechTokenizer, MelFrames]:
        tokenizer = load_checkpoint(SpeechTokenizer, SpeechTokensConfig, self._tokens, "tokens")
        check_trained_on(self._path, tokenizer)
        return load_checkpoint(CLVP, CLVPConfig, self._path, "clvp"), tokenizer, MelFrames(_RATE)

    @torch.inference_mode()
    def score(self, attempt: Attempt) -> float | None:
        """None for less than a token."""
        clvp, tokenizer, frames = self._models
        wav = resample(attempt.samples[None], attempt.sample_rate, _RATE)
        mel = frames(torch.from_numpy(wav))
        mel = mel[..., : mel.shape[-1] // STRIDE * STRIDE]
        if mel.shape[-1] == 0 or len(attempt.phones) == 0:
            return None
        tokens = tokenizer.tokens(mel)
        speech = clvp.speeches(tokens, torch.tensor([tokens.shape[1]]))
        text = clvp.texts(attempt.phones.tokens[None], torch.tensor([len(attempt.phones)]))
        return float((speech * text).sum())
