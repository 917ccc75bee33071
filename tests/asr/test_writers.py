"""Files of transcripts: byte for byte what openai-whisper writes, and what is refused."""

from __future__ import annotations

import io
import itertools
import json
import random
from dataclasses import replace

import pytest
from myna.asr.transcript import Segment, Transcript, Word
from myna.asr.writers import FORMATS, SubtitleOptions, format_timestamp, render
from myna.errors import UsageError

WORDS = [
    "a",
    "I",
    "the",
    "Myna",
    "transcribes",
    "well-known",
    "don't",
    "x" * 60,
    "größer",
    "日本語",
    "<b>",
    "…",
]


def random_transcript(rng: random.Random, words: bool) -> Transcript:
    """Segments with and without text, words of every length, pauses short and long, times beyond an hour."""
    at = rng.choice([0.0, 0.0, 12.34, 3590.0])
    segments = []
    for index in range(rng.randrange(0, 9)):
        start, spoken = at, []
        for position in range(rng.choice([0, 1, 2, 5, 12, 30])):
            text = rng.choice(WORDS) + rng.choice(["", "", ",", ".", "?"])
            space = rng.choice([" ", " ", " ", ""]) if position else rng.choice([" ", ""])
            end = round(at + rng.choice([0.0, 0.02, 0.3, 1.1]), 2)
            spoken.append(Word(space + text, at, end, rng.random()))
            at = round(end + rng.choice([0.0, 0.0, 0.0, 0.26, 2.9, 3.1, 7.0]), 2)
        at = round(at + rng.choice([0.0, 0.5, 4.0]), 2)
        text = rng.choice(["", " ", "\t"]) + "".join(w.word for w in spoken)
        text += rng.choice(["", " --> there", "\tand\tmore", " "])
        segments.append(
            Segment(
                id=index,
                seek=int(start * 100),
                start=start,
                end=at,
                text=text,
                tokens=tuple(rng.randrange(50_000) for _ in spoken),
                temperature=0.0,
                avg_logprob=-rng.random(),
                compression_ratio=1.2,
                no_speech_prob=rng.random(),
                words=tuple(spoken) if words else None,
            )
        )
    return Transcript("".join(s.text for s in segments), tuple(segments), "en", at)


def reference(transcript: Transcript, kind: str, options: SubtitleOptions) -> str:
    """The same file as openai-whisper writes it."""
    from whisper.utils import get_writer

    content = transcript.to_dict()
    out = io.StringIO()
    get_writer(kind, "").write_result(  # pyright: ignore
        content,
        out,
        {
            "max_line_width": options.max_line_width,
            "max_line_count": options.max_line_count,
            "max_words_per_line": options.max_words_per_line,
            "highlight_words": options.highlight_words,
        },
    )
    return out.getvalue()


@pytest.mark.parametrize("words", [False, True], ids=["segments", "words"])
@pytest.mark.parametrize("kind", FORMATS)
def test_files_are_those_of_openai_whisper(kind, words):
    written = set()
    for seed in range(60):
        transcript = random_transcript(random.Random(seed), words)
        own = render(transcript, kind)
        assert own == reference(transcript, kind, SubtitleOptions()), seed
        written.add(own)
    assert len(written) > 40


@pytest.mark.parametrize("kind", ["srt", "vtt"])
@pytest.mark.parametrize("highlight", [False, True], ids=["plain", "highlighted"])
def test_lines_are_broken_where_openai_whisper_breaks_them(kind, highlight):
    choices = itertools.product([None, 1, 12, 42, 100], [None, 1, 2, 5], [None, 1, 3, 40])
    for (width, count, per_line), seed in itertools.product(choices, range(12)):
        options = SubtitleOptions(highlight, width, count, per_line)
        transcript = random_transcript(random.Random(seed), words=True)
        assert render(transcript, kind, options) == reference(transcript, kind, options), (seed, options)


def spoken(*words: tuple[str, float, float], text: str = "") -> Transcript:
    said = tuple(Word(word, start, end, 0.9) for word, start, end in words)
    segment = Segment(0, 0, 0.0, 5.0, text or "".join(w.word for w in said), (1,), 0.0, -0.1, 1.0, 0.0, said)
    return Transcript(segment.text, (segment,), "en", 5.0)


def test_a_long_pause_ends_a_subtitle_that_is_not_full():
    transcript = spoken((" One", 0.0, 0.5), (" two", 0.5, 1.0), (" three.", 4.0, 5.0))
    assert render(transcript, "srt", SubtitleOptions(max_line_width=40, max_line_count=2)) == (
        "1\n00:00:00,000 --> 00:00:01,000\nOne two\n\n2\n00:00:04,000 --> 00:00:05,000\nthree.\n\n"
    )


def test_the_word_that_is_said_is_underlined():
    transcript = spoken((" One", 0.0, 0.5), (" two", 0.7, 1.0))
    assert render(transcript, "vtt", SubtitleOptions(highlight_words=True)).split("\n\n")[1:-1] == [
        "00:00.000 --> 00:00.500\n<u>One</u> two",
        "00:00.500 --> 00:00.700\nOne two",
        "00:00.700 --> 00:01.000\nOne <u>two</u>",
    ]


@pytest.mark.parametrize("kind", ["srt", "vtt"])
def test_a_first_segment_without_text_hides_no_others(kind):
    """Segments that are emptied have no words, whether words were asked for or not; openai-whisper fails on them."""
    heard = spoken((" One", 0.0, 0.5), (" two", 0.7, 1.0)).segments[0]
    segments = (replace(heard, text="", tokens=(), words=()), replace(heard, text=" One two", words=None))
    transcript = Transcript(" One two", segments, "en", 5.0)
    assert render(transcript, kind).count("One two") == 1


def test_the_transcript_is_not_changed():
    transcript = spoken((" One", 0.0, 0.5), (" two", 0.7, 1.0))
    before = json.dumps(transcript.to_dict())
    render(transcript, "srt", SubtitleOptions(max_line_width=4, max_line_count=1, highlight_words=True))
    assert json.dumps(transcript.to_dict()) == before


@pytest.mark.parametrize(
    ("milliseconds", "vtt", "srt"),
    [
        (0, "00:00.000", "00:00:00,000"),
        (61_500, "01:01.500", "00:01:01,500"),
        (3_599_999, "59:59.999", "00:59:59,999"),
        (36_000_001, "10:00:00.001", "10:00:00,001"),
    ],
)
def test_times(milliseconds, vtt, srt):
    assert format_timestamp(milliseconds) == vtt
    assert format_timestamp(milliseconds, ",", hours=True) == srt


@pytest.mark.parametrize("name", ["max_line_width", "max_line_count", "max_words_per_line"])
def test_lines_of_nothing_are_refused(name):
    with pytest.raises(UsageError, match=name):
        SubtitleOptions(**{name: 0})


def test_another_format_is_refused():
    with pytest.raises(UsageError, match=r"docx is not a format .* txt, srt, vtt, tsv, json"):
        render(spoken((" One", 0.0, 0.5)), "docx")
