"""Prompt and clone side by side, for a page of the documentation: spectrogram, pitch, similarity, words.

    python benchmarks/voices_page.py DATA... [--voices 6] [--decoder flow] [--out docs/voices]

DATA: shards or folders with recordings of people whom no model heard. Writes OUT.md and OUT.png. A person with one
recording gives its first three seconds as the prompt, and the rest to compare with.
"""

from __future__ import annotations

import argparse
import io
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from myna.data.audio import Audio, write_audio
from myna.evaluation.clips import Clip, load_clips
from myna.evaluation.codec.plots import new_figure, to_png
from myna.evaluation.tts.plots import draw_mel
from myna.evaluation.tts.report import CONSENT
from myna.evaluation.tts.scores import Judge
from myna.evaluation.tts.texts import PROMPT_SECONDS, people_of
from myna.training.sets.extract_pitch import HOP, track_pitch
from myna.tts.presets import SpeechOptions
from myna.tts.registry import DECODERS
from myna.tts.speaker import Speaker
from PIL import Image

RATE = 24_000
TEXTS = (
    "The birds come back to the garden in the spring.",
    "She had promised to bring the old photographs with her tomorrow.",
    "A narrow path leads down from the village to the harbour.",
    "Nobody could explain why the lights had gone out so early.",
    "We bought fresh bread and a little cheese for the journey.",
    "The captain looked at the clouds and decided to wait.",
)


@dataclass(frozen=True)
class Shown:
    """A voice on the page. prompt, clone (N,).   same, different: similarity of the clone to other speech of the
    speaker, and to the other speakers'.   true: of the prompt to that other speech."""

    name: str
    text: str
    prompt: np.ndarray
    clone: np.ndarray
    same: float
    different: float
    true: float
    errors: str
    dnsmos: float


def split(person_clips: tuple[Clip, ...]) -> tuple[Clip, list[Clip]]:
    """The prompt, and what it is compared with."""
    first = person_clips[0]
    if len(person_clips) > 1:
        return first, list(person_clips[1:])
    n = round(PROMPT_SECONDS * first.sample_rate)
    return replace(first, wav=first.wav[:n]), [replace(first, wav=first.wav[n:])]


def chosen(data: list[str], n: int) -> list[tuple[str, Clip, list[Clip]]]:
    """n people, as many of each source as the others."""
    by_source: dict[str, list[tuple[str, Clip, list[Clip]]]] = {}
    for person in people_of(load_clips(data, RATE)):
        prompt, rest = split(person.recordings)
        if prompt.duration >= 0.8 * PROMPT_SECONDS and rest[0].duration >= PROMPT_SECONDS:
            by_source.setdefault(person.source, []).append((f"{person.source} {person.name}", prompt, rest))
    turns = [people[i] for i in range(n) for people in by_source.values() if i < len(people)]
    return turns[:n]


def show(people: list[tuple[str, Clip, list[Clip]]], decoder: str | None, audio: Path | None) -> list[Shown]:
    speaker, judge = Speaker(decoder=decoder), Judge()
    pages = []
    for i, (name, prompt, rest) in enumerate(people):
        text = TEXTS[i % len(TEXTS)]
        voice = speaker.voice(Audio(prompt.wav[None], prompt.sample_rate), consent=CONSENT, decoder=decoder)
        clone = speaker.say(text, voice, options=SpeechOptions(decoder=decoder)).samples
        others = [other for other_name, other, _ in people if other_name != name]
        likeness = judge.likeness(clone, RATE, rest, others)
        heard = judge.hear(clone, RATE, text)
        pages.append(
            Shown(
                *(name, text, prompt.wav, clone, likeness.same, likeness.different),
                judge.likeness_of(prompt, rest, others).same,
                f"{heard.word_errors} of {heard.n_words}",
                judge.quality(clone, RATE),
            )
        )
        if audio is not None:
            write_audio(audio / f"{name.replace(' ', '-')}.wav", clone, RATE, force=True)
    return pages


def picture(pages: list[Shown]) -> bytes:
    """A row a voice: the prompt's and the clone's spectrogram, with pitch."""
    figure, axes = new_figure(2 * len(pages), 5.4, 2.4, columns=2)
    for row, page in enumerate(pages):
        for axis, (kind, wav) in zip(
            axes[2 * row :], (("prompt", page.prompt), ("clone", page.clone)), strict=False
        ):
            draw_mel(axis, wav, RATE, f"{page.name}: {kind}")
            pitch = track_pitch(wav, RATE, int(len(wav) / RATE / HOP))
            at = np.arange(len(pitch)) * HOP
            beside = axis.twinx()
            beside.plot(at, np.where(pitch > 0, pitch, np.nan), "c", linewidth=1.2)
            beside.set(ylim=(50, 450), ylabel="pitch, Hz")
    return to_png(figure)


def page_of(pages: list[Shown], decoder: str, image: str, command: str) -> str:
    rows = "\n".join(
        f"| {p.name} | {p.same:.2f} | {p.true:.2f} | {p.different:.2f} | {p.errors} | {p.dnsmos:.1f} | {p.text} |"
        for p in pages
    )
    return f"""# Voices: prompt and clone

People whom no model heard, each cloned from one recording (decoder `{decoder}`). Similarity (Resemblyzer) is that
of the clone to *other* speech of the person; beside it what the prompt itself has, and what the clone has to the other
people of this page. Words that Whisper tiny.en heard wrong; DNSMOS, overall.

| voice | similarity | the prompt's | to others | words wrong | DNSMOS | text |
|---|---:|---:|---:|---:|---:|---|
{rows}

![Spectrogram and pitch of prompts and clones]({image})

Made by `{command}`.
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", nargs="+")
    parser.add_argument("--voices", type=int, default=6)
    parser.add_argument("--decoder", choices=list(DECODERS))
    parser.add_argument("--out", type=Path, default=Path("docs/voices"))
    parser.add_argument("--audio", type=Path, help="keep the clones in this folder")
    options = parser.parse_args()
    decoder = options.decoder or next(iter(DECODERS))
    pages = show(chosen(options.data, options.voices), decoder, options.audio)
    image = options.out.with_suffix(".png")
    with Image.open(io.BytesIO(picture(pages))) as full:
        full.convert("RGB").quantize(96).save(
            image, optimize=True
        )  # a quarter of the bytes, to the eye the same
    command = f"python benchmarks/voices_page.py {' '.join(options.data)} --decoder {decoder}"
    options.out.with_suffix(".md").write_text(page_of(pages, decoder, image.name, command))


if __name__ == "__main__":
    main()
