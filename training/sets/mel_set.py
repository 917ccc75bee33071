"""Files of speech for training the flow decoder, the speech tokens and the token AR: made by
`training.sets.extract_mels`.

    safetensors: mel float16 (2 T, M) natural logarithms, pitch float16 (2 T,) Hz, 0: unvoiced
                 pointer int16 (T,) index into the utterance's phones, -1: no text        at 50 Hz
                 starts int64 (U + 1,) in frames of 50 Hz, all even
                 content float16 (T, C) what is said, by Whisper's encoder: only where it was asked for
                 phones int16 (3, P), phone_starts int64 (U + 1,)
                 speakers float16 (U, E) the speaker vector of each
    metadata:    format, utterances (JSON: names of fields, then a row for each)

Shapes: T frames of 50 Hz, M mel bands, C channels of content, P phones, U utterances, E speaker vector.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from torch import Tensor

from ...data.files import atomic_output
from ...errors import InputError

FORMAT = "1"


@dataclass(frozen=True)
class MelItem:
    """What is known of an utterance besides its frames."""

    key: str
    source: str
    split: str
    speaker: str
    scale: float  # by which pitch and formants are moved: the same speaker at another scale is another voice
    tempo: float  # by which the speech is faster than recorded
    bandwidth: float  # Hz, where the spectrum ends
    score: float  # of the alignment; 0 without text
    quality: float | None = None  # DNSMOS of the recording, 1 to 5; None where it was not measured


@dataclass(frozen=True)
class MelUtterance:
    """An utterance of T frames, T even: mel (2 T, M), pitch (2 T,), pointer (T,), phones (3, P), speaker (E,), content
    (T, C) or none."""

    item: MelItem
    mel: np.ndarray
    pitch: np.ndarray
    pointer: np.ndarray
    phones: np.ndarray
    speaker: np.ndarray
    content: np.ndarray | None = None


class MelSet:
    """Several files as one, in the memory of a device.

    mel (2 T, M) float16, pitch (2 T,) float16, pointer (T,) int64, phones (3, P) int64, speakers (U, E) float16:
    tensors; starts, phone_starts (U + 1,): numpy.   content: float16 (T, C), or None if a file has none.
    Raises InputError for files that are something else.
    """

    def __init__(self, paths: Sequence[str | Path], device: str | torch.device = "cpu"):
        parts = [_read(path) for path in paths]
        if not parts:
            raise InputError("no mel set is given; make one with `python -m myna.training.sets.extract_mels`")
        self.items = tuple(item for _, items in parts for item in items)

        def joined(name: str, dim: int = 0) -> np.ndarray:
            return np.concatenate([tensors[name] for tensors, _ in parts], axis=dim)

        self.mel = torch.cat([torch.from_numpy(tensors["mel"]).to(device) for tensors, _ in parts])
        self.pitch = torch.from_numpy(joined("pitch")).to(device)
        self.pointer = torch.from_numpy(joined("pointer")).to(device).long()
        self.phones = torch.from_numpy(joined("phones", 1)).to(device).long()
        self.speakers = torch.from_numpy(joined("speakers")).to(device)
        whole = all("content" in tensors for tensors, _ in parts)
        self.content = torch.from_numpy(joined("content")).to(device) if whole else None
        self.starts = _chained([tensors["starts"] for tensors, _ in parts])
        self.phone_starts = _chained([tensors["phone_starts"] for tensors, _ in parts])

    def __len__(self) -> int:
        return len(self.items)

    @property
    def n_frames(self) -> np.ndarray:
        """(U,) frames of 50 Hz of each."""
        return np.diff(self.starts)

    @property
    def n_phones(self) -> np.ndarray:
        """(U,) phones of each, 0 without text."""
        return np.diff(self.phone_starts)

    @property
    def hours(self) -> float:
        return int(self.starts[-1]) / 50 / 3600

    def band_statistics(self, chosen: np.ndarray) -> tuple[Tensor, Tensor]:
        """Mean and deviation (M,) of each band over the utterances `chosen`, on the CPU."""
        total = torch.zeros(3, self.mel.shape[1], dtype=torch.float64)
        for i in chosen.tolist():
            mel = self.mel[2 * self.starts[i] : 2 * self.starts[i + 1]].double()
            total += torch.stack([torch.full_like(mel[0], len(mel)), mel.sum(0), mel.square().sum(0)]).cpu()
        mean = total[1] / total[0]
        return mean.float(), (total[2] / total[0] - mean.square()).clamp(min=1e-4).sqrt().float()

    def content_whitening(self, components: int = 64) -> tuple[Tensor, Tensor]:
        """Mean (C,) of the content and the map (C, N) to its first principal components, each of unit variance, on the
        CPU; N is at most C. Raises InputError where there is none."""
        if self.content is None:
            raise InputError("a mel set has no content; make it again with `extract_mels --content tiny.en`")
        some = self.content[:: max(1, len(self.content) // 100_000)].double().cpu()
        mean = some.mean(0)
        values, vectors = torch.linalg.eigh((some - mean).t() @ (some - mean) / len(some))
        values, vectors = values[-components:], vectors[:, -components:]
        return mean.float(), (vectors / values.clamp(min=1e-6).sqrt()).float()


def mel_set_bytes(utterances: Sequence[MelUtterance]) -> bytes:
    """The file that `MelSet` reads. Raises InputError without utterances."""
    if not utterances:
        raise InputError("no utterance is left; check the corpus and its selection")
    names = [field.name for field in fields(MelItem)]
    rows = [[asdict(u.item)[name] for name in names] for u in utterances]
    tensors = {
        "mel": np.concatenate([u.mel for u in utterances]).astype(np.float16),
        "pitch": np.concatenate([u.pitch for u in utterances]).astype(np.float16),
        "pointer": np.concatenate([u.pointer for u in utterances]).astype(np.int16),
        "phones": np.concatenate([u.phones for u in utterances], axis=1).astype(np.int16),
        "speakers": np.stack([u.speaker for u in utterances]).astype(np.float16),
        "starts": np.cumsum([0, *(len(u.pointer) for u in utterances)]).astype(np.int64),
        "phone_starts": np.cumsum([0, *(u.phones.shape[1] for u in utterances)]).astype(np.int64),
    }
    if all(u.content is not None for u in utterances):
        tensors["content"] = np.concatenate([u.content for u in utterances if u.content is not None]).astype(
            np.float16
        )
    # The format writes what lies in memory: transposed arrays would be read as others.
    tensors = {name: np.ascontiguousarray(tensor) for name, tensor in tensors.items()}
    return save(
        tensors, metadata={"format": FORMAT, "utterances": json.dumps([names, *rows], ensure_ascii=False)}
    )


def write_mel_set(utterances: Sequence[MelUtterance], path: Path, force: bool) -> None:
    """The file of `mel_set_bytes`, whole or not at all, and a line about it. Raises as `atomic_output`."""
    with atomic_output(path, force) as file:
        file.write(mel_set_bytes(utterances))
    hours = sum(len(u.pointer) for u in utterances) / 50 / 3600
    print(f"{len(utterances)} utterances, {hours:.2f} h -> {path}", file=sys.stderr)


def _read(path: str | Path) -> tuple[dict[str, np.ndarray], tuple[MelItem, ...]]:
    try:
        with safe_open(str(path), framework="np") as file:
            metadata = file.metadata() or {}
            if metadata["format"] != FORMAT:
                raise ValueError(f"format {metadata['format']}, this version reads {FORMAT}")
            names, *rows = json.loads(metadata["utterances"])
            items = tuple(MelItem(**dict(zip(names, row, strict=True))) for row in rows)
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
        starts = tensors["starts"]
        content = tensors.get("content", tensors["pointer"])
        if (
            len(starts) != len(items) + 1
            or 2 * starts[-1] != len(tensors["mel"])
            or starts[-1] != len(content)
            or (starts % 2).any()
        ):
            raise ValueError("its parts are of different lengths")
        return tensors, items
    except (OSError, SafetensorError, KeyError, ValueError, TypeError) as error:
        raise InputError(
            f"{path} is not a file of `python -m myna.training.sets.extract_mels` ({error}); make it again"
        ) from error


def _chained(starts: Sequence[np.ndarray]) -> np.ndarray:
    """Starts of files that follow each other."""
    chained, before = [np.zeros(1, np.int64)], 0
    for one in starts:
        chained.append(one[1:] + before)
        before += int(one[-1])
    return np.concatenate(chained)
