"""A codec whose decoder speaks as a voice's recordings have taught it: `myna voices adapt NAME ... --codec`."""

from __future__ import annotations

import copy
from typing import cast

from ...codec import Codec
from ...codec.checkpoint import codes_hash, weights_hash
from ...errors import InputError, UsageError
from ...layers.lora import adapted
from ...layers.streaming import Chain
from .library import voice_path
from .voice import SUFFIX, Voice, check_name, load_voice

PART = "codec"  # its name among a voice's adapters


def kept_voice(name: str) -> Voice:
    """A voice by its name in the library, or by its file. Raises UsageError for a name that no voice of the user's has,
    else as `load_voice`."""
    if name.endswith(SUFFIX):
        return load_voice(name)
    path = voice_path(check_name(name))
    if not path.is_file():
        raise UsageError(
            f"no voice of yours is named {name!r}; `myna voices adapt {name} RECORDINGS --codec` makes one that has "
            "learned the codec"
        )
    return load_voice(path)


def codec_of_voice(codec: Codec, voice: Voice) -> Codec:
    """The codec with the voice's adapter in its decoder; its codes are the same. The codec stays as it is.

    Raises UsageError for a voice that has no adapter of a codec, InputError for one of another codec or other weights.
    """
    adapter = voice.adapters.get(PART)
    if adapter is None:
        raise UsageError(
            f"the voice {voice.name!r} has not learned a codec; `myna voices adapt {voice.name} RECORDINGS --codec` "
            "teaches it one"
        )
    model = str(adapter.facts.get("model", codec.name))
    if model != codec.name or adapter.base != weights_hash(codec)[: len(adapter.base)]:
        raise InputError(
            f"the voice {voice.name!r} has learned the decoder of {model} with weights {adapter.base}, not that of "
            f"{codec.name} with {weights_hash(codec)[: len(adapter.base)]}; adapt it again with --codec, or leave the "
            "voice out"
        )
    try:
        view = copy.copy(codec)
        view.codes_of = codes_hash(codec)
        view._modules = {**codec._modules, "decoder": adapted(cast(Chain, codec.decoder), adapter.weights)}
    except ValueError as error:
        raise InputError(
            f"the voice's adapter of {codec.name} does not fit ({error}); adapt it again with --codec"
        ) from None
    return view
