"""The flow path after an AR over speech tokens: token AR, flow decoder, mel vocoder, as the synthesizer asks for them.

phones, voice -> TokenAR -> tokens, pointer -> FlowDecoder -> mel -> MelVocoder -> samples

Where they were trained, the NAR over the mel codec and that codec speak after the same AR (`--decoder nar`).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, cast

import torch

from ..codec import Codec
from ..codec.checkpoint import codes_hash, weights_hash
from ..codec.mel.speech_tokens import SpeechTokenizer, SpeechTokensConfig
from ..codec.mel.trained_on import check_trained_on
from ..codec.mel_vocoder import MelVocoder, MelVocoderConfig
from ..codec.registry import load_codec
from ..data.checkpoint import load_checkpoint
from ..errors import MissingModelError
from ..kernels.precision import Precision, choose
from ..pretrained.ge2e import load_ge2e
from .aligner import Aligner
from .decoders.base import SpeechDecoder
from .decoders.flow.decoder import FlowConfig, FlowDecoder
from .decoders.flow.sound import FlowSpeechDecoder, ReadVoice
from .decoders.flow.stream import FlowOptions
from .lm.ar import ARModel
from .lm.batch import Prompt
from .lm.generate import SpeechGenerator
from .lm.sampling import SamplingOptions
from .lm.token_ar import TokenAR, TokenARConfig
from .lm.token_generate import TokenGenerator
from .registry import (
    MEL_CODEC_FILE,
    MEL_NAR_FILE,
    LoadedOnUse,
    decoder_precision,
    flow_files,
    load_nar,
    weights_file,
)
from .rerank.ranking import RankingOptions, Scorers
from .text.phones import Phones
from .valle import Valle

# Of what the AR says the decoder reads when each phone is said: with the tokens as well, strangers lose words and
# likeness (docs/log.md).
OPTIONS = FlowOptions(tokens=False)
_RECIPES = {
    "flow": "myna-flow-cpu",
    "tokens": "myna-tokens-cpu",
    "ar": "myna-token-ar-cpu",
    "vocoder": "myna-mel-vocoder-cpu",
}


class FlowSpeech(Valle):
    """Valle whose AR says speech tokens. decoder: reads them.   nar: loads the other decoder that does, None where it
    was not trained."""

    ar_part, opening = "token-ar", 12

    def __init__(
        self,
        codec: Codec,
        ar: TokenAR,
        decoder: FlowSpeechDecoder,
        aligner: Aligner | None = None,
        precision: Precision = "int8",
        scorers: Scorers = (),
        ranking: RankingOptions | None = None,
        nar: Callable[[], SpeechDecoder] | None = None,
    ):
        loaders: dict[str, Callable[[], SpeechDecoder]] = {decoder.name: lambda: decoder}
        if nar is not None:
            loaders["nar"] = nar
        super().__init__(codec, cast(ARModel, ar), LoadedOnUse(loaders), aligner, precision, scorers, ranking)

    def utterance(
        self, ar: Any, phones: Phones, prompt: Prompt | None, sampling: SamplingOptions
    ) -> SpeechGenerator:
        voice = None
        if prompt is not None:
            read = self._read(prompt, self.decoder()).voices[self.decoder().name]
            voice = cast(ReadVoice, read).tokens
        return TokenGenerator(ar, phones, voice, sampling)


Spoken = TypeVar("Spoken", bound=FlowSpeech)


def load_flow_speech(
    codec: Codec,
    aligner: Aligner | None = None,
    device: str | torch.device = "cpu",
    folder: str | Path | None = None,
    scorers: Scorers = (),
    precision: str = "auto",
    flow: str | Path | None = None,
    kind: type[Spoken] = FlowSpeech,
) -> Spoken:
    """The models of the flow path in a folder; None: where each lies.

    precision: see `kernels.precision`.   flow: a file in the place of the decoder's.   kind: of what is made.

    Raises MissingModelError, one line, where one is missing or belongs to another, InputError for a damaged file.
    """
    paths = flow_files(folder)
    if flow is not None:
        paths["flow"] = Path(flow)
    for role, path in paths.items():
        if not path.is_file():
            raise MissingModelError(
                f"the decoder flow needs {path.name}, which is not in {path.parent}; install myna again, or train it: "
                f"myna train recipes/{_RECIPES[role]}.yaml"
            )
    tokenizer = load_checkpoint(SpeechTokenizer, SpeechTokensConfig, paths["tokens"], "tokens", device)
    here = check_trained_on(paths["flow"], tokenizer)
    check_trained_on(paths["ar"], tokenizer)
    decoder = FlowSpeechDecoder(
        load_checkpoint(FlowDecoder, FlowConfig, paths["flow"], "flow", device),
        load_checkpoint(MelVocoder, MelVocoderConfig, paths["vocoder"], "mel-vocoder", device),
        tokenizer,
        load_ge2e(device=str(device)),
        OPTIONS,
        precision=decoder_precision(precision, device),
    )
    ar = load_checkpoint(TokenAR, TokenARConfig, paths["ar"], "token-ar", device)
    precise = choose(precision, "speech model", device)
    nar_file, codec_file = (
        weights_file(name) if folder is None else Path(folder) / name
        for name in (MEL_NAR_FILE, MEL_CODEC_FILE)
    )
    nar = None
    if nar_file.is_file() and codec_file.is_file():
        nar = partial(_load_mel_nar, nar_file, codec_file, here, device, precise)
    return kind(codec, ar, decoder, aligner, precise, scorers, nar=nar)


def _load_mel_nar(
    path: Path, codec_path: Path, tokens_hash: str, device: str | torch.device, precision: Precision
) -> SpeechDecoder:
    """VALL-E's second stage over the mel codec. Raises MissingModelError for models of which one belongs to another."""
    from ..codec.mel.codec import MelCodec  # what does not speak by default is imported where it is used
    from .decoders.mel_nar import MelNARDecoder

    codec = load_codec(codec_path, device)
    if not isinstance(codec, MelCodec) or weights_hash(codec.tokenizer) != tokens_hash:
        raise MissingModelError(
            f"{codec_path} is no mel codec around the tokenizer here, {tokens_hash[:16]}, whose tokens the AR says; "
            "use models that were trained together"
        )
    return MelNARDecoder(load_nar(path, device, codes_hash(codec)), codec, precision)
