"""The decoders by name, and the checkpoints of the speech models: one safetensors file each, and the ones that ship.

    metadata: config {"family": "ar" | "nar", <every field of the config>}, codec_hash (16 hex digits of the hash of the
              weights of the codec whose codes the model speaks), and notes of the trainer

Nothing in the file can run code, and no other file is needed.
"""

from __future__ import annotations

import dataclasses
import json
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from safetensors.torch import save
from torch import nn

from ..codec import Codec
from ..codec.checkpoint import codes_hash
from ..codec.mel_vocoder import MelVocoder, MelVocoderConfig
from ..data.checkpoint import (
    config_from_dict,
    load_checkpoint,
    load_strictly,
    read_safetensors,
    uninitialized,
)
from ..data.files import atomic_output
from ..errors import InputError, MissingModelError, UsageError
from ..kernels.precision import Precision, choose
from ..pretrained.ge2e import load_ge2e
from .decoders.base import SpeechDecoder
from .decoders.flow.decoder import FlowConfig, FlowDecoder
from .decoders.flow.sound import FlowSpeechDecoder
from .lm.adapter import GONE
from .lm.ar import ARConfig, ARModel

WEIGHTS = Path(__file__).resolve().parent.parent / "weights"
NEXT = WEIGHTS / "next"  # weights that are not the default: in the repository, not in the package
# VALL-E over `myna-24k`, both stages: by their recipes, they do not ship.
AR_FILE = "myna-ar.safetensors"
NAR_FILE = "myna-nar.safetensors"
FLOW_FILES = {  # of the path that speaks by default
    "flow": "myna-flow.safetensors",
    "tokens": "myna-tokens.safetensors",
    "ar": "myna-token-ar.safetensors",
    "vocoder": "myna-mel-vocoder.safetensors",
}
CLVP_FILE = "myna-clvp.safetensors"  # reads the same tokens, where it was trained,
MEL_NAR_FILE = "myna-mel-nar.safetensors"  # and VALL-E's second stage over the mel codec, with
MEL_CODEC_FILE = "myna-mel.safetensors"

if (
    TYPE_CHECKING
):  # what does not speak by default is imported where it is used: a start is half of a short sentence
    from .decoders.nar import NARModel

_FAMILIES = {"ARConfig": "ar", "NARConfig": "nar"}
_SAYS = {"ar": "an autoregressive speech model", "nar": "a non-autoregressive speech model"}

M = TypeVar("M", bound=nn.Module)


def save_model(
    model: ARModel | NARModel, path: str | Path, codec_hash: str, notes: Mapping[str, str]
) -> None:
    """Write a model in the precision it is in. codec_hash: 16 hex digits. notes: further metadata.
    Raises OutputError."""
    family = _FAMILIES[type(model.config).__name__]
    described = json.dumps({"family": family, **dataclasses.asdict(model.config)})
    weights = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    with atomic_output(path, force=True) as file:
        file.write(save(weights, metadata={**notes, "codec_hash": codec_hash, "config": described}))


def load_ar(
    path: str | Path | None = None, device: str | torch.device = "cpu", codec_hash: str | None = None
) -> ARModel:
    """The autoregressive model of a file, float32, in evaluation mode.

    path: None: that over `myna-24k`, where it was trained.   codec_hash: of the codec that is to speak its codes.
    Raises MissingModelError without the file or for another codec's, InputError when it is damaged or of another kind.
    """
    path = weights_file(AR_FILE) if path is None else path
    return _load("ar", ARModel, ARConfig, path, device, codec_hash)


def load_nar(
    path: str | Path | None = None, device: str | torch.device = "cpu", codec_hash: str | None = None
) -> NARModel:
    """The non-autoregressive model of a file, as `load_ar`; None: that over `myna-24k`, where it was trained."""
    from .decoders.nar import NARConfig, NARModel

    path = weights_file(NAR_FILE) if path is None else path
    return _load("nar", NARModel, NARConfig, path, device, codec_hash)


def _load(
    family: str,
    kind: Callable[[Any], M],
    config: type,
    path: str | Path,
    device: str | torch.device,
    codec_hash: str | None,
) -> M:
    file = read_safetensors(path)
    try:
        described: dict[str, Any] = json.loads(file.metadata["config"])
        if described.pop("family") != family:
            raise ValueError
        spoken = file.metadata["codec_hash"]
        if described.pop("alignment", "pointer") != "pointer":  # which older files say
            raise ValueError
    except (ValueError, KeyError, TypeError, AttributeError):
        raise InputError(
            f"{path} is not {_SAYS[family]}; give one that `myna train myna-{family}` wrote"
        ) from None
    if codec_hash is not None and codec_hash[: len(spoken)] != spoken:
        raise MissingModelError(
            f"{path} speaks the codes of the codec {spoken}, but the codec here is {codec_hash[: len(spoken)]}; "
            "use the two that were trained together"
        )
    for key, value in described.items():  # lists of lists
        if isinstance(value, list):
            described[key] = tuple(tuple(v) if isinstance(v, list) else v for v in value)
    dimensions = config_from_dict(config, described, path)
    try:
        with uninitialized():
            model = kind(dimensions)
    except (ValueError, TypeError, ZeroDivisionError, RuntimeError) as error:
        raise InputError(f"{path}: its configuration cannot be built: {error}") from None
    load_strictly(model, file.weights, path)
    return model.to(device).float().eval()


# ---- decoders by name


def weights_file(name: str) -> Path:
    """Where a file of weights lies: with those that ship, else (whether it is there or not) among those that do not."""
    shipped = WEIGHTS / name
    return shipped if shipped.is_file() else NEXT / name


def flow_files(folder: str | Path | None = None) -> dict[str, Path]:
    """The files of the flow path by their role in `FLOW_FILES`, in one folder; None: where each lies. They need not be
    there."""
    if folder is None:
        return {role: weights_file(name) for role, name in FLOW_FILES.items()}
    return {role: Path(folder) / name for role, name in FLOW_FILES.items()}


@dataclass(frozen=True)
class DecoderRow:
    """A decoder that can be chosen.

    load: from its weights (None where it has none) for a codec, an AR and a device, in a precision.   file: the name of
    its weights.   recipe: that trains them, where they do not ship.   aliases: other names for it.
    """

    name: str
    summary: str
    load: Callable[[Codec, ARModel, Path | None, str | torch.device, str], SpeechDecoder]
    file: str | None = None
    recipe: str | None = None
    aliases: tuple[str, ...] = ()

    @property
    def weights(self) -> Path | None:
        """Where its weights are, or would be."""
        return None if self.file is None else weights_file(self.file)

    @property
    def is_installed(self) -> bool:
        return self.weights is None or self.weights.is_file()

    @property
    def remedy(self) -> str:
        """What to do where it is not installed, after "; "."""
        if self.recipe is None or self.file is None:
            return "install myna again"
        return (
            f"its weights do not ship: train them (myna train recipes/{self.recipe}.yaml), and put "
            f"runs/{self.recipe}/best.safetensors at {(NEXT if NEXT.is_dir() else WEIGHTS) / self.file}"
        )


def decoder_precision(requested: str, device: str | torch.device) -> Precision:
    """Of what makes the sound. 8 bits are the AR's alone: here they would be heard."""
    return "float32" if requested == "int8" else choose(requested, "speech decoder", device)


def _load_flow(
    codec: Codec, ar: ARModel, path: Path | None, device: str | torch.device, precision: str
) -> SpeechDecoder:
    """After an AR over the codec's codes, whose pointer alone is read. The mel vocoder: beside the decoder's file, else
    that which ships."""
    file = weights_file(FLOW_FILES["flow"]) if path is None else path
    vocoder_file = file.with_name(FLOW_FILES["vocoder"])
    if not vocoder_file.is_file():
        vocoder_file = weights_file(FLOW_FILES["vocoder"])
    if codec.frame_rate != 50:
        raise MissingModelError(
            f"the decoder flow reads 50 frames a second, the codec {codec.name} has {float(codec.frame_rate):g}"
        )
    flow = load_checkpoint(FlowDecoder, FlowConfig, file, "flow", device)
    vocoder = load_checkpoint(MelVocoder, MelVocoderConfig, vocoder_file, "mel-vocoder", device)
    chosen = decoder_precision(precision, device)
    return FlowSpeechDecoder(flow, vocoder, None, load_ge2e(device=str(device)), precision=chosen)


def _load_nar(
    codec: Codec, ar: ARModel, path: Path | None, device: str | torch.device, precision: str
) -> SpeechDecoder:
    from .decoders.nar_stream import NARDecoder

    nar = load_nar(path, device, codes_hash(codec))
    return NARDecoder(nar, codec, choose(precision, "speech model", device))


# The first that is installed is the default.
DECODERS: dict[str, DecoderRow] = {
    row.name: row
    for row in (
        DecoderRow("flow", "a mel spectrogram by flow matching", _load_flow, FLOW_FILES["flow"]),
        DecoderRow(
            "nar", "hoarser; VALL-E as published", _load_nar, NAR_FILE, "myna-nar-cpu", aliases=("codec",)
        ),
    )
}


def has_token_ar() -> bool:
    """Whether the AR over speech tokens is there; without, the decoder flow reads the pointer of the other AR."""
    return weights_file(FLOW_FILES["ar"]).is_file()


def has_mel_nar() -> bool:
    """Whether the NAR over the mel codec is there, and the codec; without, the decoder nar is that over
    `myna-24k`."""
    return all(weights_file(file).is_file() for file in (MEL_NAR_FILE, MEL_CODEC_FILE))


def after_tokens(decoder: str | None) -> bool:
    """Whether a decoder (None: the preferred) speaks after the AR over speech tokens, rather than after that over a
    codec's codes."""
    return has_token_ar() and (decoder in (None, "flow") or (decoder == "nar" and has_mel_nar()))


def unheard(parts: Iterable[str]) -> list[str]:
    """Those of a voice's adapters (`tts.lm.adapter`) that nothing which speaks by default reads."""
    return [part for part in parts if part in GONE or (part == "ar" and after_tokens(None))]


def decoder_name(name: str) -> str:
    """A decoder's one name. The alias `codec` stands for the NAR over `myna-24k` even where `nar` is another. Raises
    UsageError as `find_decoder`."""
    row = find_decoder(name)
    return name if name in row.aliases and has_token_ar() and has_mel_nar() else row.name


def find_decoder(name: str) -> DecoderRow:
    """Raises UsageError for a name that no decoder has, or has no more."""
    for row in DECODERS.values():
        if name in (row.name, *row.aliases):
            return row
    if name in GONE:
        raise UsageError(
            f"the decoder {name} is gone: {GONE[name]} took its place, and is the default; leave the decoder out"
        )
    raise UsageError(f"no decoder named {name!r}: choose one of {', '.join(DECODERS)}")


class LoadedOnUse(Mapping[str, SpeechDecoder]):
    """Decoders by name, each loaded when it is asked for."""

    def __init__(self, loaders: Mapping[str, Callable[[], SpeechDecoder]]):
        self._loaders, self._loaded = dict(loaders), dict[str, SpeechDecoder]()
        self._lock = threading.Lock()

    def __getitem__(self, name: str) -> SpeechDecoder:
        with self._lock:
            if name not in self._loaded:
                self._loaded[name] = self._loaders[name]()
            return self._loaded[name]

    def __contains__(self, name: object) -> bool:
        return name in self._loaders

    def __iter__(self) -> Iterator[str]:
        return iter(self._loaders)

    def __len__(self) -> int:
        return len(self._loaders)


def load_decoders(
    codec: Codec,
    ar: ARModel,
    device: str | torch.device = "cpu",
    weights: Mapping[str, Path | None] | None = None,
    precision: str = "auto",
) -> LoadedOnUse:
    """What can make sound of an AR's latents.

    weights: files in the place of those that are installed, by decoder.   precision: see `kernels.precision`.
    """
    given = {name: path for name, path in (weights or {}).items() if path is not None}
    return LoadedOnUse(
        {
            name: partial(row.load, codec, ar, given.get(name, row.weights), device, precision)
            for name, row in DECODERS.items()
            if name in given or row.is_installed
        }
    )
