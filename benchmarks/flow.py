"""The flow decoder by steps of its head, guidance and noise: words, likeness, quality and time of the same sentences.

    python benchmarks/flow.py DATA... [--limit 30] [--weights FOLDER] [--steps 1 2 4] [--guidance 0 0.3]
        [--temperature 0.4] [--clarity -1.1] [--trunk] [--hidden vector mel both] [--texts DATA...]

DATA: shards or folders; people with two recordings or more, with texts: one recording is the voice, the text of another
is said, and its sound is what likeness is compared with (that of the voice, in the first two rows: the recordings
themselves, and by way of their mel spectrograms). When each phone is said is drawn by the AR once for all rows; nothing
is marked. On one thread. FOLDER: of weights in the place of those of the repository.

--hidden: what the decoder is not shown of the voice, in further rows: the speaker vector, the prompt's mel, or both.
The AR knows both in all rows.

With --texts every person says a short text of those recordings instead: voices of different corpora then differ by
nothing but the voice. One recording a person is enough: its first 3 s are the voice, and likeness is compared with the
rest, with the whole where it is shorter than 5 s.
"""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np
import torch
from myna.codec.mel_vocoder_stream import MelVocoderStream
from myna.data.audio import Audio
from myna.errors import InputError
from myna.evaluation.clips import Clip, load_clips
from myna.evaluation.tts.scores import Judge
from myna.evaluation.tts.texts import as_written
from myna.tts.decoders.base import Latents
from myna.tts.decoders.flow.sound import FlowSpeechDecoder
from myna.tts.decoders.flow.stream import FlowOptions, FlowVoice
from myna.tts.flow_speech import load_flow_speech
from myna.tts.lm.batch import Prompt
from myna.tts.presets import presets_of
from myna.tts.registry import flow_files
from myna.tts.speaker import load_models
from myna.tts.text.normalize import normalize
from myna.tts.text.phonemes import phonemize
from myna.tts.text.phones import Phones
from myna.tts.valle import Valle
from myna.tts.voices.voice import make_voice
from rich.progress import track

RATE = 24_000
CONSENT = "the speaker of a recording that was published for research"
PROMPT_SECONDS = 3
SHORTEST_PROMPT, SHORTEST_HEARD = 2.4, 2.0  # seconds
_HIDDEN = {"vector": "the speaker vector", "mel": "the prompt's mel", "both": "any voice"}


@dataclass(frozen=True)
class Line:
    """A text, the recording that likeness is compared with and that of the voice, and when its phones are said.

    recorded: a recording of the text, if there is one."""

    text: str
    heard: Clip
    voice: Clip
    recorded: Clip | None
    prompt: Prompt
    phones: Phones
    frames: Latents


def pairs(clips: Sequence[Clip], limit: int) -> list[tuple[Clip, Clip]]:
    """Recordings to be said and, beside each, another of the same person; people in turns."""
    by_name: dict[str, list[Clip]] = {}
    for clip in clips:
        by_name.setdefault(clip.speaker or clip.key, []).append(clip)
    own = [
        [(clip, mates[i - 1]) for i, clip in enumerate(mates) if clip.text]
        for mates in by_name.values()
        if len(mates) > 1
    ]
    rounds = itertools.chain.from_iterable(itertools.zip_longest(*own))
    return [pair for pair in rounds if pair is not None][:limit]


def voices(clips: Sequence[Clip], limit: int) -> list[Clip]:
    """A recording of each of `limit` people, at random, of those who speak long enough."""
    by_name = {clip.speaker or clip.key: clip for clip in clips if clip.duration > SHORTEST_PROMPT}
    chosen = np.random.default_rng(0).permutation(sorted(by_name))[:limit]
    return [by_name[name] for name in chosen.tolist()]


def rest(clip: Clip) -> Clip:
    """What follows the prompt, if that is long enough to know a voice by; else all."""
    n = PROMPT_SECONDS * RATE
    return clip if len(clip.wav) < n + SHORTEST_HEARD * RATE else replace(clip, wav=clip.wav[n:])


def to_say(options: argparse.Namespace) -> list[tuple[str, Clip, Clip, Clip | None]]:
    """Text, the recording that likeness is compared with, the voice's, and that of the text."""
    clips = load_clips(options.data, RATE)
    if options.texts is None:
        return [(said.text or "", said, voice, said) for said, voice in pairs(clips, options.limit)]
    texts = [c.text for c in load_clips(options.texts, RATE) if c.text and 6 <= len(c.text.split()) <= 16]
    if not texts:
        raise SystemExit("none of the texts has 6 to 16 words")
    rng = np.random.default_rng(1)
    return [
        (texts[int(rng.integers(len(texts)))], rest(voice), voice, None)
        for voice in voices(clips, options.limit)
    ]


def lines(models: Valle, chosen: Sequence[tuple[str, Clip, Clip, Clip | None]]) -> list[Line]:
    """The AR's part, once for all rows. Voices that are refused, as too noisy, are left out."""
    found = []
    for i, (text, heard, voice, recorded) in enumerate(track(chosen, "durations")):
        wav = voice.wav[: PROMPT_SECONDS * RATE]
        try:
            prompt = make_voice(Audio(wav[None], RATE), models.codec, CONSENT).prompt()
        except InputError as error:
            print(f"left out: {voice.key}: {error}", file=sys.stderr)
            continue
        phones = phonemize(normalize(as_written(text)))
        sampling = replace(presets_of(models.ar_part)["standard"].sampling, seed=i)
        frames = Latents.of(list(models.first_codes(phones, prompt, sampling)))
        found.append(Line(text, heard, voice, recorded, prompt, phones, frames))
    return found


class Table:
    """Rows of Markdown about the same lines."""

    def __init__(self, chosen: Sequence[Line], judge: Judge):
        self.lines, self.judge = chosen, judge
        print("| | WER % | similarity | second judge | DNSMOS | real-time factor |")
        print("|---|---:|---:|---:|---:|---:|", flush=True)

    def row(self, name: str, speak: Callable[[Line], np.ndarray], recorded: bool = False) -> None:
        """What `speak` makes of every line, judged. recorded: it is that of the recording itself."""
        errors = words = 0
        scores, spent, heard = [], 0.0, 0.0
        for line in self.lines:
            start = time.perf_counter()
            wav = speak(line)
            spent, heard = spent + time.perf_counter() - start, heard + len(wav) / RATE
            text = self.judge.hear(wav, RATE, line.text)
            errors, words = errors + text.word_errors, words + text.n_words
            like = self.judge.likeness(wav, RATE, [line.voice if recorded else line.heard], [])
            scores.append((like.same, like.judge, self.judge.quality(wav, RATE)))
        same, second, quality = np.nanmean(np.array(scores), axis=0)
        found = (
            f"{100 * errors / words:.1f} | {same:.3f} | {second:.3f} | {quality:.2f} | {spent / heard:.3f}"
        )
        print(f"| {name} | {found} |", flush=True)


def recording(line: Line) -> np.ndarray:
    assert line.recorded is not None
    return line.recorded.wav


def copied(decoder: FlowSpeechDecoder, line: Line) -> np.ndarray:
    """The recording by way of its mel spectrogram."""
    stream = MelVocoderStream(decoder.vocoder, decoder.contrast, 0)
    with torch.inference_mode():
        mel = decoder.vocoder.mel(torch.from_numpy(recording(line))[None])[0]
        return torch.cat([stream.push(mel), stream.flush()]).numpy()


def spoken(decoder: FlowSpeechDecoder, line: Line, hidden: str = "") -> np.ndarray:
    """The line in the voice, as the decoder's options are. hidden: a key of `_HIDDEN`."""
    prompt = line.prompt
    assert prompt.speaker is not None
    if hidden == "vector":
        prompt = replace(prompt, speaker=torch.zeros_like(prompt.speaker))
    voice = decoder.read_voice(prompt, torch.from_numpy(line.voice.wav[: PROMPT_SECONDS * RATE]))
    if hidden == "mel":
        voice = replace(voice, flow=without_mel(decoder, prompt.speaker))
    stream = decoder.stream(line.phones, None if hidden == "both" else voice, seed=1)
    return np.concatenate([stream.push(line.frames), stream.flush()])


@torch.inference_mode()
def without_mel(decoder: FlowSpeechDecoder, speaker: torch.Tensor) -> FlowVoice:
    """A voice of which nothing but the speaker vector (E,) is known."""
    model, options = decoder.flow, decoder.options
    like = model.no_phone
    bands = like.new_zeros(1, model.config.mel_bands)
    condition = model.told(
        model.voice(speaker[None].to(like), bands, bands), like.new_full((1,), options.told)
    )
    heads = tuple(model.head.init_state(1, like, 0) for _ in range(options.steps))
    times = tuple(options.times()[:-1]) if options.steps else ()
    return FlowVoice(condition, model.trunk.init_state(1, like, 0), heads, times)


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", nargs="+")
    parser.add_argument("--limit", type=int, default=30)
    parser.add_argument("--weights", type=Path, help="a folder  [default: where they ship]")
    parser.add_argument("--steps", type=int, nargs="+", default=[2])
    parser.add_argument("--guidance", type=float, nargs="+", default=[FlowOptions.guidance])
    parser.add_argument("--temperature", type=float, nargs="+", default=[FlowOptions.temperature])
    parser.add_argument("--clarity", type=float, nargs="+", default=[FlowOptions.clarity])
    parser.add_argument("--texts", nargs="+", help="what is said, in the place of the people's own texts")
    parser.add_argument("--trunk", action="store_true", help="also the trunk alone, without the head")
    parser.add_argument("--hidden", nargs="+", default=[], choices=list(_HIDDEN), help="of the voice")
    options = parser.parse_args()
    torch.set_num_threads(1)
    models = load_models(decoder="flow")
    file = flow_files(options.weights)["flow"]
    decoder = cast(FlowSpeechDecoder, load_flow_speech(models.codec, flow=file).decoder("flow"))
    chosen = lines(models, to_say(options))
    if not chosen:
        raise SystemExit("nobody in the data has what it needs: two recordings and a text, or --texts")
    table = Table(chosen, Judge())
    if options.texts is None:
        table.row("recordings", recording, recorded=True)
        table.row("by way of their mel", partial(copied, decoder), recorded=True)
    tried = list(itertools.product(options.steps, options.guidance, options.temperature, options.clarity))
    if options.trunk:
        tried = [*((0, 0.0, 0.0, clarity) for clarity in options.clarity), *tried]
    for steps, guidance, temperature, clarity in tried:
        decoder.options = replace(
            decoder.options, steps=steps, guidance=guidance, temperature=temperature, clarity=clarity
        )
        name = f"{steps} steps, guidance {guidance:g}, noise {temperature:g}" if steps else "the trunk alone"
        if clarity is not None:
            name += f", clarity {clarity:g}"
        table.row(name, partial(spoken, decoder))
    for hidden in options.hidden:
        table.row(f"the last without {_HIDDEN[hidden]}", partial(spoken, decoder, hidden=hidden))


if __name__ == "__main__":
    main()
