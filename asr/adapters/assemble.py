"""What the adapters share: from weights by OpenAI's names to a model, and text vocabularies to bytes."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ...data.checkpoint import load_strictly
from ...errors import InputError
from ..model.alignment_heads import find_heads
from ..model.tokenizer import check_vocabulary
from ..model.whisper import Whisper, WhisperDims
from ..vocabularies import vocabulary_for

END_OF_TEXT = "<|endoftext|>"
_HEAD_CHANNELS = 64  # in every published Whisper


def assemble(
    weights: dict[str, Tensor],
    path: str | Path,
    name: str,
    audio_heads: Any = None,
    text_heads: Any = None,
    alignment_heads: Any = None,
    vocabulary: Sequence[bytes] | None = None,
    stated: Any = None,
) -> Whisper:
    """The model of these weights, float32, in evaluation mode.

    weights: by OpenAI's names, of any float type; emptied on the way, so that no more than one is in memory twice.
    audio_heads, text_heads: of the encoder's and the decoder's attention; None for heads of 64 channels.
    alignment_heads: as the checkpoint states them.   vocabulary: of the checkpoint; None for the published one.
    stated: the dimensions that the checkpoint gives itself, by name, which must be those of the weights.

    Raises InputError where they are not the weights of a Whisper.
    """
    dims = measure(weights, path, audio_heads, text_heads)
    for key, value in dataclasses.asdict(dims).items():
        if stated is not None and stated.get(key) != value:
            raise InputError(
                f"{path}: its dims say {key} = {stated.get(key)!r}, its weights {value}; download it again"
            )
    if vocabulary is None:
        vocabulary = vocabulary_for(dims.n_vocab)
    if vocabulary is not None:
        check_vocabulary(len(vocabulary), dims.n_vocab, path)
    with torch.device("meta"), _NothingDrawn():  # the shapes alone
        model = Whisper(dims, find_heads(dims, alignment_heads, name), vocabulary, name)
    for key in list(weights):
        tensor = weights.pop(key)
        if not tensor.is_floating_point():
            raise InputError(
                f"{path}: {key} is of {tensor.dtype}, quantized in a way unknown here; give a float checkpoint"
            )
        weights[key] = torch.empty(tensor.shape).copy_(tensor)  # out of the file's memory, and contiguous
    load_strictly(model, weights, path, assign=True)
    return model.eval()


class _NothingDrawn(TorchFunctionMode):
    """Layers are built without the random numbers that weights of a file would replace.

    On the meta device they cost no time, but the first of them imports torch's compiler: seconds, and 110 MB.
    """

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Any:
        kwargs = kwargs or {}
        if getattr(func, "__module__", None) == "torch.nn.init":
            return args[0] if args else kwargs["tensor"]
        return func(*args, **kwargs)


def measure(
    weights: Mapping[str, Tensor], path: str | Path, audio_heads: Any = None, text_heads: Any = None
) -> WhisperDims:
    """The dimensions of a Whisper by the shapes of its weights. Raises InputError."""

    def size(key: str, axis: int, rank: int) -> int:
        if key not in weights or weights[key].ndim != rank:
            shown = f"is {tuple(weights[key].shape)}" if key in weights else "is missing"
            raise InputError(f"{path} is not a whole Whisper: {key} {shown}; give the checkpoint of one")
        return weights[key].shape[axis]

    def layers(part: str) -> int:
        found = {int(m[1]) for key in weights if (m := re.match(rf"{part}\.blocks\.(\d+)\.", key))}
        if found != set(range(len(found))) or not found:
            raise InputError(f"{path} is not a whole Whisper: its {part} lacks layers; download it again")
        return len(found)

    def heads(given: Any, width: int, part: str) -> int:
        n = width // _HEAD_CHANNELS if given is None else given
        if not isinstance(n, int) or isinstance(n, bool) or n < 1 or width % n:
            raise InputError(
                f"{path}: {given!r} heads in an {part} of width {width}; its configuration is not its own"
            )
        return n

    audio = size("encoder.conv1.weight", 0, 3)
    text = size("decoder.token_embedding.weight", 1, 2)
    if audio != text:
        raise InputError(
            f"{path}: an encoder of width {audio} with a decoder of {text}; give a whole checkpoint"
        )
    return WhisperDims(
        n_mels=size("encoder.conv1.weight", 1, 3),
        n_audio_ctx=size("encoder.positional_embedding", 0, 2),
        n_audio_state=audio,
        n_audio_head=heads(audio_heads, audio, "encoder"),
        n_audio_layer=layers("encoder"),
        n_vocab=size("decoder.token_embedding.weight", 0, 2),
        n_text_ctx=size("decoder.positional_embedding", 0, 2),
        n_text_state=text,
        n_text_head=heads(text_heads, text, "decoder"),
        n_text_layer=layers("decoder"),
    )


def read_json(path: Path, missing: Any = None) -> Any:
    """What a JSON file beside the weights holds; `missing` if there is none. Raises InputError."""
    if not path.is_file():
        return missing
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, OSError, RecursionError) as error:
        raise InputError(f"{path} is not readable JSON ({error}); download it again") from None


def read_config(path: Path) -> Mapping[str, Any]:
    """A JSON object beside the weights, empty if there is none. Raises InputError."""
    config = read_json(path, {})
    if not isinstance(config, Mapping):
        raise InputError(f"{path} holds no JSON object; download it again")
    return config


def text_tokens(tokens: Sequence[Any], path: str | Path) -> tuple[bytes, ...]:
    """The bytes of the text tokens of a list by id, as GPT-2 writes them: those before the end of text.

    Raises InputError where the list is no vocabulary of Whisper's kind.
    """
    if END_OF_TEXT not in tokens:
        raise InputError(
            f"{path} has no {END_OF_TEXT}: it is not the vocabulary of a Whisper; download it again"
        )
    try:
        return tuple(bytes(_BYTES[c] for c in token) for token in tokens[: list(tokens).index(END_OF_TEXT)])
    except (KeyError, TypeError):
        raise InputError(f"{path} holds tokens that are not GPT-2's bytes; download it again") from None


def _byte_characters() -> dict[str, int]:
    """GPT-2's way to write any byte as a visible character (Radford et al. 2019): the printable ones of Latin-1 stand
    for themselves, the others, in order, for U+0100 and after."""
    shown = [*range(ord("!"), ord("~") + 1), *range(ord("¡"), ord("¬") + 1), *range(ord("®"), ord("ÿ") + 1)]
    hidden = [byte for byte in range(256) if byte not in shown]
    return {chr(byte): byte for byte in shown} | {chr(256 + i): byte for i, byte in enumerate(hidden)}


_BYTES = _byte_characters()
