"""A cloned voice: made once from a recording, used many times, no audio needed again.

    recording (+ what is said in it) -> prompt -> codec -> codes
                                        text -> phones -> aligner -> pointer
    codes, phones, pointer, who agreed and when -> one safetensors file

Shapes: K codebooks, T frames, P phones.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timezone
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

from ...codec import Codec, Codes
from ...codec.checkpoint import codes_hash
from ...data.audio import Audio
from ...data.checkpoint import read_safetensors
from ...data.files import atomic_output, input_errors
from ...data.resample import resample
from ...errors import InputError, MissingModelError, UsageError
from ...layers.mel import MelFrames
from ...pretrained.ge2e import DIMS as SPEAKER_DIMS
from ...pretrained.ge2e import RATE as SPEAKER_RATE
from ...pretrained.ge2e import load_ge2e
from ..lm.adapter import Adapter
from ..lm.batch import Prompt
from ..text.phones import N_SYMBOLS, Phones
from .adapted import adapter_tensors, describe_adapters, read_adapters
from .recording import CleanPrompt, PromptOptions, clean_prompt

if TYPE_CHECKING:
    from ..aligner import Aligner

FORMAT = "myna-voice 1"
TORTOISE_FORMAT = "myna-tortoise-voice"  # of the files of `tts.tortoise.voices`
SUFFIX = ".safetensors"
_NAME = re.compile(r"\w[\w .'+-]{0,63}")
_LONGEST_PROMPT = 60  # seconds: no voice of ours is nearly as long
_MIN_CONSENT = 10  # characters
MEL_RATE = 24_000  # samples a second of the recordings whose mel is kept
# Sounds a second of speech, below which a transcript leaves most of it out: the slowest of 500 children and adults of
# speechocean762's test split reads 3.8.
_SLOWEST = 3.0


@dataclass(frozen=True, eq=False)
class Voice:
    """A voice as it is kept.

    codes (K, T): the prompt.   phones, pointer (T,): what it says, and the phone of each frame, or None.
    codec_hash: 16 hex digits of the codec whose codes these are.   source: the recording's name.
    created: ISO 8601, UTC.   consent: the statement that its speaker agreed.   text: the transcript.
    notes: what was found wanting in the recording.   frame_rate: of the codes, a second.
    mel (M, T') natural log-mel, speaker (E,) speaker vector: of the recording; None in a voice of an earlier version.
    adapters: of the models, by their part, where minutes of recordings have adapted them (`myna voices adapt`); those
    of a decoder that is gone are kept and not used.
    """

    name: str
    codes: Tensor
    phones: Phones | None
    pointer: Tensor | None
    codec_hash: str
    source: str
    created: str
    consent: str
    text: str | None = None
    notes: tuple[str, ...] = ()
    frame_rate: float = 50.0
    mel: Tensor | None = None
    speaker: Tensor | None = None
    adapters: Mapping[str, Adapter] = field(default_factory=dict)

    def prompt(self) -> Prompt:
        """What the models are given; the same object every time, so that they can keep what they made of it."""
        return self._prompt

    @cached_property
    def _prompt(self) -> Prompt:
        return Prompt(self.codes, self.phones, self.pointer, self.mel, self.speaker, self.adapters)

    @property
    def seconds(self) -> float:
        """Of the prompt."""
        return self.codes.shape[1] / self.frame_rate

    def save(self, path: str | Path, force: bool = False) -> None:
        """Write a `.safetensors` file. Raises UsageError if it exists without `force` or its adapters are too large,
        OutputError as `atomic_output`."""
        if Path(path).suffix != SUFFIX:
            raise UsageError(f"a voice is kept as {SUFFIX}, not as {path}; name it so")
        tensors = {"codes": self.codes.to(torch.int16).contiguous()}
        if self.phones is not None and self.pointer is not None:
            tensors["phones"] = self.phones.tokens.to(torch.int16).contiguous()
            tensors["pointer"] = self.pointer.to(torch.int16).contiguous()
        if self.mel is not None and self.speaker is not None:
            tensors["mel"] = self.mel.half().contiguous()
            tensors["speaker"] = self.speaker.half().contiguous()
        known: dict[str, Any] = {name: getattr(self, name) for name in _FACTS}
        if self.adapters:
            tensors |= adapter_tensors(self.adapters)
            known["adapters"] = describe_adapters(self.adapters)
        facts = json.dumps(known, ensure_ascii=False)
        metadata = {"format": FORMAT, "voice": facts, "sha256": checksum(facts, tensors)}
        with atomic_output(path, force) as file:
            file.write(save(tensors, metadata=metadata))


_FACTS = ("name", "codec_hash", "source", "created", "consent", "text", "notes", "frame_rate")


def make_voice(
    source: str | Path | BinaryIO | Audio,
    codec: Codec,
    consent: str | None,
    name: str | None = None,
    text: str | None = None,
    language: str = "en-us",
    aligner: Aligner | None = None,
    options: PromptOptions | None = None,
) -> Voice:
    """A voice from a recording of 1 to 30 s.

    consent: a statement that the speaker agrees, in words.   name: None for the recording's.   text: what is said in
    all of the recording, where it is known.   aligner: for the text; None for the one that ships.
    Raises UsageError without consent or for a name that is none, InputError for what cannot be a voice.
    """
    if isinstance(source, str | Path):
        check_recording(source)  # before anybody is asked to consent to a misspelt name
    consent = check_consent(consent)
    name = _name_of(source) if name is None else check_name(name)
    clean = clean_prompt(source, codec.sample_rate, codec.frame_size, options)
    wav = torch.from_numpy(clean.samples)[None, None].to(next(codec.parameters()).device)
    codes = encode_prompt(codec, wav)
    text = " ".join(text.split()) if text else None
    phones, pointer = (
        (None, None) if not text else _aligned(clean, text, language, aligner, codec, codes.shape[1])
    )
    return Voice(
        name,
        codes,
        phones,
        pointer,
        codec_hash(codec),
        "samples" if isinstance(source, Audio) else Path(str(getattr(source, "name", source))).name,
        datetime.now(timezone.utc).isoformat(timespec="seconds"),
        consent,
        text or None,
        clean.notes,
        float(codec.frame_rate),
        *heard(clean.samples, codec.sample_rate),
    )


@torch.inference_mode()
def heard(samples: np.ndarray, sample_rate: int) -> tuple[Tensor, Tensor]:
    """A recording (N,) as the flow decoder reads it: natural log-mel (M, T) at 100 Hz, float16, and speaker vector
    (E,)."""
    at_24k = resample(samples[None], sample_rate, MEL_RATE)[0]
    at_16k = resample(samples[None], sample_rate, SPEAKER_RATE)[0]
    mel = MelFrames(MEL_RATE)(torch.from_numpy(at_24k)[None])[0]
    speaker = load_ge2e().vector(torch.from_numpy(at_16k))
    return mel.half(), speaker.half()


@torch.inference_mode()
def encode_prompt(codec: Codec, wav: Tensor) -> Tensor:
    """wav (1, 1, N) -> codes (K, T), without a search, as those that the models were trained on."""
    return codec.encode(wav).codes[0].cpu().clone()


def decode_prompt(codec: Codec, voice: Voice) -> Tensor:
    """The prompt (N,) as the models hear it. Raises as `check_codec`."""
    check_codec(voice, codec)
    n = max(
        1, voice.codes.shape[1] * codec.frame_size - codec.delay
    )  # the last frame waits for one that never comes
    with torch.inference_mode():
        device = next(codec.parameters()).device
        return codec.decode(Codes(voice.codes[None].to(device), n))[0, 0].cpu()


def load_voice(path: str | Path) -> Voice:
    """The voice of a file. Raises InputError, one line, for a file that is damaged or no voice, MissingModelError if
    there is none."""
    if not Path(path).is_file():
        raise MissingModelError(f"no voice at {path}; `myna voices list` shows those that are kept")
    file = read_safetensors(path)
    if file.metadata.get("format", "").startswith(TORTOISE_FORMAT):
        raise InputError(f"{path} is a voice of TorToise's networks; speak with --model tortoise")
    if file.metadata.get("format") != FORMAT:
        raise InputError(
            f"{path} is not a voice of this version of myna; give one that `myna voices add` made, or a recording"
        )
    try:
        if file.metadata["sha256"] != checksum(file.metadata["voice"], file.weights):
            raise ValueError
        facts = {"frame_rate": 50.0, **json.loads(file.metadata["voice"])}  # which older files do not say
        adapters = read_adapters(facts.pop("adapters", {}), file.weights)
        if set(facts) != set(_FACTS) or not isinstance(facts["notes"], list):
            raise ValueError
        facts["notes"] = tuple(map(str, facts["notes"]))
        if not all(
            isinstance(facts[key], str) for key in _FACTS if key not in ("text", "notes", "frame_rate")
        ):
            raise ValueError
        if not isinstance(facts["frame_rate"], float) or not 1 <= facts["frame_rate"] <= 1000:
            raise ValueError
        if not isinstance(facts["text"], str | None) or not _NAME.fullmatch(facts["name"]):
            raise ValueError
        tensors = {key: v if v.is_floating_point() else v.long() for key, v in file.weights.items()}
        phones = Phones(tensors["phones"]) if "phones" in tensors else None
        voice = Voice(
            codes=tensors["codes"],
            phones=phones,
            pointer=tensors.get("pointer"),
            mel=tensors.get("mel"),
            speaker=tensors.get("speaker"),
            adapters=adapters,
            **facts,
        )
        _check_tensors(voice)
    except (ValueError, KeyError, TypeError, AttributeError, RuntimeError):
        raise InputError(
            f"{path} is a damaged voice; make it again with `myna voices add`, from its recording"
        ) from None
    return voice


def check_codec(voice: Voice, codec: Codec) -> None:
    """Raises InputError for a voice whose codes are not this codec's."""
    here = codec_hash(codec)
    if voice.codec_hash != here:
        raise InputError(
            f"the voice {voice.name!r} was made for other weights of the codec ({voice.codec_hash}) than these "
            f"({here}); make it again from its recording"
        )
    if voice.codes.shape[0] != codec.n_codebooks or int(voice.codes.max()) >= codec.codebook_size:
        raise InputError(
            f"the voice {voice.name!r} is damaged; make it again with `myna voices add`, from its recording"
        )


def codec_hash(codec: Codec) -> str:
    """What a voice and the models that use it have in common; computed once for a codec."""
    found = codec.__dict__.get("_voice_hash")
    if found is None:
        found = codec.__dict__["_voice_hash"] = codes_hash(codec)[:16]
    return found


def check_consent(consent: str | None) -> str:
    """The statement without stray spaces. Raises UsageError where there is none."""
    said = " ".join((consent or "").split())
    if len(said) < _MIN_CONSENT:
        raise UsageError(
            "a voice is made only with its speaker's consent; state it, for example "
            '--consent "I am the speaker" or --consent "Ada Park agreed on 3 May"'
        )
    return said[:1000]


def check_recording(source: str | Path) -> None:
    """Raises InputError where there is no such file, or it is a folder; "-" is standard input."""
    if str(source) != "-":
        with input_errors(source), open(source, "rb"):
            pass


def check_name(name: str) -> str:
    """Raises UsageError for a name that could not be a file's."""
    name = name.strip()
    if not _NAME.fullmatch(name) or name.lower().endswith(SUFFIX) or name.endswith("."):
        raise UsageError(f"{name!r} cannot name a voice; use up to 64 letters, digits, spaces, - and _")
    return name


def _name_of(source: str | Path | BinaryIO | Audio) -> str:
    """A name from that of the recording."""
    stem = (
        "voice" if isinstance(source, Audio) else Path(str(getattr(source, "name", "voice") or "voice")).stem
    )
    if isinstance(source, str | Path):
        stem = Path(source).stem
    cleaned = re.sub(r"[^\w .'+-]", " ", stem).strip(" .'+-")[:64].strip()
    return cleaned or "voice"


def is_recording(name: str) -> bool:
    """Whether a text means a file rather than a name."""
    path = Path(name)
    return (
        name == "-" or len(path.parts) > 1 or path.is_file() or bool(re.fullmatch(r"\.\w{2,5}", path.suffix))
    )


def _aligned(
    clean: CleanPrompt, text: str, language: str, aligner: Aligner | None, codec: Codec, n_frames: int
) -> tuple[Phones, Tensor]:
    """The phones that the prompt says of the recording's text, and the pointer (T,) into them."""
    from ..aligner import align, load_aligner
    from ..text.normalize import normalize
    from ..text.phonemes import phonemize

    aligner = load_aligner() if aligner is None else aligner
    words = normalize(text, language)
    if not words:
        raise InputError(
            "the transcript holds no words; give exactly what is said in the recording, or no transcript"
        )
    phones = phonemize(words, language)
    if phones.n_sounds < _SLOWEST * clean.spoken:
        raise InputError(
            f"the transcript is too short for {clean.spoken:.1f} s of speech; give all that is said in the recording, "
            "or no transcript"
        )
    pointer = align(aligner, torch.from_numpy(clean.recording), phones).pointer
    first = clean.start // codec.frame_size
    at = torch.arange(first, first + n_frames).clamp(max=len(pointer) - 1)
    pointer = pointer[at]
    begin, end = int(pointer[0]), int(pointer[-1]) + 1
    return Phones(phones.tokens[:, begin:end].contiguous()), pointer - begin


def checksum(facts: str, tensors: Mapping[str, Tensor]) -> str:
    """Of all that a voice's file holds: a code that has changed is another code, and would not be noticed."""
    digest = hashlib.sha256(facts.encode())
    for key, value in sorted(tensors.items()):
        digest.update(f"{key} {value.dtype} {tuple(value.shape)}".encode() + value.numpy().tobytes())
    return digest.hexdigest()


def _check_tensors(voice: Voice) -> None:
    """Raises ValueError for shapes and values that no voice has."""
    codes = voice.codes
    if (
        codes.ndim != 2
        or not 0 < codes.shape[1] <= _LONGEST_PROMPT * voice.frame_rate
        or int(codes.min()) < 0
    ):
        raise ValueError
    if (voice.mel is None) != (voice.speaker is None):
        raise ValueError
    if voice.mel is not None and voice.speaker is not None:
        known = voice.mel.ndim == 2 and voice.speaker.shape == (SPEAKER_DIMS,)
        if not known or not bool(voice.mel.isfinite().all()) or not bool(voice.speaker.isfinite().all()):
            raise ValueError
    if (voice.phones is None) != (voice.pointer is None):
        raise ValueError
    if voice.phones is None or voice.pointer is None:
        return
    tokens, pointer = voice.phones.tokens, voice.pointer
    if tokens.ndim != 2 or tokens.shape[0] != 3 or pointer.shape != codes.shape[1:]:
        raise ValueError
    limits = torch.tensor([N_SYMBOLS, 3, 2])[:, None]
    if bool((tokens < 0).any()) or bool((tokens >= limits).any()):
        raise ValueError
    steps = pointer.diff()
    if int(pointer[0]) != 0 or int(pointer[-1]) >= tokens.shape[1] or bool((steps < 0).any()):
        raise ValueError
