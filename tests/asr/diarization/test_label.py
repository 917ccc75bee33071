"""Words and segments by their turns, and how they are written."""

from __future__ import annotations

import json

import pytest
from myna.asr.diarization.label import Turn, Turns, told_apart
from myna.asr.transcript import Segment, Token, Transcript, Word
from myna.asr.writers import SubtitleOptions, render


def segment(
    text: str, start: float = 0.0, gaps: dict[int, float] | None = None, words: bool = True
) -> Segment:
    """Words of half a second, after the seconds of `gaps`."""
    made, at = [], start
    for i, word in enumerate(text.split()):
        at += (gaps or {}).get(i, 0.0)
        made.append(Word(f" {word}", at, at + 0.5, 0.9, (Token(100 + i, word.encode(), -0.1),)))
        at += 0.5
    return Segment(
        7, 0, start, at, f" {text}", (50363, 1, 50400), 0.0, -0.2, 1.2, 0.0, tuple(made) if words else None
    )


def transcript(*segments: Segment) -> Transcript:
    return Transcript("".join(s.text for s in segments), segments, "en", segments[-1].end)


def turns(*ends: tuple[str, float], named: frozenset[str] = frozenset()) -> Turns:
    starts = [0.0, *(end for _, end in ends)]
    return Turns(tuple(Turn(start, end, who) for (who, end), start in zip(ends, starts, strict=False)), named)


def said(found: Transcript) -> list[tuple[str | None, str]]:
    return [(s.speaker, s.text.strip()) for s in found.segments]


def test_a_segment_is_split_where_the_speaker_changes():
    whole = segment("How are you? Very well, thanks. Good.")
    found = turns(("A", 1.5), ("B", 3.0), ("C", 9)).label(transcript(whole))
    assert said(found) == [("A", "How are you?"), ("B", "Very well, thanks."), ("C", "Good.")]
    assert "".join(s.text for s in found.segments) == whole.text == found.text
    assert [(s.start, s.end) for s in found.segments] == [(0.0, 1.5), (1.5, 3.0), (3.0, 3.5)]
    assert [s.id for s in found.segments] == [0, 1, 2]
    assert [s.tokens for s in found.segments] == [(100, 101, 102), (103, 104, 105), (106,)]
    assert all(word.speaker == s.speaker for s in found.segments for word in s.words or ())


def test_a_segment_of_one_speaker_stays_as_it_is():
    whole = segment("How are you?")
    (found,) = turns(("A", 9)).label(transcript(whole)).segments
    assert found.tokens == whole.tokens
    assert found.to_dict()["words"][0] == {**whole.to_dict()["words"][0], "speaker": "A"}
    assert found.speaker == "A"
    assert "speaker" not in whole.to_dict()


def test_a_single_word_does_not_flip():
    inside = turns(("A", 1.0), ("B", 1.5), ("A", 9))
    assert said(inside.label(transcript(segment("one two three four")))) == [("A", "one two three four")]
    paused = segment("So? Yes. Good then", gaps={1: 0.4, 2: 0.4})
    found = turns(("A", 0.6), ("B", 1.7), ("A", 9)).label(transcript(paused))
    assert said(found) == [("A", "So?"), ("B", "Yes."), ("A", "Good then")]


@pytest.mark.parametrize("change", [1.0, 1.5, 2.0])
def test_a_change_beside_the_end_of_a_sentence_is_there(change):
    found = turns(("A", change), ("B", 9)).label(transcript(segment("are you well? I am well")))
    assert said(found) == [("A", "are you well?"), ("B", "I am well")]


def test_letters_are_in_order_of_appearance_in_the_text():
    """Who says nothing that is recognised has no letter; who has a name keeps it."""
    who = turns(("A", 2.0), ("Ada", 4.0), ("B", 9), named=frozenset({"Ada"}))
    spoken = transcript(segment("one two", 2.0), segment("three four", 4.0), segment("five", 0.0))
    assert [speaker for speaker, _ in said(who.label(spoken))] == ["Ada", "A", "B"]


def test_where_nobody_was_heard():
    assert Turns(()).label(transcript(segment("one two"))).segments[0].speaker is None
    beside = Turns((Turn(5.0, 6.0, "A"), Turn(8.0, 9.0, "B")))
    assert beside.at(0.0, 1.0) == "A"
    assert beside.at(6.2, 6.3) == "A"
    assert beside.at(7.8, 7.9) == "B"
    assert beside.at(20.0, 21.0) == "B"
    assert beside.at(5.5, 8.9) == "B"


def test_segments_without_words_go_to_who_speaks_most():
    spoken = transcript(segment("one two", words=False), segment("three four", 1.0, words=False))
    found = turns(("A", 1.4), ("B", 9)).label(spoken)
    assert said(found) == [("A", "one two"), ("B", "three four")]
    empty = Segment(0, 0, 1.0, 1.0, "", (), 0.0, 0.0, 1.0, 0.9, ())
    assert turns(("A", 9)).label(transcript(empty)).segments[0].speaker is None


def test_segments_that_come_one_by_one_are_the_same():
    who = turns(("A", 1.5), ("B", 9))
    spoken = transcript(segment("How are you? Well, thanks."), segment("Good. Fine.", 3.0))
    came: list[Segment] = []
    listen = told_apart(who, came.append)
    for one in spoken.segments:
        listen(one)
    assert tuple(came) == who.label(spoken).segments


@pytest.fixture
def labelled() -> Transcript:
    who = turns(("A", 1.5), ("R&D <x>", 9), named=frozenset({"R&D <x>"}))
    return who.label(transcript(segment("How are you? Very well, thanks.")))


def test_files_say_who_speaks(labelled):
    assert render(labelled, "txt") == "A: How are you?\nR&D <x>: Very well, thanks.\n"
    assert render(labelled, "srt").splitlines()[:7] == [
        "1",
        "00:00:00,000 --> 00:00:01,500",
        "A: How are you?",
        "",
        "2",
        "00:00:01,500 --> 00:00:03,000",
        "R&D <x>: Very well, thanks.",
    ]
    vtt = render(labelled, "vtt")
    assert "<v A>How are you?" in vtt
    assert "<v R&amp;D &lt;x&gt;>Very well, thanks." in vtt
    assert render(labelled, "tsv").splitlines()[:2] == [
        "start\tend\tspeaker\ttext",
        "0\t1500\tA\tHow are you?",
    ]
    assert [s["speaker"] for s in json.loads(render(labelled, "json"))["segments"]] == ["A", "R&D <x>"]


def test_a_subtitle_holds_one_speaker(labelled):
    options = SubtitleOptions(max_line_width=60, max_line_count=2)
    cues = render(labelled, "srt", options).strip().split("\n\n")
    assert [cue.splitlines()[2:] for cue in cues] == [["A: How are you?"], ["R&D <x>: Very well, thanks."]]
    narrow = render(labelled, "srt", SubtitleOptions(max_line_width=16, max_line_count=1))
    assert all(len(line) <= 16 for line in narrow.splitlines() if line and "-->" not in line)
    underlined = render(labelled, "vtt", SubtitleOptions(highlight_words=True))
    assert "<v A><u>How</u> are you?" in underlined
