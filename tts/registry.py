"""The decoders by name, and the checkpoints of the speech models: one safetensors file each, and the ones that ship.

    metadata: config {"family": "ar" | "nar" | "vocoder", <every field of the config>}, codec_hash (16 hex digits of the
              hash of the weights of the codec whose codes the model speaks), and notes of the trainer

Nothing in the file can run code, and no other file is needed.
"""

from __future__ import annotations

import dataclasses
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import torch
from safetensors.torch import save
from torch import nn

from ..codec import Codec
from ..codec.checkpoint import weights_hash
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
from .decoders.vocoder import Vocoder, VocoderConfig
from .decoders.vocoder_stream import VocoderDecoder
from .lm.ar import ARConfig, ARModel

WEIGHTS = Path(__file__).resolve().parent.parent / "weights"
SHIPPED_AR, SHIPPED_NAR = WEIGHTS / "myna-ar.safetensors", WEIGHTS / "myna-nar.safetensors"
SHIPPED_VOCODER = WEIGHTS / "myna-vocoder.safetensors"
NEXT = WEIGHTS / "next"  # weights that are still in training: in the repository, not in the package
FLOW_FILES = {
    "flow": "myna-flow.safetensors",
    "tokens": "myna-tokens.safetensors",
    "ar": "myna-token-ar.safetensors",
    "vocoder": "myna-mel-vocoder.safetensors",
}
CLVP_FILE = "myna-clvp.safetensors"  # beside them, where it was trained,
MEL_NAR_FILE = "myna-mel-nar.safetensors"  # and VALL-E's second stage over the mel codec, with
MEL_CODEC_FILE = "myna-mel.safetensors"

if (
    TYPE_CHECKING
):  # what does not speak by default is imported where it is used: a start is half of a short sentence
    from .decoders.nar import NARModel

_FAMILIES = {"ARConfig": "ar", "NARConfig": "nar", "VocoderConfig": "vocoder"}
_SAYS = {
    "ar": "an autoregressive speech model",
    "nar": "a non-autoregressive speech model",
    "vocoder": "a vocoder",
}

M = TypeVar("M", bound=nn.Module)


def save_model(
    model: ARModel | NARModel | Vocoder, path: str | Path, codec_hash: str, notes: Mapping[str, str]
) -> None:
    """Write a model in the precision it is in. codec_hash: 16 hex digits. notes: further metadata.
    Raises OutputError."""
    family = _FAMILIES[type(model.config).__name__]
    described = json.dumps({"family": family, **dataclasses.asdict(model.config)})
    weights = {key: value.detach().cpu().contiguous() for key, value in model.state_dict().items()}
    with atomic_output(path, force=True) as file:
        file.write(save(weights, metadata={**notes, "codec_hash": codec_hash, "config": described}))


def load_ar(
    path: str | Path = SHIPPED_AR, device: str | torch.device = "cpu", codec_hash: str | None = None
) -> ARModel:
    """The autoregressive model of a file, float32, in evaluation mode.

    codec_hash: of the codec that is to speak its codes. Raises MissingModelError without the file or for another
    codec's, InputError when it is damaged or of another kind.
    """
    return _load("ar", ARModel, ARConfig, path, device, codec_hash)


def load_nar(
    path: str | Path = SHIPPED_NAR, device: str | torch.device = "cpu", codec_hash: str | None = None
) -> NARModel:
    """The non-autoregressive model of a file, as `load_ar`."""
    from .decoders.nar import NARConfig, NARModel

    return _load("nar", NARModel, NARConfig, path, device, codec_hash)


def load_vocoder(
    path: str | Path = SHIPPED_VOCODER,
    device: str | torch.device = "cpu",
    codec_hash: str | None = None,
    ar_hash: str | None = None,
) -> Vocoder:
    """The vocoder of a file, as `load_ar`. ar_hash: of the AR whose hidden states it is to read; MissingModelError for
    another's."""
    vocoder = _load("vocoder", Vocoder, VocoderConfig, path, device, codec_hash)
    known = read_safetensors(path).metadata.get("ar_hash", "")
    if ar_hash is not None and (not known or ar_hash[: len(known)] != known):
        raise MissingModelError(
            f"{path} reads the hidden states of the AR {known or 'of an unknown hash'}, but the AR here is "
            f"{ar_hash[:16]}; use the two that were trained together, or train it anew: myna train "
            "recipes/myna-vocoder-cpu.yaml"
        )
    return vocoder


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


@dataclass(frozen=True)
class DecoderRow:
    """A decoder that can be chosen.

    load: from its weights (None where it has none) for a codec, an AR and a device, in a precision.   weights: those
    that ship.   reads_hidden: they belong to one AR, that which ships.   aliases: other names for it.
    """

    name: str
    summary: str
    load: Callable[[Codec, ARModel, Path | None, str | torch.device, str], SpeechDecoder]
    weights: Path | None = None
    reads_hidden: bool = False
    aliases: tuple[str, ...] = ()

    @property
    def is_installed(self) -> bool:
        return self.weights is None or self.weights.is_file()


def decoder_precision(requested: str, device: str | torch.device) -> Precision:
    """Of what makes the sound. 8 bits are the AR's alone: here they would be heard."""
    return "float32" if requested == "int8" else choose(requested, "speech decoder", device)


def _load_vocoder(
    codec: Codec, ar: ARModel, path: Path | None, device: str | torch.device, precision: str
) -> SpeechDecoder:
    file = SHIPPED_VOCODER if path is None else path
    vocoder = load_vocoder(file, device, weights_hash(codec), weights_hash(ar))
    return VocoderDecoder(vocoder, decoder_precision(precision, device))


def _load_nar(
    codec: Codec, ar: ARModel, path: Path | None, device: str | torch.device, precision: str
) -> SpeechDecoder:
    from .decoders.nar_stream import NARDecoder

    nar = load_nar(SHIPPED_NAR if path is None else path, device, weights_hash(codec))
    return NARDecoder(nar, codec, choose(precision, "speech model", device))


def _load_flow(
    codec: Codec, ar: ARModel, path: Path | None, device: str | torch.device, precision: str
) -> SpeechDecoder:
    """After an AR over the codec's codes, whose pointer alone is read."""
    from ..codec.mel_vocoder import MelVocoder, MelVocoderConfig
    from .decoders.flow.decoder import FlowConfig, FlowDecoder
    from .decoders.flow.sound import FlowSpeechDecoder

    file = flow_folder() / FLOW_FILES["flow"] if path is None else path
    if codec.frame_rate != 50:
        raise MissingModelError(
            f"the decoder flow reads 50 frames a second, the codec {codec.name} has {float(codec.frame_rate):g}"
        )
    flow = load_checkpoint(FlowDecoder, FlowConfig, file, "flow", device)
    vocoder = load_checkpoint(
        MelVocoder, MelVocoderConfig, file.with_name(FLOW_FILES["vocoder"]), "mel-vocoder", device
    )
    chosen = decoder_precision(precision, device)
    return FlowSpeechDecoder(flow, vocoder, None, load_ge2e(device=str(device)), precision=chosen)


# The first that is installed is the default.
DECODERS: dict[str, DecoderRow] = {
    row.name: row
    for row in (
        DecoderRow("vocoder", "a source and a filter", _load_vocoder, SHIPPED_VOCODER, reads_hidden=True),
        DecoderRow("nar", "hoarser; VALL-E as published", _load_nar, SHIPPED_NAR, aliases=("codec",)),
        DecoderRow(
            "flow", "a mel spectrogram by flow matching; in training", _load_flow, NEXT / FLOW_FILES["flow"]
        ),
    )
}


def flow_folder() -> Path:
    """Where the weights of the flow path lie: with the others, or among those that are still in training."""
    return WEIGHTS if (WEIGHTS / FLOW_FILES["flow"]).is_file() else NEXT


def has_token_ar() -> bool:
    """Whether an AR over speech tokens is installed; without, the decoder flow reads the pointer of the other AR."""
    return (flow_folder() / FLOW_FILES["ar"]).is_file()


def has_mel_nar() -> bool:
    """Whether the NAR over the mel codec is installed, and the codec; without, the decoder nar is that over
    `myna-24k`."""
    return all((flow_folder() / file).is_file() for file in (MEL_NAR_FILE, MEL_CODEC_FILE))


def after_tokens(decoder: str | None) -> bool:
    """Whether a decoder speaks after the AR over speech tokens, rather than after that over a codec's codes."""
    return has_token_ar() and (decoder == "flow" or (decoder == "nar" and has_mel_nar()))


def decoder_name(name: str) -> str:
    """A decoder's one name. The alias `codec` stands for the NAR over `myna-24k` even where `nar` is another. Raises
    UsageError as `find_decoder`."""
    row = find_decoder(name)
    return name if name in row.aliases and has_token_ar() and has_mel_nar() else row.name


def find_decoder(name: str) -> DecoderRow:
    """Raises UsageError for a name that no decoder has."""
    for row in DECODERS.values():
        if name in (row.name, *row.aliases):
            return row
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
    ships: bool = True,
    precision: str = "auto",
) -> LoadedOnUse:
    """What can make sound of an AR's latents.

    weights: files in the place of those that ship, by decoder.   ships: whether the AR is that which ships; to another
    one belong only the decoders that do not read its hidden states, and those in `weights`.
    precision: see `kernels.precision`.
    """
    given = {name: path for name, path in (weights or {}).items() if path is not None}
    return LoadedOnUse(
        {
            name: partial(row.load, codec, ar, given.get(name, row.weights), device, precision)
            for name, row in DECODERS.items()
            if name in given or (row.is_installed and (ships or not row.reads_hidden))
        }
    )
