"""Speech of one person in the voice of another: what is said and how stays, whose voice it is changes.

    samples -> log-mel -> speech tokens (25 a second, without whose voice it is), a stretch between pauses at a time
            -> flow decoder, with the prompt of the voice -> mel -> mel vocoder -> level, watermark

All of it streams, in memory that does not grow with the recording: the decoder begins anew with every stretch, so that
the voice's prompt stays in what it can look back at.

Shapes: n samples of one channel at 24 kHz, S tokens, T frames of 50 Hz, M mel bands.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache, partial
from pathlib import Path
from typing import cast

import numpy as np
import torch
from torch import Tensor

from ..codec import Codec, Codes
from ..codec.mel.speech_tokens import STRIDE, SpeechTokenizer, SpeechTokensConfig, TokenStream
from ..codec.mel.trained_on import check_trained_on
from ..codec.mel_vocoder import MelVocoder, MelVocoderConfig
from ..codec.mel_vocoder_stream import MelVocoderStream
from ..codec.registry import VOICE_CODEC, load_codec
from ..data.audio import Audio, AudioReader
from ..data.checkpoint import load_checkpoint
from ..data.resample import Resampler
from ..errors import InputError, MissingModelError
from ..layers.mel import MelStream
from ..marks.watermark import WatermarkStream
from ..pretrained.ge2e import load_ge2e
from .decoders.base import to_samples
from .decoders.flow.decoder import PATCH, FlowConfig, FlowDecoder
from .decoders.flow.sound import FlowSpeechDecoder, ReadVoice
from .decoders.flow.stream import FlowStream
from .finish.chain import Stage
from .finish.level import Leveller, LevelState, active_level, start_state
from .registry import flow_files
from .speaker import Speech, VoiceLike
from .synthesis import sentence_seed
from .text.phones import SPACE, SYMBOLS
from .voices.library import find_voice
from .voices.voice import Voice

RATE = 24_000
_TOKEN_SAMPLES = 960
_SHORTEST, _LONGEST = 50, 250  # tokens of a stretch: the decoder has learned from 10 s at most
_PAUSE = 4  # quiet tokens in a row that end a stretch
_QUIET = 2.5  # nats of mean log-mel below the running mean of the speech: a pause
_MEMORY = 100  # tokens that this mean remembers
_NOTHING_HEARD = 10 ** (-60 / 20)  # peak below which a recording is silent
_SOURCE = 1.0  # seconds that are read at a time
_NO_PHONES = torch.tensor([[SYMBOLS.index(SPACE)], [0], [0]])


class Converter:
    """The models, loaded once, for any number of recordings and voices; safe to use from several threads.

    decoder: None for the one that ships.   codec: that voices are made with.   watermark: as for `Speaker`.
    Raises MissingModelError when weights are not installed.

    >>> converter = Converter()
    >>> voice = converter.voice("me.wav", consent="I am the speaker and agree")
    >>> converter.convert("talk.wav", voice).save("mine.wav")
    """

    sample_rate = RATE

    def __init__(
        self,
        decoder: FlowSpeechDecoder | None = None,
        codec: Codec | None = None,
        device: str | torch.device = "cpu",
        watermark: Callable[[int, int], Stage] = WatermarkStream,
    ):
        self.decoder = load_decoder(device) if decoder is None else decoder
        if self.decoder.tokenizer is None:
            raise MissingModelError(
                "a recording is converted by speech tokens, which this decoder does not read"
            )
        self.codec = load_codec(VOICE_CODEC, device) if codec is None else codec
        self._watermark = partial(watermark, RATE)
        self._watermark(0)  # fails here rather than in the middle

    def voice(
        self, source: VoiceLike, text: str | None = None, consent: str | None = None, language: str = "en-us"
    ) -> Voice:
        """As `Speaker.voice`."""
        return find_voice(source, self.codec, text, consent, None, language)

    def convert(
        self, source: str | Path | Audio, voice: VoiceLike, consent: str | None = None, seed: int = 0
    ) -> Speech:
        """A recording in a voice, as long as it was. Raises InputError for what is no recording, or a silent one,
        and as `voice`."""
        known = self.voice(voice, consent=consent)
        parts = list(self.stream(blocks_of(source), known, seed))
        return Speech(np.concatenate([np.zeros(0, np.float32), *parts]), RATE, known.name)

    def stream(self, blocks: Iterable[np.ndarray], voice: Voice, seed: int = 0) -> Iterator[np.ndarray]:
        """Blocks (n,) of a recording at 24 kHz, of any length -> chunks (n,), in all as many samples. The same
        however it is cut. Raises InputError after the last of a silent recording."""
        conversion = self._begin(voice, seed)
        for block in blocks:
            if len(chunk := conversion.push(block)):
                yield chunk
        if len(chunk := conversion.flush()):
            yield chunk

    @torch.inference_mode()
    def _begin(self, voice: Voice, seed: int) -> _Conversion:
        prompt = voice.prompt()
        codes = prompt.codes[None].to(next(self.codec.parameters()).device)
        wav = self.codec.decode(Codes(codes, codes.shape[2] * self.codec.frame_size))[0, 0]
        level = start_state(active_level(wav.cpu().numpy(), self.codec.sample_rate))
        read = self.decoder.read_voice(prompt, wav)
        return _Conversion(self.decoder, read, level, self._watermark(0), seed)

    def fingerprint(self) -> str:
        """Stands for the weights that make the sound."""
        return self.decoder.fingerprint()


class _Conversion:
    """One recording."""

    def __init__(
        self, decoder: FlowSpeechDecoder, voice: ReadVoice, level: LevelState, watermark: Stage, seed: int
    ):
        self.decoder, self.voice, self.seed = decoder, voice, seed
        tokenizer = cast(SpeechTokenizer, decoder.tokenizer)
        self._nothing = next(decoder.vocoder.parameters()).detach().new_zeros(0)
        self._mel = MelStream(decoder.vocoder.mel)
        self._tokens = TokenStream(tokenizer)
        self._vocoder = MelVocoderStream(decoder.vocoder, decoder.contrast, seed)
        self._stretches = Stretches()
        self._leveller, self._watermark = Leveller(RATE, level), watermark
        self._loudness = self._nothing  # of tokens that are not out yet
        bands = decoder.vocoder.config.mel_bands
        self._frames = self._nothing.new_zeros(bands, 0)  # of a token that is not whole
        self._flow: FlowStream | None = None
        self._n_stretches = self._n_in = self._n_out = 0
        self._peak = 0.0

    def push(self, wav: np.ndarray) -> np.ndarray:
        """(n,) -> the samples (n,) that are certain."""
        if not len(wav):
            return np.zeros(0, np.float32)
        self._n_in += len(wav)
        self._peak = max(self._peak, float(np.abs(wav).max()))
        with torch.inference_mode():
            mel = self._mel.push(torch.from_numpy(np.ascontiguousarray(wav, np.float32)).to(self._nothing))
            return self._out(self._heard(mel, self._tokens.push(mel)))

    def flush(self) -> np.ndarray:
        """The samples still owed."""
        if self._peak < _NOTHING_HEARD:
            raise InputError("the recording is silent; give one in which somebody speaks")
        rest = -self._n_in % _TOKEN_SAMPLES
        with torch.inference_mode():
            mel = torch.cat([self._mel.push(self._nothing.new_zeros(rest)), self._mel.flush()], dim=1)
            parts = [self._heard(mel, self._tokens.push(mel)), self._heard(mel[:, :0], self._tokens.flush())]
            if self._flow is not None:
                parts.append(self._vocoder.push(self._flow.flush()))
            parts.append(self._vocoder.flush())
            wav = torch.cat(parts)[: self._n_in - self._n_out]
            return np.concatenate([self._out(wav), self._watermark.flush()])

    def _out(self, wav: Tensor) -> np.ndarray:
        self._n_out += len(wav)
        return self._watermark.push(self._leveller.push(to_samples(wav)))

    def _heard(self, mel: Tensor, tokens: Tensor) -> Tensor:
        """Samples from further mel frames (M, T) and tokens (S,), which are later."""
        frames = torch.cat([self._frames, mel], dim=1)
        whole = frames.shape[1] // STRIDE * STRIDE
        self._frames = frames[:, whole:]
        loudness = frames[:, :whole].mean(0).view(-1, STRIDE).mean(1)
        self._loudness = torch.cat([self._loudness, loudness])
        own, self._loudness = self._loudness[: len(tokens)], self._loudness[len(tokens) :]
        parts = [mel.new_zeros(0)]
        start = 0
        for end in self._stretches.ends(own.tolist()):
            parts += [self._said(tokens[start:end]), self._ended()]
            start = end
        parts.append(self._said(tokens[start:]))
        return torch.cat(parts)

    def _said(self, tokens: Tensor) -> Tensor:
        if not len(tokens):
            return self._nothing
        if self._flow is None:
            seed = sentence_seed(self.seed, self._n_stretches)
            self._flow = FlowStream(
                self.decoder.flow, _NO_PHONES, self.voice.flow, self.decoder.options, seed
            )
            self._n_stretches += 1
        levels = cast(SpeechTokenizer, self.decoder.tokenizer).quantizer.vectors(tokens)
        unknown = torch.full((PATCH * len(tokens),), -1)
        return self._vocoder.push(self._flow.push(unknown, levels))

    def _ended(self) -> Tensor:
        flow, self._flow = self._flow, None
        return self._nothing if flow is None else self._vocoder.push(flow.flush())


class Stretches:
    """Where to cut, token by token: in pauses, or where a stretch is as long as it may be."""

    def __init__(self) -> None:
        self._n = self._quiet = 0  # tokens of this stretch, and how many of the last are quiet
        self._speech: float | None = None  # running mean of the loudness of what is not quiet

    def ends(self, loudness: list[float]) -> list[int]:
        """Mean log-mels of further tokens -> the places among them, 1 to S, at which stretches end."""
        ends = []
        for i, value in enumerate(loudness):
            if self._ends(value):
                ends.append(i + 1)
        return ends

    def _ends(self, value: float) -> bool:
        self._n += 1
        if self._speech is None or value > self._speech - _QUIET:
            self._quiet = 0
            self._speech = value if self._speech is None else self._speech + (value - self._speech) / _MEMORY
        else:
            self._quiet += 1
        over = self._n >= _LONGEST or (self._n >= _SHORTEST and self._quiet == _PAUSE)
        if over:
            self._n = 0
        return over


def blocks_of(source: str | Path | Audio) -> Iterator[np.ndarray]:
    """A recording (a path, "-" for standard input, samples) as one channel at 24 kHz, in blocks (n,) as it arrives.
    Raises InputError for what is none."""
    if isinstance(source, Audio):
        samples = np.atleast_2d(source.samples)
        if not np.isfinite(samples).all():
            raise InputError("the recording holds NaN or infinity; give samples from -1 to 1")
        resampler = Resampler(source.sample_rate, RATE, 1)
        yield resampler.push(samples.mean(axis=0, keepdims=True, dtype=np.float32))[0]
    else:
        with AudioReader(source) as reader:
            resampler = Resampler(reader.info.sample_rate, RATE, 1)
            for block in reader.blocks(_SOURCE):
                yield resampler.push(block.mean(axis=0, keepdims=True, dtype=np.float32))[0]
    yield resampler.flush()[0]


def load_decoder(device: str | torch.device = "cpu", folder: str | Path | None = None) -> FlowSpeechDecoder:
    """The flow decoder with its speech tokens and vocoder, from a folder; None: where they ship. Raises
    MissingModelError, one line, where one is missing or belongs to another, InputError for a damaged file."""
    found = flow_files(folder)
    paths = {role: found[role] for role in ("flow", "tokens", "vocoder")}
    for path in paths.values():
        if not path.is_file():
            raise MissingModelError(
                f"a recording is converted by {path.name}, which is not in {path.parent}; install myna again, or train "
                "it: myna train recipes/myna-flow-cpu.yaml"
            )
    tokenizer = load_checkpoint(SpeechTokenizer, SpeechTokensConfig, paths["tokens"], "tokens", device)
    check_trained_on(paths["flow"], tokenizer)
    return FlowSpeechDecoder(
        load_checkpoint(FlowDecoder, FlowConfig, paths["flow"], "flow", device),
        load_checkpoint(MelVocoder, MelVocoderConfig, paths["vocoder"], "mel-vocoder", device),
        tokenizer,
        load_ge2e(device=str(device)),
    )


def convert(
    source: str | Path | Audio,
    voice: VoiceLike,
    consent: str | None = None,
    *,
    seed: int = 0,
    device: str = "cpu",
) -> Speech:
    """Speech of one person in the voice of another, as long as it was.

    source: a recording.   voice, consent: as for `myna.say`. Raises UsageError, InputError or MissingModelError, one
    line each.

    >>> myna.convert("talk.wav", "nova").save("nova.wav")
    """
    return shared_converter(device).convert(source, voice, consent, seed)


@lru_cache(maxsize=2)
def shared_converter(device: str = "cpu") -> Converter:
    """One with the models that ship, for all who ask."""
    return Converter(device=device)
