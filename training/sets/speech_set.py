"""Files of speech for training codec language models.

    AlignedSet   which phone is said when, of every utterance: made once, by `training.sets.align_corpus`
    SpeechSet    the same with codes, of one codec: made by `training.sets.extract_speech`

    safetensors: starts int64 (U + 1,), pointer int16 (T,)     index into the utterance's phones, frame by frame
                 phones int16 (3, P), phone_starts int64 (U + 1,)
                 codes int16 (K, T)                            of a SpeechSet, which a CodeSet can read, too
    metadata:    format, utterances (JSON: names of fields, then a row for each)
                 codec, codec_hash, codebook_size              of a SpeechSet

Shapes: K codebooks, T frames, P phones, U utterances.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save
from torch import Tensor

from ...errors import InputError
from ...tts.aligner import MAX_ADVANCE
from ...tts.text.phones import N_SYMBOLS, Phones
from .code_set import CodeSet

FORMAT = "1"


@dataclass(frozen=True)
class SpeechItem:
    """What is known of an utterance besides its frames."""

    key: str
    source: str
    split: str
    speaker: str
    speed: float  # by which the recording is resampled: the same speaker at another speed is another voice
    start: float  # seconds of the recording at which the frames begin,
    end: float  # and where they end: long silences around the speech are cut off
    text: str
    score: float  # mean log-probability of its alignment (`tts.aligner.Alignment`)


@dataclass(frozen=True)
class Aligned:
    """An utterance: phones (P of them), and pointer (T,) long into them, from 0 to P - 1."""

    item: SpeechItem
    phones: Phones
    pointer: Tensor


@dataclass(frozen=True)
class Speech(Aligned):
    """With its codes (K, T) long."""

    codes: Tensor


class AlignedSet(Sequence[Aligned]):
    """The file at `path`, in memory. Raises InputError when it is something else.

    items: of every utterance.   n_frames, n_phones: (U,) of each.   frame_rate: frames a second.
    """

    made_by = "align_corpus"

    def __init__(self, path: str | Path):
        try:
            with safe_open(str(path), framework="np") as file:
                self.metadata: dict[str, str] = file.metadata() or {}
                self._starts, self._pointer = file.get_tensor("starts"), file.get_tensor("pointer")
                self._phones, self._phone_starts = file.get_tensor("phones"), file.get_tensor("phone_starts")
            if self.metadata["format"] != FORMAT:
                raise ValueError(f"format {self.metadata['format']}, this version reads {FORMAT}")
            self.frame_rate = float(self.metadata.get("frame_rate", 50))  # older files do not say it
            names, *rows = json.loads(self.metadata["utterances"])
            self.items = tuple(SpeechItem(**dict(zip(names, row, strict=True))) for row in rows)
            self.n_frames, self.n_phones = np.diff(self._starts), np.diff(self._phone_starts)
            self._check()
        except (OSError, SafetensorError, KeyError, ValueError, TypeError, IndexError) as error:
            raise InputError(
                f"{path} is not a file of `python -m myna.training.sets.{self.made_by}` ({error}); make it again"
            ) from error

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> Aligned:  # pyright: ignore[reportIncompatibleMethodOverride]
        frames, phones = self._place(index)
        return Aligned(
            self.items[index],
            Phones(torch.from_numpy(self._phones[:, phones].astype(np.int64))),
            torch.from_numpy(self._pointer[frames].astype(np.int64)),
        )

    @property
    def hours(self) -> float:
        return int(self._starts[-1]) / self.frame_rate / 3600

    def _place(self, index: int) -> tuple[slice, slice]:
        """Its frames, and its phones."""
        if not -len(self) <= index < len(self):
            raise IndexError(f"utterance {index} of {len(self)}")
        index %= len(self)
        return (
            slice(*self._starts[index : index + 2].tolist()),
            slice(*self._phone_starts[index : index + 2].tolist()),
        )

    def _check(self) -> None:
        """Raise ValueError unless every pointer walks from its utterance's first phone to its last."""
        first, last = self._starts[:-1], self._starts[1:] - 1
        if not len(first) == len(self.n_phones) == len(self.items):
            raise ValueError("its parts are of different numbers of utterances")
        if self._phone_starts[-1] != self._phones.shape[1] or self._starts[-1] != len(self._pointer):
            raise ValueError("its parts are of different lengths")
        if min(self.n_frames.min(), self.n_phones.min(), 1 + self._phones.min()) < 1:
            raise ValueError("an utterance without frames or phones")
        if self._phones[0].max() >= N_SYMBOLS:
            raise ValueError("phones that this version does not know")
        step = np.diff(self._pointer)
        step[last[:-1]] = 0  # from one utterance to the next
        walks = (self._pointer[first] == 0).all() and (self._pointer[last] == self.n_phones - 1).all()
        if not walks or step.min(initial=0) < 0 or step.max(initial=0) > MAX_ADVANCE:
            raise ValueError("a pointer that does not walk through its phones")


class SpeechSet(AlignedSet):
    """An AlignedSet with codes.   codec, codec_hash: whose codes these are (16 hex digits of its weights' hash)."""

    made_by = "extract_speech"

    def __init__(self, path: str | Path):
        super().__init__(path)
        if "codebook_size" not in self.metadata:
            raise InputError(
                f"{path} has no codes; add them with `python -m myna.training.sets.{self.made_by}`"
            )
        code_set = CodeSet.load(path)
        self.codec, self.codec_hash = code_set.codec, code_set.codec_hash
        self.codebook_size, self.n_codebooks = code_set.codebook_size, int(code_set.codes.shape[0])
        self._codes = code_set.codes

    def __getitem__(self, index: int) -> Speech:
        aligned = super().__getitem__(index)
        codes = torch.from_numpy(self._codes[:, self._place(index)[0]].astype(np.int64))
        return Speech(aligned.item, aligned.phones, aligned.pointer, codes)


def aligned_set_bytes(utterances: Sequence[Aligned], frame_rate: float) -> bytes:
    """The file that `AlignedSet` reads. Raises InputError without utterances."""
    return save(_tensors(utterances), metadata=_metadata(utterances, frame_rate))


def speech_set_bytes(
    utterances: Sequence[Speech], codebook_size: int, codec: str, codec_hash: str, frame_rate: float
) -> bytes:
    """The file that `SpeechSet` reads. Raises InputError without utterances."""
    metadata = {"codec": codec, "codec_hash": codec_hash, "codebook_size": str(codebook_size)}
    tensors = _tensors(utterances)
    tensors["codes"] = np.concatenate([u.codes.numpy().astype(np.int16) for u in utterances], axis=1)
    return save(tensors, metadata=metadata | _metadata(utterances, frame_rate))


def _tensors(utterances: Sequence[Aligned]) -> dict[str, np.ndarray]:
    if not utterances:
        raise InputError("no utterance is left; check the corpus and its selection")
    return {
        "starts": _starts([len(u.pointer) for u in utterances]),
        "pointer": np.concatenate([u.pointer.numpy().astype(np.int16) for u in utterances]),
        "phones": np.concatenate([u.phones.tokens.numpy().astype(np.int16) for u in utterances], axis=1),
        "phone_starts": _starts([len(u.phones) for u in utterances]),
    }


def _metadata(utterances: Sequence[Aligned], frame_rate: float) -> dict[str, str]:
    names = [field.name for field in fields(SpeechItem)]
    rows = [[asdict(u.item)[name] for name in names] for u in utterances]
    described = json.dumps([names, *rows], ensure_ascii=False)
    return {"format": FORMAT, "frame_rate": str(frame_rate), "utterances": described}


def _starts(lengths: Sequence[int]) -> np.ndarray:
    return np.cumsum([0, *lengths]).astype(np.int64)
