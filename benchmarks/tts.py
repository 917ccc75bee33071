"""How fast `myna say` speaks: until the first sound, and seconds of work for a second of speech.

    python benchmarks/tts.py [--shipped] [--repeats 5] [--preset standard] [--decoder flow] [--cfg-text 1.0]

Without --shipped the models have the default dimensions and random weights: what they say is noise, what it costs is
the same. Two numbers of each: the wall clock, which other work on the machine lengthens, and the processor's time,
which it hardly does. A stage is measured alone on one thread; the whole runs in two threads, the AR ahead of the rest.
"""

from __future__ import annotations

import argparse
import os
import statistics
import time
from collections.abc import Callable, Iterator

import numpy as np
import torch
from myna.codec.mel.speech_tokens import SpeechTokenizer
from myna.codec.mel_vocoder import MelVocoder
from myna.codec.registry import load_codec
from myna.layers.harmonic import PITCHES
from myna.marks.watermark import WatermarkStream
from myna.pretrained.ge2e import load_ge2e
from myna.tts.decoders.base import Latents, SoundStream
from myna.tts.decoders.flow.decoder import FlowDecoder
from myna.tts.decoders.flow.sound import FlowSpeechDecoder
from myna.tts.decoders.nar import NARConfig, NARModel
from myna.tts.decoders.nar_stream import NARDecoder
from myna.tts.flow_speech import FlowSpeech
from myna.tts.lm.ar import ARConfig, ARModel
from myna.tts.lm.batch import Prompt
from myna.tts.lm.step import Frame
from myna.tts.lm.token_ar import TokenAR
from myna.tts.presets import PRESETS, SpeechOptions
from myna.tts.registry import DECODERS
from myna.tts.speaker import load_models
from myna.tts.synthesis import Synthesizer
from myna.tts.text.long_text import split_text
from myna.tts.text.phonemes import phonemize
from myna.tts.valle import Valle

TEXT = "The rain had stopped at last, and over the wet fields the first birds were beginning to sing again."


def random_models(decoder: str) -> Valle:
    torch.manual_seed(0)
    codec = load_codec("myna-24k")
    if decoder == "nar":
        rows = codec.rows()
        nar = NARModel(NARConfig(n_given=4, groups=((4, 5, 6, 7),)), rows)
        ar = ARModel(ARConfig(n_coarse=4), rows)
        return Valle(codec, ar.eval(), {"nar": NARDecoder(nar.eval(), codec)})
    vocoder = MelVocoder().eval()
    with torch.no_grad():
        vocoder.net.layers[-1].linear.bias[PITCHES:] += 4  # pyright: ignore  (loud enough not to be cut off as silence)
    flow = FlowSpeechDecoder(FlowDecoder().eval(), vocoder, SpeechTokenizer().eval(), load_ge2e())
    return FlowSpeech(codec, TokenAR().eval(), flow)


def timed(run: Callable[[], object]) -> tuple[float, float]:
    """Wall-clock and processor seconds of a call."""
    wall, processor = time.perf_counter(), time.process_time()
    run()
    return time.perf_counter() - wall, time.process_time() - processor


def row(name: str, times: list[tuple[float, float]], per: float, unit: str) -> None:
    wall, processor = (statistics.median(column) * per for column in zip(*times, strict=True))
    print(f"{name:42} {wall:9.2f} {processor:9.2f}  {unit}", flush=True)


def stages(models: Valle, prompt: Prompt, options: SpeechOptions, repeats: int) -> None:
    """Every stage alone, on one thread."""
    torch.set_num_threads(1)
    sampling, rate = options.resolved().sampling, models.codec.sample_rate
    phones = phonemize(TEXT)
    frames: list[Frame] = []
    starts, loops, readies, firsts, rests, marks = ([] for _ in range(6))
    n = models.chunks(options.decoder)[0]
    for _ in range(repeats):
        running: Iterator[Frame] = iter(())
        sound: SoundStream | None = None
        wav: list[np.ndarray] = []

        def begin() -> None:
            nonlocal running
            running = models.first_codes(phones, prompt, sampling)
            frames[:] = [next(running)]

        def ready() -> None:
            nonlocal sound
            sound = models.sound(phones, prompt, options.decoder)

        starts.append(timed(begin))
        loops.append(timed(lambda: frames.extend(running)))  # noqa: B023
        readies.append(timed(ready))
        assert sound is not None
        heard: SoundStream = sound
        firsts.append(timed(lambda: wav.append(heard.push(Latents.of(frames[:n])))))  # noqa: B023
        step = models.chunks(options.decoder)[-1]
        chunks = [Latents.of(frames[at : at + step]) for at in range(n, len(frames), step)]
        rests.append(timed(lambda: wav.extend([heard.push(part) for part in chunks] + [heard.flush()])))  # noqa: B023
        mark = WatermarkStream(rate)
        marks.append(timed(lambda: [mark.push(part) for part in wav]))  # noqa: B023
    rate_of_codes = float(models.codec.frame_rate)
    frame_rate = rate_of_codes / frames[0].pointer.numel()
    seconds = len(frames) / frame_rate
    print(f"one thread, {seconds:.1f} s of speech, prompt of {prompt.codes.shape[1] / rate_of_codes:g} s")
    print(f"{'stage':42} {'wall':>9} {'processor':>9}")
    row("phonemes", [timed(lambda: phonemize(TEXT)) for _ in range(repeats)], 1e3, "ms")
    row("AR: text, prompt, first frame", starts, 1e3, "ms")
    row(f"AR: a frame, {frame_rate:g} a second", loops, 1e3 / max(1, len(frames) - 1), "ms")
    row(f"{options.decoder}: ready (the voice is read once)", readies, 1e3, "ms")
    row(f"{options.decoder}: the first {n} frames", firsts, 1e3, "ms")
    row("AR", loops, 1 / seconds, "of real time")
    row(options.decoder, rests, 1 / max(seconds - n / frame_rate, 0.1), "of real time")
    row("watermark", marks, 1 / seconds, "of real time")


def whole(models: Valle, prompt: Prompt, options: SpeechOptions, repeats: int, threads: int) -> None:
    """A short text, streamed; sentences as a reader would take them."""
    torch.set_num_threads(threads)
    sentences = split_text(f"{TEXT} {TEXT}")
    synthesizer = Synthesizer(models, phonemize, lambda position: WatermarkStream(24_000, position))
    firsts, factors = [], []
    for repeat in range(repeats + 1):
        wall, processor = time.perf_counter(), time.process_time()
        first, n = None, 0
        for chunk in synthesizer.stream(sentences, prompt, models.level(prompt), options):
            n += len(chunk.samples)
            if first is None and n:
                first = time.perf_counter() - wall, time.process_time() - processor
        seconds = n / models.codec.sample_rate
        if repeat and first:  # the first run warms up
            firsts.append(first)
            factors.append(
                ((time.perf_counter() - wall) / seconds, (time.process_time() - processor) / seconds)
            )
    row("whole: first sound, models loaded", firsts, 1e3, "ms (bar 250)")
    row("whole: real-time factor", factors, 1, "(bar 0.35)")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--shipped", action="store_true", help="the weights that ship, instead of random ones"
    )
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2, help="of torch, outside the stages' own")
    parser.add_argument("--preset", default="standard", choices=list(PRESETS))
    parser.add_argument("--decoder", default="flow", choices=list(DECODERS))
    parser.add_argument("--cfg-text", type=float)
    parser.add_argument("--cfg-voice", type=float)
    arguments = parser.parse_args()
    options = SpeechOptions(
        arguments.preset,
        cfg_text=arguments.cfg_text,
        cfg_voice=arguments.cfg_voice,
        decoder=arguments.decoder,
    )
    models = load_models(decoder=options.decoder) if arguments.shipped else random_models(arguments.decoder)
    generator = torch.Generator().manual_seed(1)
    prompt = Prompt(torch.randint(0, 1024, (models.codec.n_codebooks, 150), generator=generator))
    models.hear(prompt, options.decoder)
    cores, load = len(os.sched_getaffinity(0)), os.getloadavg()[0]
    print(f"{cores} core(s), load {load:.1f} before this run; preset {arguments.preset}")
    stages(models, prompt, options, arguments.repeats)
    whole(models, prompt, options, arguments.repeats, arguments.threads)


if __name__ == "__main__":
    main()
