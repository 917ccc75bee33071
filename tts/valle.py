"""VALL-E put together (Wang et al. 2023, figure 1): the codec, the AR, the decoders and the aligner, ready to speak."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, cast

import torch
from torch import Tensor

from ..codec import Codec, Codes
from ..codec.checkpoint import weights_hash
from ..errors import MissingModelError
from ..kernels.precision import Precision
from ..layers.lora import LoRAWeights
from .aligner import Aligner
from .decoders.base import SoundStream, SpeechDecoder, VoiceState
from .finish.level import LevelState, active_level, start_state
from .lm.adapter import GONE, adapted_model, adapter_of, folded
from .lm.ar import ARModel
from .lm.batch import Prompt
from .lm.generate import ARGenerator, SpeechGenerator
from .lm.quantize import for_inference
from .lm.row_exact import row_exact
from .lm.sampling import SamplingOptions
from .lm.several import several
from .lm.step import Frame
from .registry import DECODERS, find_decoder
from .rerank.base import Attempt
from .rerank.ranking import Ranking, RankingOptions, Scorers, Verdict
from .rerank.words import Words
from .text.phones import Phones

_VOICES = 8  # prompts of which is kept what was read


@dataclass(frozen=True)
class _ReadPrompt:
    """What need not be computed again for a prompt. It holds the prompt, so that its id stays its own."""

    prompt: Prompt
    wav: Tensor  # (S,) at the codec's rate
    level: LevelState
    ar: ARModel  # with the voice's adapter, if it has one
    voices: dict[str, VoiceState] = field(default_factory=dict)  # by decoder


class Valle:
    """The models, as `tts.synthesis.Synthesizer` asks for them. Safe to use from several threads.

    decoders: by name, the preferred first; a mapping that loads one when it is asked for will do.   aligner: finds
    missing words.   precision: of the AR's matrices on a CPU.   scorers: judge candidates beside the aligner (the
    preset "best"), weighed by `ranking`.
    """

    ar_part = "ar"  # its name among a voice's adapters
    opening = 24  # frames of the AR after which something can be heard
    chunks_ahead = 12  # of the AR before the decoder: half a minute at most

    def __init__(
        self,
        codec: Codec,
        ar: ARModel,
        decoders: Mapping[str, SpeechDecoder],
        aligner: Aligner | None = None,
        precision: Precision = "int8",
        scorers: Scorers = (),
        ranking: RankingOptions | None = None,
    ):
        if not decoders:
            raise MissingModelError(
                "no decoder is installed, so that nothing makes sound; install myna again"
            )
        self.codec, self.aligner, self.decoders = codec, aligner, decoders
        options = ranking or RankingOptions()
        words = None if aligner is None else Words(aligner, options.missing_below)
        self.ranking = Ranking(words, scorers, options)
        self._original, self.precision = ar, precision
        self.ar = cast(ARModel, for_inference(ar, precision))
        # For several tries at once: the AR of a voice, and what was made of it when it was needed.
        self._exact: tuple[ARModel, ARModel] | None = None
        self._checked: dict[str, SpeechDecoder] = {}
        self._prompts: OrderedDict[int, _ReadPrompt] = OrderedDict()
        self._lock = threading.RLock()

    def decoder(self, name: str | None = None) -> SpeechDecoder:
        """A decoder that reads this AR; None: the preferred one. Raises MissingModelError, one line."""
        name = next(iter(self.decoders)) if name is None else name
        if name not in self.decoders:  # an old name
            name = next((row.name for row in DECODERS.values() if name in row.aliases), name)
        with self._lock:
            if name not in self._checked:
                if name not in self.decoders:
                    if name in GONE:
                        find_decoder(name)  # says what took its place
                    remedy = f"; {DECODERS[name].remedy}" if name in DECODERS else ""
                    raise MissingModelError(
                        f"the decoder {name!r} is not installed; there is {', '.join(self.decoders)}{remedy}"
                    )
                self.decoders[name].check(self._original)
                self._checked[name] = self.decoders[name]
            return self._checked[name]

    def chunks(self, decoder: str | None) -> tuple[int, ...]:
        return self.decoder(decoder).chunks

    def first_codes(
        self, phones: Phones, prompt: Prompt | None, sampling: SamplingOptions
    ) -> Iterator[Frame]:
        return iter(self.utterance(self.ar_for(prompt), phones, prompt, sampling))

    def utterance(
        self, ar: Any, phones: Phones, prompt: Prompt | None, sampling: SamplingOptions
    ) -> SpeechGenerator:
        """What the AR, or a view of its weights, says of phones in a voice: before its first frame."""
        return ARGenerator(ar, phones, prompt, sampling)

    def ar_for(self, prompt: Prompt | None) -> ARModel:
        """The AR as it speaks in a voice. Raises InputError for an adapter of other weights."""
        return self.ar if prompt is None or not prompt.adapters else self._read(prompt).ar

    def ar_adapter(self, prompt: Prompt | None) -> LoRAWeights | None:
        """What a voice adds to `ar`. Raises as `ar_for`."""
        adapters = {} if prompt is None else prompt.adapters
        adapter = adapter_of(adapters, self.ar_part, self._original)
        return None if adapter is None else folded(adapter, self._original)

    def several(
        self, phones: Phones, prompt: Prompt | None, sampling: SamplingOptions, seeds: Sequence[int]
    ) -> Iterator[Sequence[Frame | None]]:
        """The tries with these seeds side by side, phones and prompt read once."""
        ar = self.ar_for(prompt)
        with self._lock:
            if self._exact is None or self._exact[0] is not ar:
                self._exact = ar, cast(ARModel, row_exact(ar))
            exact = self._exact[1]
        read = self.utterance(exact, phones, prompt, sampling)
        return several(exact, read, seeds)

    def sound(
        self, phones: Phones, prompt: Prompt | None, decoder: str | None = None, seed: int = 0
    ) -> SoundStream:
        """What makes sound of an utterance's latents."""
        chosen = self.decoder(decoder)
        voice = None if prompt is None else self._read(prompt, chosen).voices[chosen.name]
        return chosen.stream(phones, voice, seed)

    def level(self, prompt: Prompt | None) -> LevelState:
        """How loud a voice begins."""
        return start_state(None) if prompt is None else self._read(prompt).level

    def hear(self, prompt: Prompt, decoder: str | None = None) -> None:
        """Read a prompt, once: the first sentence in a voice then starts sooner."""
        self._read(prompt, self.decoder(decoder))

    def _read(self, prompt: Prompt, decoder: SpeechDecoder | None = None) -> _ReadPrompt:
        with self._lock:
            found = self._prompts.get(id(prompt))
            if found is None:
                wav = self._decoded(prompt)
                level = start_state(active_level(wav.cpu().numpy(), self.codec.sample_rate))
                ar = adapted_model(prompt.adapters, self.ar_part, self._original, self.ar)
                found = self._prompts[id(prompt)] = _ReadPrompt(prompt, wav, level, cast(ARModel, ar))
            if decoder is not None and decoder.name not in found.voices:
                found.voices[decoder.name] = decoder.read_voice(prompt, found.wav)
            self._prompts.move_to_end(id(prompt))
            while len(self._prompts) > _VOICES:
                self._prompts.popitem(last=False)
            return found

    @torch.inference_mode()
    def _decoded(self, prompt: Prompt) -> Tensor:
        """How a prompt sounds, (S,)."""
        codes = prompt.codes[None].to(next(self.codec.parameters()).device)
        return self.codec.decode(Codes(codes, codes.shape[2] * self.codec.frame_size))[0, 0]

    def fingerprint(self, decoder: str | None = None) -> str:
        """Stands for the weights that make the sound."""
        return " ".join(
            [weights_hash(self.codec), weights_hash(self._original), self.decoder(decoder).fingerprint()]
        )

    def judge(self, attempt: Attempt, words_alone: bool = False) -> Verdict:
        """How good a try is; without an aligner and scorers all count the same, and none has failed."""
        return self.ranking.judge(attempt, words_alone)
