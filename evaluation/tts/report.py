"""Cloned speech beside real recordings: are the words understood, is it the same speaker, how good, how fast.

Three rows for every source: the recordings themselves, the recordings through the codec (what no model of its codes can
surpass), and the same texts said by Myna in the voice of another recording of the speaker.

>>> report = evaluate_tts(["../shared/corpus/synth-test-000.tar"], SpeechEvaluation(max_speakers=4))
>>> print(report.to_markdown())
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import count, cycle
from pathlib import Path

import numpy as np
import torch

from ...codec import Codec
from ...codec.registry import load_codec
from ...data.audio import Audio, write_audio
from ...data.files import output_errors
from ...errors import InputError, MissingModelError, UsageError
from ...marks.tags import synthetic_tags
from ...tts import speaker as tts
from ...tts.presets import SpeechOptions
from ...tts.registry import AR_FILE, DECODERS, FLOW_FILES, unheard
from ...tts.voices.codec_decoder import PART as CODEC_PART
from ...tts.voices.library import find_voice
from ...tts.voices.voice import Voice, make_voice
from ..clips import Clip, load_clips
from ..codec.systems import reconstruct
from ..measures.intelligibility import words
from ..report_folder import check_folder, write_report
from . import plots as tts_plots
from .hard_sentences import HARD_SENTENCES, HardSentence
from .plots import Panels
from .scores import MEASURES, MOST_REFERENCES, Judge, Likeness
from .systems import load_speaker, say_timed
from .tables import GROUND_TRUTH, SpeechReport, SpeechRow, SpokenClip, row_of
from .texts import Line, Person, apart, as_written, joined, lines_for, people_of, read_lines, some_of

Progress = Callable[[int, int | None], None]  # clips done, in all
FILES = ("report.md", "report.json", "bars.png", "scatter.png", "mel.png")
QUICK_VOICES, QUICK_TEXTS = 2, 4  # of a source, of a voice: about a minute on one core
QUICK_REMARK = (
    "a quick look: few voices and texts, so mind the intervals; leave --quick out for numbers to keep"
)
CONSENT = "a corpus's recording, used only to measure, as its licence allows"
MYNA, MYNA_TEXT = "myna", "myna, prompt's text known"
UNADAPTED, ADAPTED = "myna, {} as it was", "myna, {} adapted"
_PICTURED = 3  # voices
_MANY = 6  # names in a note


@dataclass(frozen=True)
class SpeechEvaluation:
    """What to measure.

    texts: a file with a text a line, instead of the speakers' own.   limit: texts a voice.   repeats: times a voice
    says each, with one seed after another.   max_speakers: of each source, evenly spread; None for all.   source,
    split: only these recordings of the shards.   measures: of MEASURES.
    needed: those of them that are not to be left out.   hard: say the hard sentences too.   prompt_text: is the
    prompt's transcript given to the model: "without", "with", or "both".   codec, ar, decoder_weights:
    names or checkpoints; None: those that ship (`load_speaker`).   adapted: a voice of the library, or its file, whose
    speaker is the one of the recordings: it says the same lines with its adapters and without.
    speech: how it is said, and by which decoder; its
    seed also chooses prompts and texts.   audio: keep what was said, beside the report.   remark: to be
    among the report's notes.
    """

    texts: str | Path | None = None
    limit: int = 12
    repeats: int = 1
    max_speakers: int | None = None
    source: str | None = None
    split: str | None = None
    measures: tuple[str, ...] = MEASURES
    needed: tuple[str, ...] = ()
    hard: bool = True
    prompt_text: str = "without"
    codec: str | Path = "myna-24k"
    ar: str | Path | None = None
    decoder_weights: str | Path | None = None
    adapted: str | None = None
    device: str = "cpu"
    audio: bool = False
    remark: str | None = None
    speech: SpeechOptions = field(default_factory=SpeechOptions)

    def __post_init__(self) -> None:
        if self.limit < 1:
            raise UsageError(f"at least one text is needed for a voice, got a limit of {self.limit}")
        if self.repeats < 1:
            raise UsageError(f"a text is said at least once, got {self.repeats} repeats")
        if self.max_speakers is not None and self.max_speakers < 1:
            raise UsageError(f"at least one voice is needed, got {self.max_speakers}")
        if self.prompt_text not in _PROMPT_TEXTS:
            raise UsageError(
                f"unknown use of the prompt's text {self.prompt_text!r}; expected {', '.join(_PROMPT_TEXTS)}"
            )


_PROMPT_TEXTS = {"without": (False,), "with": (True,), "both": (False, True)}


def evaluate_tts(
    data: Sequence[str | Path],
    options: SpeechEvaluation | None = None,
    out_dir: str | Path | None = None,
    force: bool = False,
    progress: Progress | None = None,
    speaker: tts.Speaker | None = None,
) -> SpeechReport:
    """Measure the models on the voices of recordings (files, folders, patterns, `.tar` shards).

    Recordings say who speaks in JSON beside them (`speaker`, `text`); one that does not is a voice of its own.
    out_dir: a folder for the report as Markdown and JSON and the pictures, written when all is measured.
    speaker: models that are loaded already.
    Without the weights that ship, or a package that measures, that part is left out with a note, unless it is needed.
    Raises UsageError, InputError, MissingModelError and OutputError, each with one line.
    """
    options = options or SpeechEvaluation()
    out = None if out_dir is None else Path(out_dir)
    if out is not None:
        check_folder(out, FILES, force)
        if options.audio:
            _check_audio(out, force)
    elif options.audio:
        raise UsageError("the speech can be kept only beside a report; give a folder for it with --out")
    texts = None if options.texts is None else read_lines(options.texts, options.limit)
    judge = Judge(options.measures, options.needed)
    notes = [*judge.notes, *([options.remark] if options.remark else [])]
    if speaker is None:
        codec = load_codec(options.codec, device=options.device).eval()
        speaker = _speaker(codec, options, notes)
    else:
        codec = speaker.models.codec
    everybody = people_of(
        load_clips(data, codec.sample_rate, source=options.source, split=options.split, max_seconds=60),
        nameless=None
        if options.adapted is None
        else Path(options.adapted).stem,  # all are recordings of that voice
    )
    casts = _casts(some_of(everybody, options.max_speakers), everybody, codec, texts, options, notes)
    if options.adapted is not None:
        casts = [_with_adapted(casts, options.adapted, codec)]
    audio = None if out is None or not options.audio else out / "audio"
    run = _Run(casts, everybody, codec, judge, options, audio, force, progress)
    clips = run.clips(speaker)
    report = SpeechReport(
        data=tuple(map(str, data)),
        models=_models(options, speaker),
        preset=options.speech.preset,
        seed=options.speech.seed,
        candidates=options.speech.resolved().n_candidates,
        repeats=options.repeats,
        threads=torch.get_num_threads(),
        device=options.device,
        recogniser=judge.recogniser,
        rows=_rows([clip for clip in clips if clip.kind is None]),
        hard=_hard_row([clip for clip in clips if clip.kind is not None]),
        clips=tuple(clips),
        notes=tuple(notes),
    )
    if out is not None:
        pictures = {
            "bars.png": tts_plots.bars,
            "scatter.png": tts_plots.scatter,
            "mel.png": lambda _: tts_plots.mels(run.panels(), codec.sample_rate),
        }
        report = write_report(report, pictures, out, force)
    return report


@dataclass(frozen=True)
class _Cast:
    """Somebody, the recordings their voice is made from, the voice by whether the prompt's text is known, and the lines
    that are to be said."""

    person: Person
    prompt: tuple[Clip, ...]
    voices: dict[bool, Voice]
    lines: list[Line]
    adapted: tuple[Voice, ...] = ()  # the same voice as it was, and adapted

    def references(self, said: Clip | None = None) -> list[Clip]:
        """Recordings to compare with: neither in the prompt nor of the text, while there are such."""
        rest = self.person.beside(self.prompt)
        return (apart(rest, [said]) or rest or list(self.prompt))[:MOST_REFERENCES]


def _check_audio(out: Path, force: bool) -> None:
    """Refuse, before any work is done, a folder of recordings that are in the way."""
    if not force and any((out / "audio").glob("*.wav")):
        raise UsageError(
            f"{out / 'audio'} holds recordings; give --force to overwrite them, or another folder"
        )


def _speaker(codec: Codec, options: SpeechEvaluation, notes: list[str]) -> tts.Speaker | None:
    """The models; None, with a note, if those that ship are not there and are needed."""
    decoder = options.speech.decoder
    try:
        return load_speaker(codec, options.ar, decoder, options.decoder_weights, options.device)
    except MissingModelError as error:
        if options.ar is not None or options.decoder_weights is not None:
            raise
        notes.append(f"Myna's own speech is left out: {error}")
        return None


def _casts(
    people: Sequence[Person],
    everybody: Sequence[Person],
    codec: Codec,
    texts: list[Line] | None,
    options: SpeechEvaluation,
    notes: list[str],
) -> list[_Cast]:
    """Everybody of whom a voice can be made, with a note of the others. Raises InputError where nothing can be said."""
    casts: list[_Cast] = []
    refused: list[str] = []
    seed = options.speech.seed
    for person in people:
        reason = "no recording of 1 to 30 s"
        for prompt in person.prompts(seed):
            try:
                voices = _voices(prompt, codec, options.prompt_text)
            except InputError as error:
                reason = str(error)
                continue
            if not voices:
                reason = "no text is beside the prompt"
                continue
            lines = texts or lines_for(person, everybody, prompt, options.limit, seed)
            casts.append(_Cast(person, prompt, voices, lines))
            break
        else:
            refused.append(f"{person.name} ({reason})")
    more = f" and {len(refused) - _MANY} more" if len(refused) > _MANY else ""
    unvoiced = ", ".join(refused[:_MANY]) + more
    if refused:
        notes.append(f"no voice was made of {unvoiced}")
    if not any(cast.lines for cast in casts):
        reason = f"no voice was made of {unvoiced}" if refused else "no text is beside the recordings"
        raise InputError(
            f"nothing to say in any voice: {reason}; give other recordings, or texts with --texts"
        )
    return casts


def _voices(prompt: Sequence[Clip], codec: Codec, prompt_text: str) -> dict[bool, Voice]:
    """The voice of a prompt by whether its text is known, as far as it can be."""
    audio = Audio(joined(prompt)[None], prompt[0].sample_rate)
    texts = [as_written(clip.text) for clip in prompt if clip.text]
    return {
        known: make_voice(audio, codec, CONSENT, name="voice", text=" ".join(texts) if known else None)
        for known in _PROMPT_TEXTS[prompt_text]
        if not known or len(texts) == len(prompt)
    }


class _Run:
    """Clip after clip, said and judged."""

    def __init__(
        self,
        casts: Sequence[_Cast],
        everybody: Sequence[Person],
        codec: Codec,
        judge: Judge,
        options: SpeechEvaluation,
        audio: Path | None,
        force: bool,
        progress: Progress | None,
    ):
        self.casts, self.everybody, self.codec, self.judge, self.options = (
            casts,
            everybody,
            codec,
            judge,
            options,
        )
        self._audio, self._force, self._progress = audio, force, progress
        self._kept: set[str] = set()  # names of the files of speech
        self._spoken: dict[int, tuple[Line, np.ndarray]] = {}  # what the first voices said, by their index

    def clips(self, speaker: tts.Speaker | None) -> list[SpokenClip]:
        """All clips, by system; without models only the real ones."""
        real = self._real()
        work = [partial(self._truth, *pair) for pair in real]
        work += [partial(self._through_codec, *pair) for pair in real]
        if speaker is not None:
            for known in _PROMPT_TEXTS[self.options.prompt_text]:
                speaking = [cast for cast in self.casts if known in cast.voices]
                work += [
                    partial(self._said, speaker, cast, known, line, again=again)
                    for cast in speaking
                    for line in cast.lines
                    for again in range(self.options.repeats)
                ]
            work += [
                partial(self._said, speaker, cast, False, line, None, voice, again)
                for cast in self.casts
                for voice in cast.adapted
                for line in cast.lines
                for again in range(self.options.repeats)
            ]
            if self.options.hard:
                work += self._hard(speaker)
        done = []
        for i, step in enumerate(work):
            done.append(step())
            if self._progress:
                self._progress(i + 1, len(work))
        return done

    def panels(self) -> list[Panels]:
        """For the pictures: the first voices, each with the first text that there is a recording of."""
        shown = []
        for i, cast in enumerate(self.casts[:_PICTURED]):
            line, ours = self._spoken.get(i, (cast.lines[0] if cast.lines else Line(""), None))
            truth = None if line.recording is None else line.recording.wav
            shown.append(Panels(cast.person.name, joined(cast.prompt), truth, ours))
        return shown

    def _real(self) -> list[tuple[Person, Clip]]:
        """The recordings of the texts that are said; without such, some of the speakers'."""
        wanted = [line.recording for cast in self.casts for line in cast.lines if line.recording is not None]
        if not wanted:
            others = (cast.person.beside(cast.prompt)[: self.options.limit] for cast in self.casts)
            wanted = [clip for clips in others for clip in clips if clip.text]
        owners = {id(clip): person for person in self.everybody for clip in person.recordings}
        return [(owners[id(clip)], clip) for clip in {id(clip): clip for clip in wanted}.values()]

    def _others(self, person: Person) -> list[Clip]:
        """Of other voices of the source."""
        casts = [cast for cast in self.casts if cast.person.source == person.source]
        return [clip for cast in casts if cast.person.name != person.name for clip in cast.references()]

    def _truth(self, person: Person, clip: Clip) -> SpokenClip:
        """A recording as it is."""
        judged = clip if person.parts is None else person.parts[0]
        same = person.beside([judged])[:MOST_REFERENCES]
        likeness = self.judge.likeness_of(judged, same, self._others(person))
        return self._recorded(person, clip, GROUND_TRUTH, clip.wav, likeness)

    def _through_codec(self, person: Person, clip: Clip) -> SpokenClip:
        """A recording through the codec, with all of its codebooks."""
        wav = reconstruct(self.codec, clip.wav, clip.sample_rate)
        judged = clip if person.parts is None else person.parts[0]
        same, part = person.beside([judged])[:MOST_REFERENCES], wav[: len(judged.wav)]
        likeness = self.judge.likeness(part, clip.sample_rate, same, self._others(person))
        return self._recorded(person, clip, f"codec, {self.codec.bitrates[-1] / 1000:g} kbps", wav, likeness)

    def _recorded(
        self, person: Person, clip: Clip, system: str, wav: np.ndarray, likeness: Likeness
    ) -> SpokenClip:
        text = as_written(clip.text or "")
        return SpokenClip(
            source=person.source,
            system=system,
            speaker=person.name,
            key=clip.key,
            text=text,
            heard=self.judge.hear(wav, clip.sample_rate, text),
            likeness=likeness,
            dnsmos=self.judge.quality(wav, clip.sample_rate),
            seconds=len(wav) / clip.sample_rate,
        )

    def _hard(self, speaker: tts.Speaker) -> list[Callable[[], SpokenClip]]:
        """Every hard sentence once, by the voices of the first source in turn."""
        source = self.casts[0].person.source
        casts = [cast for cast in self.casts if cast.person.source == source]
        return [
            partial(self._said, speaker, cast, next(iter(cast.voices)), Line(hard.text), hard)
            for hard, cast in zip(HARD_SENTENCES, cycle(casts), strict=False)
        ]

    def _said(
        self,
        speaker: tts.Speaker,
        cast: _Cast,
        known: bool,
        line: Line,
        hard: HardSentence | None = None,
        kept: Voice | None = None,
        again: int = 0,
    ) -> SpokenClip:
        """A text in a voice. kept: in the place of the cast's.   again: with another seed than the first time."""
        voice, rate = kept or cast.voices[known], speaker.sample_rate
        speech = replace(self.options.speech, seed=self.options.speech.seed + again)
        said = say_timed(speaker, line.text, voice, speech)
        key = line.recording.key if line.recording is not None else "text"
        key = key if hard is None else "hard"
        place = self.casts.index(cast)
        own = line.recording is None or any(line.recording is clip for clip in cast.person.recordings)
        if hard is None and place < _PICTURED and own:
            self._spoken.setdefault(place, (line, said.samples))
        self._keep(said.samples, cast, key, known, line.text)
        likeness = self.judge.likeness(
            said.samples, rate, cast.references(line.recording), self._others(cast.person)
        )
        return SpokenClip(
            source=cast.person.source if hard is None else "hard sentences",
            system=_system(known, kept),
            speaker=cast.person.name,
            key=key,
            text=line.text,
            heard=self.judge.hear(said.samples, rate, line.text, hard.also if hard else ()),
            likeness=likeness,
            dnsmos=self.judge.quality(said.samples, rate),
            seconds=len(said.samples) / rate,
            elapsed=said.elapsed,
            first_audio=said.first_audio,
            hit_bound=said.hit_bound,
            prompt_seconds=voice.seconds,
            kind=None if hard is None else hard.kind,
        )

    def _keep(self, samples: np.ndarray, cast: _Cast, key: str, known: bool, text: str) -> None:
        """Write what was said where it was asked for."""
        if self._audio is None:
            return
        with output_errors(self._audio):
            self._audio.mkdir(parents=True, exist_ok=True)
        first_words = "-".join(words(text)[:5])
        name = "_".join(
            [cast.person.source, cast.person.name, key, "text" if known else "voice", first_words]
        )
        name = "".join(c if c.isalnum() or c in "-_" else "-" for c in name)[:120]
        name = next(free for i in count(1) if (free := name if i == 1 else f"{name}_{i}") not in self._kept)
        self._kept.add(name)
        tags = synthetic_tags(cast.person.name)
        write_audio(self._audio / f"{name}.wav", samples, self.codec.sample_rate, self._force, tags=tags)


def _system(known: bool, kept: Voice | None) -> str:
    if kept is not None:
        return (ADAPTED if kept.adapters else UNADAPTED).format(kept.name)
    return MYNA_TEXT if known else MYNA


def _with_adapted(casts: Sequence[_Cast], name: str, codec: Codec) -> _Cast:
    """The cast of an adapted voice's speaker. Raises UsageError for recordings of several people, or a voice that has
    not been adapted."""
    if len(casts) != 1:
        who = ", ".join(cast.person.name for cast in casts[:_MANY])
        raise UsageError(
            f"the adapted voice {name} is measured on recordings of its speaker alone, these are of {who}; give "
            "--source, --max-voices 1 or other recordings"
        )
    voice = find_voice(name, codec)
    if set(voice.adapters) <= {CODEC_PART, *unheard(voice.adapters)}:  # nothing that it speaks with
        raise UsageError(
            f"the voice {name} has not been adapted; do it with `myna voices adapt {name} RECORDINGS`"
        )
    return replace(casts[0], adapted=(replace(voice, adapters={}), voice))


def _rows(clips: Sequence[SpokenClip]) -> tuple[SpeechRow, ...]:
    """A row a source and system, by source."""
    groups: dict[tuple[str, str], list[SpokenClip]] = {}
    for clip in clips:
        groups.setdefault((clip.source, clip.system), []).append(clip)
    sources = list(dict.fromkeys(clip.source for clip in clips))
    keys = sorted(groups, key=lambda key: sources.index(key[0]))
    return tuple(row_of(groups[key]) for key in keys)


def _hard_row(clips: Sequence[SpokenClip]) -> SpeechRow | None:
    return row_of(clips) if clips else None


def _models(options: SpeechEvaluation, speaker: tts.Speaker | None) -> dict[str, str]:
    """What was asked to speak, by its part."""
    parts = {"codec": options.codec}
    if speaker is not None:
        name = speaker.models.decoder(options.speech.decoder).name
        shipped = DECODERS[name].weights
        own = FLOW_FILES["ar"] if speaker.models.ar_part == "token-ar" else AR_FILE
        parts["ar"] = options.ar or Path(own).stem
        parts[name] = options.decoder_weights or (name if shipped is None else shipped.stem)
    return {part: str(value) for part, value in parts.items()}
