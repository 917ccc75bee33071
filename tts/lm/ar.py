"""VALL-E's autoregressive model (Wang et al. 2023, section 4.2.1): the coarse codebooks, frame by frame, from the
phones and a recorded prompt; with VALL-E R's monotonic phone pointer (Han et al. 2024, section 3.2).

    frame t:   what frame t-1 was  +  the phone that is being spoken  +  since how many frames
                                           |
                            causal transformer over prompt and target
                                 |                       |
                      first code of frame t   how far the pointer moves after it (0 to 3 phones)
                                 |
                 a depth head for each further coarse code, told those before it in the frame

With one coarse codebook this is VALL-E. With more, a frame's codes are drawn one after another by small heads on the
same hidden state (Yang et al. 2023, "UniAudio", and Defossez et al. 2024, "Moshi", use a transformer there): a codec
that follows the waveform spreads words and phases over several codebooks, and phases only agree from frame to frame
when they are drawn frame by frame.

The end of speech is the pointer's step past the last phone, so the model can neither skip, repeat nor babble on.

Shapes: B batch, P phones, K codebooks, N coarse ones, V codebook_size, T frames, W width.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...kernels.packed import packed
from ...layers.streaming import State
from ...layers.transformer import Transformer, TransformerConfig
from ..text.phones import N_SYMBOLS
from .batch import SpeechBatch
from .code_embedding import CodeEmbedding, CodeHead, CodeSumEmbedding, corrupt, nearest_rows
from .pointer import phone_ages, phones_at
from .text_encoder import TextEncoder, TextEncoderConfig

MAX_ADVANCE = 3  # phones that the pointer can move after one frame


@dataclass(frozen=True)
class ARConfig:
    """Dimensions and training options; the defaults make a model of 8 million parameters."""

    name: str = "myna-ar"
    n_codebooks: int = 8
    n_coarse: int = 1  # codebooks, from the first, that this model says itself
    codebook_size: int = 1024
    codebook_dim: int = 64  # of the codec's vectors
    n_symbols: int = N_SYMBOLS
    width: int = 320
    depth: int = 6
    n_heads: int = 4
    n_kv_heads: int = 2
    hidden: int = 640
    text_depth: int = 3
    context: int = 2048  # frames that attention reaches back
    max_age: int = 24  # frames; a phone that lasts longer counts as this old
    extra: int = 32  # learned channels of a code beside the codec's vector
    dropout: float = 0.0
    code_noise: float = 0.0  # share of the codes read back that training replaces by a neighbouring one
    prompt_weight: float = 0.1  # of the loss over the prompt's frames
    advance_weight: float = 1.0  # of the pointer's loss

    def __post_init__(self) -> None:
        if not 1 <= self.n_coarse <= self.n_codebooks:
            raise ValueError(f"n_coarse is 1 to {self.n_codebooks} (n_codebooks), got {self.n_coarse}")


@dataclass(frozen=True)
class ARResult:
    """Scalars: the loss and its parts (nats a code, the mean over the coarse codebooks; nats a move), and how often the
    first code is the likeliest, or among ten. code_losses: (N,) of each coarse codebook, detached."""

    loss: Tensor
    code_loss: Tensor
    advance_loss: Tensor
    code_accuracy: Tensor
    top10_accuracy: Tensor
    code_losses: Tensor


class AdvanceHead(nn.Module):
    """How far the pointer moves after a frame, from the hidden state and the code that the frame got."""

    def __init__(self, rows: Tensor, width: int, hidden: int = 96):
        super().__init__()
        self.hidden = nn.Linear(width, hidden)
        self.code = CodeEmbedding(rows, hidden, extra=16)
        self.out = nn.Linear(hidden, MAX_ADVANCE + 1)

    def forward(self, hidden: Tensor, codes: Tensor) -> Tensor:
        """hidden (..., W), codes (...) -> logits (..., 4)."""
        return self.out(F.silu(self.hidden(hidden) + self.code(codes)))


class DepthHead(nn.Module):
    """Logits of a further code of a frame, from the hidden state and the codes before it in the frame.

    rows: (k + 1, V, d), the codec's vectors of the codebooks before and of its own.
    """

    def __init__(self, rows: Tensor, width: int):
        super().__init__()
        self.hidden = nn.Linear(width, width)
        self.codes = CodeSumEmbedding(rows[:-1], width)
        self.gate_up = nn.Linear(width, 2 * width)
        self.down = nn.Linear(width, width)
        self.out = CodeHead(rows[-1], width)

    def forward(self, hidden: Tensor, codes: Tensor) -> Tensor:
        """hidden (n, W), codes (n, k) -> logits (n, V)."""
        x = self.hidden(hidden) + self.codes(codes[:, :, None])[:, 0]
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        return self.out(x + self.down(F.silu(gate) * up))


class ARModel(nn.Module):
    """P(codes and pointer's move of frame t | phones, prompt, frames before t).

    rows: the codec's codebook vectors (K, V, d), `codec.rows()`; None when a checkpoint follows.
    """

    def __init__(self, config: ARConfig | None = None, rows: Tensor | None = None):
        super().__init__()
        config = config or ARConfig()
        self.config = config
        shape = (config.n_codebooks, config.codebook_size, config.codebook_dim)
        if rows is None:
            rows = torch.zeros(shape)
        if tuple(rows.shape) != shape:
            raise ValueError(
                f"the codec's vectors have the shape {tuple(rows.shape)}, the config asks for {shape}"
            )
        self.text_encoder = TextEncoder(
            TextEncoderConfig(
                config.n_symbols,
                config.width,
                config.text_depth,
                config.n_heads,
                config.n_kv_heads,
                config.hidden,
                config.dropout,
            )
        )
        self.prompt_embedding = CodeSumEmbedding(rows, config.width, config.extra)
        n = config.n_coarse
        self.response_embedding = (
            CodeEmbedding(rows[0], config.width, config.extra)
            if n == 1
            else CodeSumEmbedding(rows[:n], config.width, config.extra)
        )
        self.begin = nn.Parameter(torch.randn(config.width) * 0.5)  # the frame before the first
        self.segment = nn.Embedding(2, config.width)  # prompt, target
        self.no_text = nn.Parameter(torch.randn(config.width) * 0.5)
        nn.init.normal_(self.segment.weight, 0, 0.5)
        self.no_phone = nn.Parameter(torch.randn(config.width) * 0.5)  # a prompt without transcript
        self.age = nn.Embedding(config.max_age + 1, config.width)
        nn.init.normal_(self.age.weight, 0, 0.5)
        self.advance_head = AdvanceHead(rows[0], config.width)
        self.transformer = Transformer(
            TransformerConfig(
                width=config.width,
                depth=config.depth,
                n_heads=config.n_heads,
                n_kv_heads=config.n_kv_heads,
                hidden=config.hidden,
                context=config.context,
                dropout=config.dropout,
            )
        )
        self.code_head = CodeHead(rows[0], config.width, config.extra)
        self.depth_heads = nn.ModuleList([DepthHead(rows[: k + 1], config.width) for k in range(1, n)])

    # ---- training

    def forward(self, batch: SpeechBatch) -> ARResult:
        batch = batch.without_hidden_prompts()
        encoded = self.encode_text(batch.phones, batch.n_phones, batch.drop_text)
        hidden = self.transformer(self.frame_inputs(batch, encoded).transpose(1, 2)).transpose(1, 2)
        return self._losses(batch, hidden)

    def encode_text(self, phones: Tensor, n_phones: Tensor, drop_text: Tensor | None = None) -> Tensor:
        """phones (B, 3, P) -> (B, P, W); one learned vector everywhere in the rows that hide their text."""
        encoded = self.text_encoder(phones, n_phones)
        if drop_text is not None:
            encoded = torch.where(drop_text[:, None, None], self.no_text.to(encoded.dtype), encoded)
        return encoded

    def frame_inputs(self, batch: SpeechBatch, encoded: Tensor) -> Tensor:
        """(B, T, W): what the transformer reads at each frame, the code before it teacher-forced."""
        frames = torch.arange(batch.codes.shape[-1], device=batch.codes.device)
        x = self._shifted(batch) + self.segment((frames >= batch.n_prompt[:, None]).long())
        ages = phone_ages(batch.pointer).clamp(max=self.config.max_age)
        return x + phones_at(encoded, batch.pointer, self.no_phone) + self.age(ages)

    def _shifted(self, batch: SpeechBatch) -> Tensor:
        """The embedding of the frame before each frame, (B, T, W)."""
        codes = batch.codes[:, : self.config.n_coarse, :-1]
        share = self.config.code_noise
        if self.training and share:
            noisy = [corrupt(codes[:, k], near, share) for k, near in enumerate(self.neighbours)]
            codes = torch.stack(noisy, dim=1)
        before = self.embed_response(codes)
        # Only the first frames can be prompts: the sum over all codebooks is the dearest of the embeddings.
        reach = min(int(batch.n_prompt.max()), codes.shape[2])
        if reach:
            prompt = self.prompt_embedding(batch.codes[:, :, :reach])
            inside = torch.arange(reach, device=codes.device) < batch.n_prompt[:, None]
            first = torch.where(inside[..., None], prompt, before[:, :reach])
            before = torch.cat([first, before[:, reach:]], dim=1)
        begin = self.begin.to(before.dtype).expand(before.shape[0], 1, -1)
        return torch.cat([begin, before], dim=1)

    def embed_response(self, codes: Tensor) -> Tensor:
        """Coarse codes (B, N, T) of what is said -> (B, T, W)."""
        return self.response_embedding(codes[:, 0] if self.config.n_coarse == 1 else codes)

    @property
    def neighbours(self) -> Tensor:
        """The codes that noise may replace each coarse one by, (N, V, n); only training asks."""
        heads = [self.code_head, *(cast(DepthHead, head).out for head in self.depth_heads)]
        return packed(
            self,
            "neighbours",
            self.code_head.rows,
            lambda _: torch.stack([nearest_rows(head.rows) for head in heads]),
        )

    def _depth_losses(self, hidden: Tensor, codes: Tensor, weight: Tensor) -> list[Tensor]:
        """Of the codebooks after the first, from hidden (n, W), codes (n, N) and weights (n,)."""
        return [
            _mean(F.cross_entropy(head(hidden, codes[:, :k]).float(), codes[:, k], reduction="none"), weight)
            for k, head in enumerate(self.depth_heads, 1)
        ]

    def _losses(self, batch: SpeechBatch, hidden: Tensor) -> ARResult:
        weight = self._frame_weights(batch)
        frames = torch.arange(weight.shape[1], device=weight.device)
        # The pointer after the last frame is past the last phone; before the target begins it is given, not moved.
        last = frames == batch.n_frames[:, None] - 1
        following = torch.where(last, batch.n_phones[:, None], F.pad(batch.pointer[:, 1:], (0, 1), value=-1))
        advance = (following - batch.pointer).clamp(0, MAX_ADVANCE)
        moves = (batch.pointer >= 0) & (frames != batch.n_prompt[:, None] - 1)

        used = weight > 0
        h, weight, moves = hidden[used], weight[used], moves[used]
        codes = batch.codes[:, : self.config.n_coarse].transpose(1, 2)[used]  # (n, N)
        first, target = codes[:, 0], weight == 1
        logits = self.code_head(h).float()
        first_loss = _mean(F.cross_entropy(logits, first, reduction="none"), weight)
        losses = torch.stack([first_loss, *self._depth_losses(h, codes, weight)])
        advance_loss = _mean(
            F.cross_entropy(self.advance_head(h, first).float(), advance[used], reduction="none"),
            weight * moves,
        )
        code_loss = losses.mean()
        loss = code_loss + self.config.advance_weight * advance_loss
        return ARResult(loss, code_loss, advance_loss, *_accuracies(logits, first, target), losses.detach())

    def _frame_weights(self, batch: SpeechBatch) -> Tensor:
        """(B, T): 1 in the target's frames, prompt_weight in the prompt's, 0 in the padding."""
        frames = torch.arange(batch.codes.shape[-1], device=batch.codes.device)
        weight = torch.where(frames < batch.n_prompt[:, None], min(self.config.prompt_weight, 0.999), 1.0)
        return weight * (frames < batch.n_frames[:, None])

    # ---- generation, frame by frame (`step` draws, `generate` runs the loop)

    def init_state(self, batch: int) -> State:
        """The state before the first frame (`layers.transformer.Transformer`)."""
        return self.transformer.init_state(batch, like=self.begin.detach())

    def step(self, x: Tensor, state: State, reach: int | None = None) -> tuple[Tensor, State]:
        """One frame for each row: x (B, W), as `frame_inputs` has it -> the hidden state (B, W) for the heads, and the
        next state. reach: an upper bound of the frames since the beginning, this one included."""
        hidden, state = self.transformer.step(x[:, :, None], state, reach=reach)
        return hidden[:, :, 0], state


def _mean(values: Tensor, weight: Tensor) -> Tensor:
    return (values * weight).sum() / weight.sum().clamp(min=1e-6)


@torch.no_grad()
def _accuracies(logits: Tensor, codes: Tensor, counted: Tensor) -> tuple[Tensor, Tensor]:
    """How often the true code is the likeliest, and among the ten likeliest."""
    true = logits.gather(1, codes[:, None])
    rank = (logits > true).sum(dim=1)
    n = counted.sum().clamp(min=1)
    return ((rank < 1) & counted).sum() / n, ((rank < 10) & counted).sum() / n
