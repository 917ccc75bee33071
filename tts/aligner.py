"""Forced alignment: which phone of a known text each codec frame says.

    wav -> log-mel at 100 Hz, two to a codec frame -> convolutions -> log p(symbol | frame)
    known phones + log p -> Viterbi -> pointer (T,): 0, ..., P - 1, never back, at most 3 ahead at a time

The monotonic pointer is VALL-E R's (Han et al. 2024), which takes it from the Montreal Forced Aligner; here a
network of a million weights and one Viterbi pass (Rabiner 1989) find it in milliseconds. Space and punctuation are
one acoustic class, a pause: which of them it is, the text knows.

Shapes: B batch, N samples, M mel bands, T codec frames, C symbols, P phones.
"""

from __future__ import annotations

import dataclasses
import json
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save
from torch import Tensor, nn

from ..data.checkpoint import config_from_dict, load_strictly, read_safetensors, uninitialized
from ..data.files import atomic_output
from ..errors import InputError
from ..layers.mel import mel_filterbank
from .text.phones import SYMBOLS, Phones

SHIPPED = Path(__file__).resolve().parent.parent / "weights" / "myna-aligner.safetensors"
_N_FFT = 1024
MAX_ADVANCE = 3  # phones, from one frame to the next
SKIP_COST = 15.0  # of a phone without a frame; spaces are free
# Of the logarithm of how common a symbol is, taken off its log-probability in the search: a posterior favours what is
# common, and where the network is unsure it would hear pauses everywhere (Bourlard and Morgan 1994, section 7). Chosen
# by the boundaries of synth-dev and synth-test among 0, 0.3, 0.5, 0.7 and 1.
PRIOR_WEIGHT = 0.6
FLOOR = -10.0  # of log-probabilities: one strange phone must not outweigh all others
# Below it, score + margin says that the text is another one. The score alone would refuse children and strong accents,
# whose every phone is improbable; the margin compares with a wrong text in the same voice.
MIN_EVIDENCE = -2.5


@dataclass(frozen=True)
class AlignerConfig:
    """Dimensions; the defaults are `myna-aligner`."""

    symbols: tuple[str, ...] = SYMBOLS  # what the outputs stand for
    sample_rate: int = 24_000
    frame_size: int = 480  # samples a codec frame
    delay: int = 240  # samples of the codec's look-ahead: its last frame may begin so late
    window: int = 600
    n_mels: int = 64
    f_max: float = 8000.0  # Hz; recordings of 16 kHz hold no more
    width: int = 160
    dilations: tuple[int, ...] = (1, 2, 4, 8, 1)  # of the blocks
    dropout: float = 0.1

    @property
    def frame_rate(self) -> float:
        """Frames a second."""
        return self.sample_rate / self.frame_size


@dataclass(frozen=True)
class Alignment:
    """pointer (T,): index of the phone that each frame says, from 0 to P - 1.

    score: mean log-probability, over the phones or over the frames with speech, whichever is less.
    margin: by how much the same sounds in reverse order score less.
    phone_scores (P,): mean log-probability of the frames of each phone; of one without frames the least there is.
    """

    pointer: Tensor
    score: float
    margin: float
    phone_scores: Tensor | None = None

    @property
    def plausible(self) -> bool:
        """Whether the phones can be what is said."""
        return self.score + self.margin >= MIN_EVIDENCE

    def starts(self, n_phones: int) -> Tensor:
        """(P,) first frame of each phone; of one without frames, that of the next."""
        return torch.searchsorted(self.pointer.contiguous(), torch.arange(n_phones))


class MelSpectrogram(nn.Module):
    """Mel power at two frames a codec frame, and its normalised logarithm."""

    window: Tensor
    bank: Tensor

    def __init__(self, config: AlignerConfig):
        super().__init__()
        self.hop, self.frame_size, self.delay = config.frame_size // 2, config.frame_size, config.delay
        bank = mel_filterbank(
            config.sample_rate, _N_FFT, config.n_mels, f_min=50.0, f_max=config.f_max, scale="htk"
        )
        self.register_buffer("window", torch.hann_window(config.window), persistent=False)
        self.register_buffer("bank", bank, persistent=False)

    def n_frames(self, n_samples: int) -> int:
        """Frames that the codec makes of so many samples."""
        return -(-(n_samples + self.delay) // self.frame_size)

    def power(self, wav: Tensor, n_frames: int | None = None) -> Tensor:
        """wav (N,) -> (M, 2 T), T as many frames as the codec makes of it unless given."""
        n = 2 * (self.n_frames(len(wav)) if n_frames is None else n_frames)
        before = (_N_FFT - self.hop) // 2  # each window lies around its hop
        wav = F.pad(wav, (before, max(0, (n - 1) * self.hop + _N_FFT - before - len(wav))))
        spectrum = torch.stft(
            wav, _N_FFT, self.hop, len(self.window), self.window, center=False, return_complex=True
        )
        return (self.bank @ spectrum.abs().square())[:, :n]

    def normalized(self, power: Tensor) -> Tensor:
        """(M, 2 T) -> (2 M, T): logarithm, free of the recording's level and of its microphone's colour."""
        x = (power + 1e-10).log()
        x = x.clamp(min=float(x.max()) - 12)  # 52 dB below the loudest
        x = x - x.mean(dim=1, keepdim=True)
        x = x / (x.std() + 0.1)
        return x.unflatten(1, (-1, 2)).transpose(1, 2).reshape(-1, x.shape[1] // 2)


class AlignerBlock(nn.Module):
    """x + project(GLU(convolution(norm(x)))), x (B, T, width)."""

    def __init__(self, width: int, dilation: int, dropout: float):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.conv = nn.Conv1d(width, 2 * width, 3, padding=dilation, dilation=dilation)
        self.project = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        y = (self.norm(x) * mask).transpose(1, 2)
        y = F.glu(self.conv(y).transpose(1, 2), dim=-1)
        return x + self.project(self.dropout(y))


class Aligner(nn.Module):
    """Frames to log-probabilities of symbols; `align` makes pointers of them."""

    classes: Tensor
    log_prior: Tensor  # (C,) of the symbols, by frames of the training speech; set by the trainer

    def __init__(self, config: AlignerConfig | None = None):
        super().__init__()
        self.config = config = config or AlignerConfig()
        self.mel = MelSpectrogram(config)
        self.stem = nn.Conv1d(2 * config.n_mels, config.width, 5, padding=2)
        self.blocks = nn.ModuleList(
            AlignerBlock(config.width, dilation, config.dropout) for dilation in config.dilations
        )
        self.norm = nn.LayerNorm(config.width)
        self.head = nn.Linear(config.width, len(config.symbols))
        self.register_buffer("log_prior", torch.zeros(len(config.symbols)))
        classes = [config.symbols.index(" ") if is_pause(s) else i for i, s in enumerate(config.symbols)]
        self.register_buffer("classes", torch.tensor(classes), persistent=False)
        here = {symbol: i for i, symbol in enumerate(config.symbols)}
        known = [here.get(symbol, 1) for symbol in SYMBOLS]  # this version's symbols, in the model's order
        self.register_buffer("known", torch.tensor(known), persistent=False)

    @property
    def pause(self) -> int:
        """The class of all spaces and punctuation."""
        return self.config.symbols.index(" ")

    def symbol_classes(self, phones: Phones) -> Tensor:
        """(P,) the output that stands for each phone."""
        known: Tensor = self.known  # pyright: ignore[reportAssignmentType]
        return self.classes[known[phones.tokens[0].to(known.device)]]

    def forward(self, x: Tensor, n_frames: Tensor) -> Tensor:
        """Features (B, 2 M, T), the valid frames of each (B,) -> logits (B, T, C)."""
        mask = (torch.arange(x.shape[-1], device=x.device) < n_frames[:, None])[..., None]
        x = self.stem(x).transpose(1, 2)
        for block in self.blocks:
            x = block(x, mask)
        return self.head(self.norm(x))

    def features(self, wavs: Sequence[Tensor]) -> list[Tensor]:
        """(2 M, T) of each wav (N,) at 24 kHz."""
        return [self.mel.normalized(self.mel.power(wav)) for wav in wavs]

    @torch.inference_mode()
    def log_probs(self, wavs: Sequence[Tensor]) -> list[Tensor]:
        """(T, C) of each wav (N,)."""
        features = self.features(wavs)
        n_frames = torch.tensor([f.shape[-1] for f in features])
        batch = torch.stack([F.pad(f, (0, int(n_frames.max()) - f.shape[-1])) for f in features])
        logits = self(batch, n_frames.to(batch.device)).float()
        logits = logits.log_softmax(-1).clamp(min=FLOOR)
        return [row[:n] for row, n in zip(logits, n_frames.tolist(), strict=True)]

    def align(self, wavs: Sequence[Tensor], phones: Sequence[Phones]) -> list[Alignment]:
        """Align each wav (N,) at 24 kHz, mono, with its phones. Raises InputError where there are too many phones
        for the frames."""
        return self.align_log_probs(self.log_probs(wavs), phones)

    def align_log_probs(self, log_probs: Sequence[Tensor], phones: Sequence[Phones]) -> list[Alignment]:
        """As `align`, from what `log_probs` gave: (T, C) of each."""
        forward = self._search(log_probs, phones)
        backward = self._search(log_probs, [_reversed(p) for p in phones])
        return [
            Alignment(pointer, score, score - other, each)
            for (pointer, score, each), (_, other, _) in zip(forward, backward, strict=True)
        ]

    def _search(
        self, log_probs: Sequence[Tensor], phones: Sequence[Phones]
    ) -> list[tuple[Tensor, float, Tensor]]:
        """The best pointer of each, its score, and that of each phone."""
        classes = [self.symbol_classes(p) for p in phones]
        optional = [p.tokens[0] == SYMBOLS.index(" ") for p in phones]
        emitted = [lp[:, c] for lp, c in zip(log_probs, classes, strict=True)]
        weighed = [e - PRIOR_WEIGHT * self.log_prior[c] for e, c in zip(emitted, classes, strict=True)]
        pointers = viterbi(weighed, optional, self.config.frame_rate)
        scores = [
            _score(lp, e, c, pointer, self.pause)
            for lp, e, c, pointer in zip(log_probs, emitted, classes, pointers, strict=True)
        ]
        return [(pointer, *score) for pointer, score in zip(pointers, scores, strict=True)]


def _reversed(phones: Phones) -> Phones:
    """The same sounds in reverse order, between the same silences."""
    first, middle, last = phones.tokens[:, :1], phones.tokens[:, 1:-1], phones.tokens[:, -1:]
    return Phones(torch.cat([first, middle.flip(1), last], dim=1)) if len(phones) > 1 else phones


def is_pause(symbol: str) -> bool:
    """Whether a symbol is a space or punctuation."""
    return all(unicodedata.category(c)[0] in "ZP" for c in symbol) and len(symbol) > 0


def fits(n_frames: int, phones: Phones) -> bool:
    """Whether a pointer can walk through the phones in so many frames."""
    return len(phones) - 1 <= MAX_ADVANCE * (n_frames - 1)


def align(aligner: Aligner, wav: Tensor, phones: Phones) -> Alignment:
    """Which phone each frame of a recording says.

    wav (N,) mono at 24 kHz. Raises InputError when the text is plainly not what is said: an alignment that is not
    `plausible`, or more phones than the frames can hold.
    """
    found = aligner.align([wav], [phones])[0]
    if not found.plausible:
        raise InputError(
            f"the transcript does not match the recording (evidence {found.score + found.margin:.1f}, expected "
            f"{MIN_EVIDENCE:.1f} or more); give exactly what is said in it, or no transcript"
        )
    return found


def viterbi(emitted: Sequence[Tensor], optional: Sequence[Tensor], frame_rate: float) -> list[Tensor]:
    """The best pointer (T,) for each of several utterances, on the CPU.

    emitted: (T, P) log-probability of each phone in each frame. optional: (P,) bool, phones that may have no frame;
    others are passed over only where there is no room, at SKIP_COST. All begin at phone 0 and end at phone P - 1.
    Raises InputError where even that leaves too little room.
    """
    n_frames = torch.tensor([e.shape[0] for e in emitted])
    n_phones = torch.tensor([e.shape[1] for e in emitted])
    for t, p in zip(n_frames.tolist(), n_phones.tolist(), strict=True):
        if p - 1 > MAX_ADVANCE * (t - 1):
            raise InputError(
                f"the transcript has {p} phones, too many for {t / frame_rate:.2f} s of speech; "
                "give exactly what is said in the recording, or no transcript"
            )
    b, t_max, p_max = len(emitted), int(n_frames.max()), int(n_phones.max())
    scores = torch.full((t_max, b, p_max), FLOOR)
    cost = torch.full((b, p_max), SKIP_COST)
    for row, (e, free) in enumerate(zip(emitted, optional, strict=True)):
        scores[: e.shape[0], row, : e.shape[1]] = e
        cost[row, : len(free)] = torch.where(free.cpu(), 0.0, SKIP_COST)
    # What it costs to arrive at phone j from j - k: the phones between are passed over.
    passing = [torch.zeros(b, p_max)] * 2
    for k in range(2, MAX_ADVANCE + 1):
        passing.append(passing[-1] + F.pad(cost, (k - 1, 0))[:, :p_max])
    costs = torch.stack(passing)
    best = torch.full((b, p_max + MAX_ADVANCE), -torch.inf)  # MAX_ADVANCE phones of padding in front
    best[:, MAX_ADVANCE] = scores[0, :, 0]
    advance = torch.zeros((t_max, b, p_max), dtype=torch.uint8)
    for t in range(1, t_max):
        arrivals = best.unfold(1, p_max, 1).transpose(0, 1).flip(0) - costs  # (4, B, P): from j - k
        value, k = arrivals.max(dim=0)
        best[:, MAX_ADVANCE:] = value + scores[t]
        advance[t] = k
    # Back from the last phone in the last frame; rows that are shorter wait there.
    pointer = torch.zeros((t_max, b), dtype=torch.long)
    here, rows = n_phones - 1, torch.arange(b)
    for t in range(t_max - 1, -1, -1):
        pointer[t] = here
        here = torch.where(t < n_frames, here - advance[t, rows, here].long(), here)
    return [pointer[:n, row].clone() for row, n in enumerate(n_frames.tolist())]


def _score(
    log_probs: Tensor, emitted: Tensor, classes: Tensor, pointer: Tensor, pause: int
) -> tuple[float, Tensor]:
    """That of the whole, and that of each phone (P,), which is the mean of its frames.

    The whole's is the mean over the phones, or over the frames with speech, whichever is less: a text that is too long
    has phones with single, improbable frames, one that is too short has long stretches of them.
    """
    at = emitted.cpu().gather(1, pointer[:, None])[:, 0]
    counts = torch.zeros(emitted.shape[1]).index_add_(0, pointer, torch.ones_like(at))
    sums = torch.zeros(emitted.shape[1]).index_add_(0, pointer, at)
    means = torch.where(counts > 0, sums / counts.clamp(min=1), FLOOR)
    spoken = (classes != pause).cpu()
    speech = spoken[pointer] | (log_probs[:, pause].cpu() < -0.7)
    if not bool(spoken.any()) or not bool(speech.any()):
        return FLOOR, means
    return min(float(means[spoken].mean()), float(at[speech].mean())), means


def save_aligner(model: Aligner, path: str | Path, notes: Mapping[str, str] | None = None) -> None:
    """One safetensors file that `load_aligner` reads; `notes` is further metadata."""
    described = json.dumps({"family": "aligner", **dataclasses.asdict(model.config)}, ensure_ascii=False)
    weights = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    with atomic_output(path, force=True) as file:
        file.write(save(weights, metadata={**(notes or {}), "config": described}))


def load_aligner(path: str | Path = SHIPPED, device: str | torch.device = "cpu") -> Aligner:
    """The aligner of a file, in evaluation mode. Raises MissingModelError without the file, InputError when it is
    damaged or another model's."""
    file = read_safetensors(path)
    try:
        described = json.loads(file.metadata["config"])
        if described.pop("family") != "aligner":
            raise ValueError
    except (ValueError, KeyError, TypeError, AttributeError):
        raise InputError(f"{path} is not an aligner; give one that `myna train myna-aligner` wrote") from None
    config = config_from_dict(AlignerConfig, described, path)
    with uninitialized():
        model = Aligner(config)
    load_strictly(model, file.weights, path)
    return model.to(device).eval()
