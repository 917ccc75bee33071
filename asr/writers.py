"""A transcript as a file: text, subtitles (SRT, WebVTT), a table (TSV) or JSON, by openai-whisper's rules.

The rules, where they are not obvious:
- Subtitles follow the segments, unless words have times: then they are laid out word by word (`_cues_of_words`).
- A line is broken at `max_line_width`; a subtitle ends with its segment, or, where both `max_line_width` and
  `max_line_count` are given, only when it is full or nobody has spoken for three seconds.
- `max_words_per_line` ends a subtitle after so many words of a segment; it has no effect where both are given.
- Where it is known who speaks, text and SRT begin with `NAME: `, WebVTT with `<v NAME>`, TSV has a column, and a
  subtitle never holds two speakers.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from ..errors import UsageError
from .options import WORDS, option

if TYPE_CHECKING:
    from .transcript import Segment, Transcript, Word

LONG_PAUSE = 3.0  # seconds from the start of one word to the start of the next
_UNLIMITED = 1000  # characters in a line, words in a subtitle


@dataclass(frozen=True)
class SubtitleOptions:
    """How words become subtitles; all of it needs words with times, and is for SRT and WebVTT."""

    highlight_words: bool = option(False, "Subtitles underline the word.", WORDS)  # a subtitle for each word
    max_line_width: int | None = option(None, "Characters in a line.", WORDS)
    max_line_count: int | None = option(None, "Lines in a subtitle; needs --max-line-width.", WORDS)
    max_words_per_line: int | None = option(None, "Words in a subtitle.", WORDS)  # without the other two

    def __post_init__(self) -> None:
        for name in ("max_line_width", "max_line_count", "max_words_per_line"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise UsageError(f"{name} is {value}; give at least 1, or leave it out")

    @property
    def needs_words(self) -> bool:
        """Whether any of it is asked for."""
        return self != SubtitleOptions()


@dataclass(frozen=True)
class Cue:
    """One subtitle: times in milliseconds, its lines, and who says them, where that is known."""

    start: int
    end: int
    text: str
    speaker: str | None = None


def render(transcript: Transcript, kind: str, options: SubtitleOptions | None = None) -> str:
    """The content of the file of a transcript. kind: one of FORMATS. Raises UsageError for another."""
    if kind not in FORMATS:
        raise UsageError(f"{kind} is not a format of transcripts; choose {', '.join(FORMATS)}")
    return _RENDERERS[kind](transcript, options or SubtitleOptions())


def format_timestamp(milliseconds: int, marker: str = ".", hours: bool = False) -> str:
    """61_500 -> "01:01.500", or "00:01:01,500" with `hours` and a comma as `marker`; hours also when there are any."""
    seconds, milliseconds = divmod(milliseconds, 1000)
    minutes, seconds = divmod(seconds, 60)
    n_hours, minutes = divmod(minutes, 60)
    front = f"{n_hours:02}:" if hours or n_hours else ""
    return f"{front}{minutes:02}:{seconds:02}{marker}{milliseconds:03}"


def _txt(transcript: Transcript, options: SubtitleOptions) -> str:
    return "".join(f"{line_of(segment)}\n" for segment in transcript.segments)


def _srt(transcript: Transcript, options: SubtitleOptions) -> str:
    cues = enumerate(_cues(transcript, options), start=1)
    return "".join(
        f"{number}\n{_times(cue, ',', True)}\n{_label(cue.speaker)}{cue.text}\n\n" for number, cue in cues
    )


def _vtt(transcript: Transcript, options: SubtitleOptions) -> str:
    cues = _cues(transcript, options)
    return "WEBVTT\n\n" + "".join(
        f"{_times(cue, '.', False)}\n{_voice_tag(cue.speaker)}{cue.text}\n\n" for cue in cues
    )


def _tsv(transcript: Transcript, options: SubtitleOptions) -> str:
    known = any(segment.speaker is not None for segment in transcript.segments)
    rows = [("start", "end", *(["speaker"] if known else []), "text")]
    for segment in transcript.segments:
        speaker = [segment.speaker or ""] if known else []
        text = segment.text.strip().replace("\t", " ")
        rows.append((str(_ms(segment.start)), str(_ms(segment.end)), *speaker, text))
    return "".join("\t".join(row) + "\n" for row in rows)


def _json(transcript: Transcript, options: SubtitleOptions) -> str:
    return json.dumps(transcript.to_dict())


_RENDERERS: dict[str, Callable[[Transcript, SubtitleOptions], str]] = {
    "txt": _txt,
    "srt": _srt,
    "vtt": _vtt,
    "tsv": _tsv,
    "json": _json,
}
FORMATS = tuple(_RENDERERS)


def line_of(segment: Segment) -> str:
    """What a segment says, after its speaker's name where that is known."""
    return f"{_label(segment.speaker)}{segment.text.strip()}"


def _label(speaker: str | None) -> str:
    return "" if speaker is None else f"{speaker.replace('-->', '->')}: "


def _voice_tag(speaker: str | None) -> str:
    if speaker is None:
        return ""
    for sign, written in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;")):
        speaker = speaker.replace(sign, written)
    return f"<v {speaker}>"


def _times(cue: Cue, marker: str, hours: bool) -> str:
    return " --> ".join(format_timestamp(time, marker, hours) for time in (cue.start, cue.end))


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


def _cues(transcript: Transcript, options: SubtitleOptions) -> Iterator[Cue]:
    segments = transcript.segments
    if all(
        segment.words is not None for segment in segments
    ):  # one without text has none, and no others may have
        yield from _cues_of_words(transcript, options)
        return
    for segment in segments:
        # An arrow in the text would be read as another line of times.
        text = segment.text.strip().replace("-->", "->")
        yield Cue(_ms(segment.start), _ms(segment.end), text, segment.speaker)


def _cues_of_words(transcript: Transcript, options: SubtitleOptions) -> Iterator[Cue]:
    for words in _subtitles(transcript, options):
        start, end = _ms(words[0].start), _ms(words[-1].end)
        if options.highlight_words:
            yield from _highlighted(words)
        else:
            yield Cue(start, end, "".join(word.word for word in words), words[0].speaker)


def _subtitles(transcript: Transcript, options: SubtitleOptions) -> Iterator[list[Word]]:
    """The words of one subtitle after the other, line breaks put in front of those that begin a line."""
    width, count = options.max_line_width or _UNLIMITED, options.max_line_count
    per_subtitle = options.max_words_per_line or _UNLIMITED
    across_segments = options.max_line_width is not None and count is not None
    subtitle: list[Word] = []
    n_lines, line_length = 1, 0
    spoke_at: float | None = None
    for segment in transcript.segments:
        for index, word in enumerate(segment.words or ()):
            pause = across_segments and spoke_at is not None and word.start - spoke_at > LONG_PAUSE
            parted = bool(subtitle) and (
                word.speaker != subtitle[-1].speaker or (not across_segments and index % per_subtitle == 0)
            )
            spoke_at = word.start
            if 0 < line_length <= width - len(word.word) and not pause and not parted:
                subtitle.append(word)
                line_length += len(word.word)
                continue
            text = word.word.strip()
            full = bool(subtitle) and count is not None and (pause or n_lines >= count)
            if parted or full:
                yield subtitle
                subtitle, n_lines = [], 1
            elif line_length:
                n_lines += 1
                text = "\n" + text
            line_length = len(text.strip()) + (0 if subtitle else len(_label(word.speaker)))
            subtitle.append(replace(word, word=text))
    if subtitle:
        yield subtitle


def _highlighted(words: list[Word]) -> Iterator[Cue]:
    """Each word underlined while it is said, none in between."""
    texts, speaker = [word.word for word in words], words[0].speaker
    shown_until = _ms(words[0].start)
    for index, word in enumerate(words):
        start, end = _ms(word.start), _ms(word.end)
        if start != shown_until:
            yield Cue(shown_until, start, "".join(texts), speaker)
        text = "".join((*texts[:index], _underlined(texts[index]), *texts[index + 1 :]))
        yield Cue(start, end, text, speaker)
        shown_until = end


def _underlined(text: str) -> str:
    said = text.lstrip()
    return f"{text[: len(text) - len(said)]}<u>{said}</u>"
