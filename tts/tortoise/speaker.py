"""TorToise as an engine of speech: text and a voice to sound, sentence by sentence (Betker 2023, figure 1).

    text -> tokens -> autoregressive network, many candidates -> CLVP, the best of them
         -> its latents -> diffusion -> mel -> UnivNet -> words in brackets cut out -> tempo -> watermark
    or, while it is made: latents -> HiFi-GAN -> tempo -> watermark

Meets what the command line asks of `tts.speaker.Speaker`. Shapes: N samples at 24 kHz, n of a chunk.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch

from ...errors import UsageError
from ...marks.watermark import WatermarkStream
from ..finish.chain import Stage
from ..finish.tempo import Tempo
from ..synthesis import PARAGRAPH_PAUSE, PAUSE, SpokenChunk, sentence_seed
from ..text.long_text import Sentence
from .conditioning import RATE
from .model.hifigan_stream import HiFiGANStream
from .networks import Candidate, Networks
from .precision import Precision
from .presets import TortoiseOptions
from .text.passages import passages, split, spoken
from .text.redaction import redact
from .text.tokenizer import encode
from .voices import TortoiseVoice, VoiceReader

_FIRST_CHUNK, _CHUNK = 60, 40  # codes that are turned into sound at a time in a stream


@dataclass(frozen=True)
class CandidateSound:
    """A candidate of a sentence as sound: samples (N,), watermarked.   chosen: whether it is the one in the speech."""

    sentence: int
    number: int
    score: float | None
    seconds: float
    chosen: bool
    samples: np.ndarray


@dataclass(frozen=True)
class Kept:
    """What becomes of candidates besides the chosen ones: how many of the best are decoded, and who gets each."""

    n: int
    give: Callable[[CandidateSound], None]


Report = Callable[[int, str, int, int], None]
"""(sentence, what is done, how much of it, of how much): "codes" at every step of the autoregressive network, anew for
each batch; "candidates" after each batch; "diffusion" at each of its steps. What it raises ends the work."""


class TortoiseSpeaker:
    """Loaded networks for any number of texts and voices.

    networks: None for those in the cache.   watermark: as for `tts.speaker.Speaker`; speech is never given out without.

    >>> speaker = TortoiseSpeaker()
    >>> voice = speaker.voice("clips/", consent="I am the speaker and agree")
    >>> samples = speaker.say("Hello there.", voice, TortoiseOptions(preset="ultra_fast"))
    """

    sample_rate = RATE

    def __init__(
        self,
        networks: Networks | None = None,
        device: str | torch.device = "cpu",
        precision: Precision = "half",
        folder: Path | None = None,
        watermark: Callable[[int, int], Stage] = WatermarkStream,
    ):
        self.networks = networks or Networks(folder, device, precision)
        self.precision = self.networks.precision
        self._watermark: Callable[[int], Stage] = partial(watermark, self.sample_rate)
        self._watermark(0)  # fails here rather than in the middle of a sentence

    def voice(
        self, source: str | Path | Sequence[str | Path], consent: str | None = None, seed: int = 0
    ) -> TortoiseVoice:
        """A voice by what `tts.tortoise.voices` lists. Raises UsageError, InputError, MissingModelError."""
        return VoiceReader(self.networks).read(source, consent, seed)

    def known_voice(self, name: str, seed: int = 0) -> TortoiseVoice:
        """The voice of a name, which is never taken for a path. Raises as `VoiceReader.known`."""
        return VoiceReader(self.networks).known(name, seed)

    def say(
        self,
        text: str,
        voice: TortoiseVoice,
        options: TortoiseOptions | None = None,
        kept: Kept | None = None,
        report: Report | None = None,
    ) -> np.ndarray:
        """A text as samples (N,), watermarked. Raises UsageError, InputError, MissingModelError."""
        chunks = self.chunks(split(text), voice, options, kept=kept, report=report)
        return np.concatenate([chunk.samples for chunk in chunks])

    def stream(
        self, text: str, voice: TortoiseVoice, options: TortoiseOptions | None = None
    ) -> Iterator[np.ndarray]:
        """`say` in chunks (n,): a sentence each, or shorter ones with the preset "streaming"."""
        return (chunk.samples for chunk in self.chunks(split(text), voice, options) if len(chunk.samples))

    def chunks(
        self,
        sentences: list[Sentence],
        voice: TortoiseVoice,
        options: TortoiseOptions | None = None,
        lexicon: object = None,
        after: SpokenChunk | None = None,
        position: int = 0,
        kept: Kept | None = None,
        report: Report | None = None,
    ) -> Generator[SpokenChunk, None, None]:
        """Chunks of speech with where they are in the text; every sentence is independent of the others.

        after: the chunk that ended the last sentence said, to go on behind it, `position` samples into the speech.
        """
        if lexicon is not None:
            raise UsageError(
                "TorToise reads letters, not phones: a lexicon cannot help it; spell the word as it sounds"
            )
        options = options or TortoiseOptions()
        tokens = [encode(spoken(sentence.text)) for sentence in sentences]  # refused before any work
        if options.streams and any("[" in sentence.text for sentence in sentences):
            raise UsageError("words in [brackets] need a whole sentence; take another preset than streaming")
        length = sentences[-1].end
        for index in range(0 if after is None else after.sentence + 1, len(sentences)):
            sentence, last = sentences[index], index == len(sentences) - 1
            tempo, watermark = Tempo(self.sample_rate, options.speed), self._watermark(position)
            before = sentences[index - 1].end / length if index else 0.0
            for samples in self._sound(index, sentence, tokens[index], voice, options, kept, report):
                marked = watermark.push(tempo.push(samples))
                position += len(marked)
                yield SpokenChunk(marked, index, False, before)
            pause = 0.0 if last else PARAGRAPH_PAUSE if sentence.ends_paragraph else PAUSE
            silence = np.zeros(round(pause / options.speed * self.sample_rate), np.float32)
            rest = watermark.push(np.concatenate([tempo.flush(), silence]))
            rest = np.concatenate([rest, watermark.flush()])
            position += len(rest)
            yield SpokenChunk(rest, index, True, sentence.end / length)

    def fingerprint(
        self, sentences: list[Sentence], voice: TortoiseVoice, options: TortoiseOptions, lexicon: str
    ) -> str:
        """Stands for everything that shapes the audio: equal for equal samples."""
        used = ["autoregressive", *(["hifigan"] if options.streams else ["diffusion", "univnet"])]
        used += ["clvp"] if options.n_candidates > 1 else []
        networks = self.networks.fingerprint(used)
        digest = hashlib.sha256(f"{networks} {self.networks.precision} {lexicon}".encode())
        for part in (asdict(options), [(s.text, s.ends_paragraph) for s in sentences]):
            digest.update(repr(part).encode() + b"\n")
        for latent in (voice.autoregressive, voice.diffusion):
            digest.update(latent.numpy().tobytes())
        return digest.hexdigest()

    # ---- one sentence

    def _sound(
        self,
        index: int,
        sentence: Sentence,
        tokens: list[int],
        voice: TortoiseVoice,
        options: TortoiseOptions,
        kept: Kept | None,
        report: Report | None,
    ) -> Iterator[np.ndarray]:
        """Its samples, not yet marked."""
        tell = report or (lambda *_: None)
        seeds = [sentence_seed(options.seed, index, number) for number in range(options.n_candidates)]

        def each(n: int) -> None:
            tell(index, "codes", n, options.max_codes)

        if options.streams:
            yield from self._streamed(tokens, voice, options, seeds[0], each)
            return
        drawn = self.networks.draw(
            voice.autoregressive,
            tokens,
            options.codes,
            seeds,
            options.batch,
            lambda n: tell(index, "candidates", n, len(seeds)),
            each,
        )
        best = sorted(drawn, key=lambda one: (-(one.score or 0.0), one.number))
        for place, candidate in enumerate(best[: kept.n if kept else 1]):
            samples = self._decode(index, candidate, tokens, voice, options, seeds[candidate.number], tell)
            samples = redact(samples, self.sample_rate, passages(sentence.text))
            if kept is not None:
                marked = self._watermark(0).push(samples)
                seconds = len(marked) / self.sample_rate
                kept.give(
                    CandidateSound(index, candidate.number, candidate.score, seconds, place == 0, marked)
                )
            if place == 0:
                yield samples

    def _decode(
        self,
        index: int,
        candidate: Candidate,
        tokens: list[int],
        voice: TortoiseVoice,
        options: TortoiseOptions,
        seed: int,
        tell: Report,
    ) -> np.ndarray:
        """A candidate's codes to samples (N,)."""
        networks = self.networks
        latents = networks.latents(voice.autoregressive, tokens, candidate.codes, options.max_codes)
        generator = torch.Generator().manual_seed(seed)
        step = partial(tell, index, "diffusion")
        mel = networks.mel(latents, voice.diffusion, options.diffusion, generator, step)
        return networks.wav(mel, generator).numpy()

    def _streamed(
        self,
        tokens: list[int],
        voice: TortoiseVoice,
        options: TortoiseOptions,
        seed: int,
        each: Callable[[int], None],
    ) -> Iterator[np.ndarray]:
        """Sound while the codes are drawn."""
        model = self.networks.hifigan
        stream = HiFiGANStream(model, voice.autoregressive.to(self.networks.device))
        held: list[torch.Tensor] = []
        size = _FIRST_CHUNK
        for n, step in enumerate(self.networks.steps(voice.autoregressive, tokens, options.codes, seed), 1):
            each(n)
            held.append(step.latents.float())
            if len(held) == size:
                yield stream.push(torch.cat(held))
                held, size = [], _CHUNK
        if held:
            yield stream.push(torch.cat(held))
        yield stream.flush()
