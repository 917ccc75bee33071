"""Trains the integer context model of the entropy coder (codec/formats/context_model.py) on a codec's codes.

    python -m myna.training.models.context_model CODES_TRAIN CODES_HELDOUT OUT [--minutes 6]

First in floating point; then every weight and activation is rounded in the forward pass as the integer model
will round it, gradients passing straight through (Jacob et al. 2018, "Quantization and training of neural
networks for efficient integer-arithmetic-only inference"); then the integers are written. All scales are
powers of two, so that rescaling is a shift.

Shapes: B batch, K codebooks, V codebook size, D embedding, H hidden, P past frames.
"""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...codec.checkpoint import codes_hash
from ...codec.formats.context_model import MAX_ACTIVATION, UNITS_PER_BIT, ContextConfig, ContextModel
from ...codec.registry import load_codec
from ...data.files import atomic_output
from ...errors import InputError, MynaError, UsageError
from ..sets.code_set import CodeSet

_MAX_WEIGHT = 127
_MAX_SHIFT = 23
_TABLE_BITS = (UNITS_PER_BIT - 1).bit_length()


@dataclass(frozen=True)
class ContextTraining:
    """Options of the training run."""

    minutes: float = 6.0  # of training, on whatever `device` is
    steps: int | None = None  # instead of `minutes`: a fixed number, the same result every time
    batch: int = 512  # frames
    learning_rate: float = 2e-3  # at the peak: warmed up, then down a cosine to zero
    quantized_share: float = 0.3  # of the run, at its end, with rounding in the forward pass
    dropout: float = 0.1  # of whole embeddings: what to do when a source says nothing
    packet_frames: int = 50  # the context starts empty so often
    device: str = "cpu"
    seed: int = 0

    def __post_init__(self) -> None:
        if (
            not 0 < self.quantized_share < 1
            or self.minutes <= 0
            or (self.steps is not None and self.steps < 2)
        ):
            raise UsageError(
                "training needs time: minutes above 0, steps above 1, quantized_share inside (0, 1)"
            )


@dataclass(frozen=True)
class ContextReport:
    """What a model costs on held-out codes. bits: (K,) a code of each codebook, by the integer model.

    raw_bits: of a code without a model.   packet_frames: the context was emptied so often.
    """

    bits: tuple[float, ...]
    raw_bits: int
    packet_frames: int

    @property
    def saving(self) -> float:
        """Share of the bits that the model saves, with all codebooks, without the container's headers."""
        return 1 - sum(self.bits) / (self.raw_bits * len(self.bits))

    def __str__(self) -> str:
        listed = " ".join(f"{b:.2f}" for b in self.bits)
        return f"bits a code by codebook: {listed} of {self.raw_bits}; saves {100 * self.saving:.1f} %"


class ContextHead(nn.Module):
    """What predicts one codebook: (B, sources * D) -> (B, V)."""

    def __init__(self, inputs: int, hidden: int, outputs: int):
        super().__init__()
        self.hidden, self.output = nn.Linear(inputs, hidden), nn.Linear(hidden, outputs)
        nn.init.normal_(self.output.weight, std=0.05)


class ContextNet(nn.Module):
    """The context model in floating point, rounding as the integer model will once `exponents` are set.

    A weight w is the integer round(w * 2^e), an activation likewise, in [0, MAX_ACTIVATION].
    """

    def __init__(self, config: ContextConfig):
        super().__init__()
        self.config = config
        K, V, D = config.n_codebooks, config.codebook_size, config.embedding
        self.embedding = nn.Parameter(torch.randn(K, V + 1, D) * 0.3)
        self.heads = nn.ModuleList([ContextHead(config.sources(k) * D, config.hidden, V) for k in range(K)])
        self.exponents: Exponents | None = None

    def forward(self, codes: Tensor, dropout: float = 0.0) -> list[Tensor]:
        """codes (B, K, P + 1), the past latest first and then the present, V for "none", to the log2-logits
        (B, V) of each codebook."""
        exponents = self.exponents
        x = self._embedded(codes)
        if dropout:
            x = x * (torch.rand(x.shape[:3], device=x.device)[..., None] >= dropout)
        x = x.flatten(1)
        logits = []
        for k, head in enumerate(self._heads()):
            w1, w2 = head.hidden.weight, head.output.weight
            if exponents is not None:
                w1, w2 = _rounded(w1, exponents.w1[k]), _rounded(w2, exponents.w2[k])
            h = F.relu(F.linear(x[:, : w1.shape[1]], w1, head.hidden.bias))
            if exponents is not None:
                h = _rounded(h, exponents.activation, MAX_ACTIVATION)
            logits.append(F.linear(h, w2, head.output.bias))
        return logits

    def loss(self, codes: Tensor, dropout: float = 0.0) -> Tensor:
        """Bits a code, mean over codebooks; codes as in `forward`."""
        targets = codes[:, :, -1]
        logits = self.forward(codes, dropout)
        nats = [F.cross_entropy(y * math.log(2), targets[:, k]) for k, y in enumerate(logits)]
        return torch.stack(nats).mean() / math.log(2)

    @torch.no_grad()
    def start_from_counts(self, codes: np.ndarray) -> None:
        """Begin with how often each code occurs, whatever its context; codes (K, T)."""
        for row, head in zip(codes, self._heads(), strict=False):  # codes may have more codebooks
            counts = np.bincount(row, minlength=self.config.codebook_size) + 1.0
            head.output.bias.copy_(torch.from_numpy(np.log2(counts / counts.mean())))

    @torch.no_grad()
    def start_from_codebooks(self, rows: Tensor) -> None:
        """Begin with embeddings that know which codes sound alike: the principal axes of the codec's own
        codebooks; rows (K, V, d). What is rare in the codes then borrows from its neighbours."""
        D, V = self.config.embedding, self.config.codebook_size
        for k, book in enumerate(rows[: self.config.n_codebooks]):
            centred = book.float() - book.float().mean(0)
            axes = torch.linalg.eigh(centred.t() @ centred).eigenvectors.flip(1)[:, :D]
            z = centred @ axes
            self.embedding[k, :V, : z.shape[1]] = 0.3 * z / z.std(0).mean()
            self.embedding[k, V] = 0

    @torch.no_grad()
    def choose_exponents(self, codes: Tensor) -> None:
        """Scales that fit the weights and the activations that `codes` cause."""
        x = self._embedded(codes).flatten(1)
        largest = []
        for head in self._heads():
            h = F.relu(head.hidden(x[:, : head.hidden.in_features])).flatten()
            largest.append(h.kthvalue(max(1, int(0.999 * len(h)))).values)
        embedding = _exponent(self.embedding, _MAX_WEIGHT)
        activation = _exponent(torch.stack(largest), MAX_ACTIVATION)
        # Both shifts must lie in [0, _MAX_SHIFT], and the logits be at least as fine as the table.
        lowest1 = activation - embedding
        lowest2 = _TABLE_BITS - activation
        w1 = [_exponent(head.hidden.weight, _MAX_WEIGHT) for head in self._heads()]
        w2 = [_exponent(head.output.weight, _MAX_WEIGHT) for head in self._heads()]
        self.exponents = Exponents(
            embedding=embedding,
            w1=[min(max(e, lowest1), lowest1 + _MAX_SHIFT) for e in w1],
            activation=activation,
            w2=[min(max(e, lowest2), lowest2 + _MAX_SHIFT) for e in w2],
        )

    def integers(self, codec_hash: str) -> ContextModel:
        """The integer model. Call `choose_exponents` before."""
        e = self.exponents
        if e is None:
            raise ValueError("choose_exponents comes first")
        tensors = {"embedding": _integers(self.embedding, e.embedding, np.int8)}
        for k, head in enumerate(self._heads()):
            sum1, sum2 = e.embedding + e.w1[k], e.activation + e.w2[k]
            shifts = (sum1 - e.activation, sum2 - _TABLE_BITS)
            tensors |= {
                f"heads.{k}.w1": _integers(head.hidden.weight, e.w1[k], np.int8),
                f"heads.{k}.b1": _integers(head.hidden.bias, sum1, np.int32),
                f"heads.{k}.w2": _integers(head.output.weight, e.w2[k], np.int8),
                f"heads.{k}.b2": _integers(head.output.bias, sum2, np.int32),
                f"heads.{k}.shifts": np.array(shifts, dtype=np.int32),
            }
        return ContextModel(self.config, tensors, codec_hash)

    def _heads(self) -> list[ContextHead]:
        return [head for head in self.heads if isinstance(head, ContextHead)]

    def _embedded(self, codes: Tensor) -> Tensor:
        """codes (B, K, P + 1) to (B, K, P + 1, D)."""
        rows = self.config.codebook_size + 1
        table = self.embedding
        if self.exponents is not None:
            table = _rounded(table, self.exponents.embedding)
        offsets = torch.arange(self.config.n_codebooks, device=codes.device)[:, None] * rows
        return F.embedding(codes + offsets, table.flatten(0, 1))


@dataclass(frozen=True)
class Exponents:
    """Powers of two by which values are scaled before rounding."""

    embedding: int
    w1: list[int]
    activation: int
    w2: list[int]


def _exponent(values: Tensor, limit: int) -> int:
    return math.floor(math.log2(limit / max(float(values.abs().max()), 1e-6)))


def _rounded(values: Tensor, exponent: int, limit: int = _MAX_WEIGHT) -> Tensor:
    """As an integer of scale 2^exponent: rounded and clipped; the gradient is that of clipping alone."""
    scale = 2.0**exponent
    clipped = values.clamp(-limit / scale, limit / scale)
    return clipped + ((clipped * scale).round() / scale - clipped).detach()


def _integers(values: Tensor, exponent: int, dtype: type) -> np.ndarray:
    limit = _MAX_WEIGHT if dtype is np.int8 else (1 << 22) - 1
    scaled = (values.detach().cpu().double() * 2.0**exponent).round().clamp(-limit, limit)
    return scaled.numpy().astype(dtype)


class _Frames:
    """Random frames with their past, as packets cut the utterances, at other boundaries each time."""

    def __init__(self, codes: CodeSet, config: ContextConfig, packet_frames: int, device: str):
        self.config, self.packet_frames = config, packet_frames
        self.codes = torch.from_numpy(codes.codes[: config.n_codebooks].astype(np.int64)).to(device)
        position = np.arange(codes.n_frames) - np.repeat(codes.starts[:-1], np.diff(codes.starts))
        self.position = torch.from_numpy(position).to(device)

    def sample(self, n: int, generator: torch.Generator) -> Tensor:
        """(n, K, P + 1)."""
        device = self.codes.device
        index = torch.randint(self.codes.shape[1], (n,), generator=generator).to(device)
        phase = torch.randint(self.packet_frames, (n,), generator=generator).to(device)
        known = torch.minimum(self.position[index], phase)  # frames of context in the packet
        lags = torch.tensor([*range(1, self.config.past + 1), 0], device=device)
        found = self.codes[:, (index[:, None] - lags).clamp(min=0)].permute(1, 0, 2)
        return torch.where(lags <= known[:, None, None], found, self.config.codebook_size)


def train_context_model(
    train: CodeSet,
    config: ContextConfig | None = None,
    options: ContextTraining | None = None,
    progress: Callable[[int, float, float], None] | None = None,
    codebooks: Tensor | None = None,
) -> ContextModel:
    """Fit a context model to codes.

    codebooks: (K, V, d), the rows of the codec's codebooks to start the embeddings from; None: at random.
    progress: called with (step, share of the run done, bits a code of the last batch).
    Raises InputError when the codes do not fit the dimensions, UsageError when these are too large to be exact.
    """
    options = options or ContextTraining()
    config = config or ContextConfig(len(train.codes), train.codebook_size)
    if len(train.codes) < config.n_codebooks or train.codebook_size != config.codebook_size:
        raise InputError(
            f"codes of {len(train.codes)} codebooks of {train.codebook_size} entries where the model has "
            f"{config.n_codebooks} of {config.codebook_size}"
        )
    torch.manual_seed(options.seed)
    generator = torch.Generator().manual_seed(options.seed)
    net = ContextNet(config).to(options.device)
    net.start_from_counts(train.codes)
    if codebooks is not None:
        net.start_from_codebooks(codebooks.to(options.device))
    frames = _Frames(train, config, options.packet_frames, options.device)
    optimizer = torch.optim.Adam(net.parameters(), lr=options.learning_rate, betas=(0.9, 0.98))
    begin, step, done = time.monotonic(), 0, 0.0
    while done < 1:
        if done >= 1 - options.quantized_share and net.exponents is None:
            net.choose_exponents(frames.sample(2048, generator))
        warm = min(1.0, (step + 1) / 100)
        for group in optimizer.param_groups:
            group["lr"] = options.learning_rate * warm * 0.5 * (1 + math.cos(math.pi * done))
        loss = net.loss(frames.sample(options.batch, generator), options.dropout)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(net.parameters(), 1.0)
        optimizer.step()
        step += 1
        done = step / options.steps if options.steps else (time.monotonic() - begin) / (60 * options.minutes)
        if progress:
            progress(step, min(done, 1.0), float(loss.detach()))
    try:
        return net.integers(train.codec_hash)
    except ValueError as error:  # sums that float32 does not hold exactly
        raise UsageError(f"{error}; choose a smaller embedding, hidden or past") from error


def evaluate_context_model(model: ContextModel, codes: CodeSet, packet_frames: int = 50) -> ContextReport:
    """Bits a code of each codebook under the integer model, packet by packet as a file has them."""
    K = model.config.n_codebooks
    bits, frames = np.zeros(K), 0
    for utterance in codes.utterances():
        for start in range(0, utterance.shape[1], packet_frames):
            packet = utterance[None, :K, start : start + packet_frames].astype(np.int64)
            frames += packet.shape[-1]
            for k, weights in enumerate(model.weights_of(packet)):
                chosen = np.take_along_axis(weights, packet[0, k, :, None], axis=1)[:, 0]
                bits[k] += np.log2(weights.sum(axis=1) / chosen).sum()
    raw = (model.config.codebook_size - 1).bit_length()
    return ContextReport(tuple((bits / frames).tolist()), raw, packet_frames)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m myna.training.models.context_model", description=__doc__)
    parser.add_argument(
        "train", type=Path, help="codes to learn from (python -m myna.training.sets.extract_codes)"
    )
    parser.add_argument("held_out", type=Path, help="codes to measure on")
    parser.add_argument("out", type=Path, help="weights/NAME.entropy.safetensors")
    parser.add_argument("--minutes", type=float, default=ContextTraining.minutes)
    parser.add_argument("--hidden", type=int, default=ContextConfig.hidden)
    parser.add_argument("--embedding", type=int, default=ContextConfig.embedding)
    parser.add_argument("--past", type=int, default=ContextConfig.past, help="frames of context")
    parser.add_argument("--packet-frames", type=int, default=ContextTraining.packet_frames)
    parser.add_argument("--codec", help="the codec of the codes: start from its codebooks")
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--force", action="store_true", help="replace an output that exists")
    options = parser.parse_args(arguments)
    try:
        train, held_out = CodeSet.load(options.train), CodeSet.load(options.held_out)
        if train.codec_hash != held_out.codec_hash:
            raise UsageError("the two files hold codes of different codecs; make both with the same weights")
        config = ContextConfig(
            len(train.codes), train.codebook_size, options.embedding, options.hidden, options.past
        )

        def progress(step: int, done: float, bits: float) -> None:
            if step % 50 == 0:
                print(f"\rstep {step}, {100 * done:.0f} %, {bits:.3f} bits a code", end="", file=sys.stderr)

        training = ContextTraining(
            minutes=options.minutes, packet_frames=options.packet_frames, device=options.device
        )
        codebooks = None
        if options.codec:
            codec = load_codec(options.codec)
            if codes_hash(codec)[:16] != train.codec_hash:
                raise UsageError(f"the codes are not those of {options.codec}; extract them again")
            codebooks = codec.rows()
        model = train_context_model(train, config, training, progress, codebooks)
        with atomic_output(options.out, options.force) as file:
            file.write(model.to_bytes())
    except MynaError as error:
        print(f"\n{error}", file=sys.stderr)
        return error.exit_code
    print(f"\nheld out: {evaluate_context_model(model, held_out, options.packet_frames)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
