"""Who says what: prompts are never the recordings that are said, and the same seed chooses the same."""

from __future__ import annotations

import numpy as np
import pytest
from myna.errors import InputError
from myna.evaluation.clips import Clip
from myna.evaluation.tts.texts import (
    LONGEST_PROMPT,
    PROMPT_SECONDS,
    Person,
    apart,
    as_written,
    joined,
    lines_for,
    people_of,
    read_lines,
    some_of,
)

RATE = 100  # nobody listens
SEEDS = range(20)


def clip(key: str, seconds: float = 4.0, speaker: str | None = "ada", text: str | None = "", source="read"):
    """text "": one of its own."""
    said = f"Text of {key}." if text == "" else text
    return Clip(key, np.ones(round(seconds * RATE), np.float32), RATE, source, speaker, said)


@pytest.fixture
def people() -> list[Person]:
    """Three voices; two recordings say the same, in other writing."""
    clips = [clip(f"{name}{i}", 2 + i, name) for name in ("ada", "bo", "cy") for i in range(4)]
    return people_of([*clips, clip("ada4", text="TEXT OF ADA3"), clip("other", source="elsewhere")])


def test_voices_are_sources_and_speakers_in_order(people):
    assert [(p.source, p.name, len(p.recordings)) for p in people] == [
        ("elsewhere", "ada", 1),
        ("read", "ada", 5),
        ("read", "bo", 4),
        ("read", "cy", 4),
    ]


def test_recordings_of_nobody_known_are_voices_of_their_own():
    """In two folders files may have the same name; somebody may be called like a file."""
    clips = [clip("one", speaker=None, source=None) for _ in range(12)]
    found = people_of([*clips, clip("two", speaker="one", source=None)])
    assert len(found) == 13
    assert len({p.name for p in found}) == 13
    assert all(len(p.recordings) == 1 and p.source == "recordings" for p in found)
    assert next(p for p in found if p.name == "one").recordings[0].key == "two"


def test_recordings_without_a_name_may_all_be_of_one_person():
    clips = [
        clip(key, speaker=speaker, source=None) for key, speaker in (("a", None), ("b", None), ("c", "bo"))
    ]
    assert [(p.name, len(p.recordings)) for p in people_of(clips)] == [("a", 1), ("b", 1), ("bo", 1)]
    assert [(p.name, len(p.recordings)) for p in people_of(clips, nameless="me")] == [("bo", 1), ("me", 2)]


def test_some_voices_are_spread_over_every_source(people):
    assert some_of(people, None) == people
    assert [(p.source, p.name) for p in some_of(people, 2)] == [
        ("elsewhere", "ada"),
        ("read", "ada"),
        ("read", "bo"),
    ]
    assert len(some_of(people, 1)) == 2


@pytest.mark.parametrize("seed", SEEDS)
def test_a_prompt_is_never_what_is_said(people, seed):
    """Neither the recording, nor its text in another recording; and every text once."""
    for person in people:
        for prompt in person.prompts(seed):
            lines = lines_for(person, people, prompt, 100, seed)
            recordings = [line.recording for line in lines]
            assert None not in recordings
            assert len(apart(recordings, prompt)) == len(recordings)  # pyright: ignore
            said = [line.text.lower().rstrip(".") for line in lines]
            assert len(set(said)) == len(said)
            assert not set(said) & {c.text.lower().rstrip(".") for c in prompt if c.text}


def test_a_voice_says_its_own_texts_first_and_those_of_its_source_after(people):
    bo = next(p for p in people if p.name == "bo")
    for seed in SEEDS:
        prompt = next(iter(bo.prompts(seed)))
        speakers = [line.recording.speaker for line in lines_for(bo, people, prompt, 100, seed)]
        assert speakers[:3] == ["bo"] * 3
        assert set(speakers[3:]) == {"ada", "cy"}
        assert len(speakers) == 3 + 4 + 4  # of two recordings of one text, one
        assert len(lines_for(bo, people, prompt, 2, seed)) == 2
    elsewhere = people[0]
    assert lines_for(elsewhere, people, elsewhere.recordings, 5, 0) == []  # nobody else is there


def test_a_seed_chooses_prompts_and_texts(people):
    def choice(seed):
        prompts = [next(iter(p.prompts(seed))) for p in people]
        lines = [
            lines_for(person, people, prompt, 3, seed) for person, prompt in zip(people, prompts, strict=True)
        ]
        return [[c.key for c in p] for p in prompts], [[line.text for line in n] for n in lines]

    assert choice(5) == choice(5)
    assert len({str(choice(seed)) for seed in SEEDS}) > 10
    shortest = choice(5)[1]
    assert [n[:1] for n in shortest] == [
        [line.text for line in lines_for(p, people, next(iter(p.prompts(5))), 1, 5)] for p in people
    ]  # fewer texts are the first of more


def test_prompts_are_long_enough_or_joined_of_short_ones():
    mixed = Person("ada", "read", tuple(clip(f"{s}", s) for s in (0.5, 2.9, 3.0, 29.0, 31.0)))
    for prompt in mixed.prompts(0):
        assert sum(c.duration for c in prompt) >= PROMPT_SECONDS
        assert len(prompt) == 1 or all(c.duration < PROMPT_SECONDS for c in prompt)
        assert all(c.duration <= LONGEST_PROMPT for c in prompt)
    short = Person("bo", "read", tuple(clip(f"{i}", 1.2) for i in range(4)))
    assert [len(prompt) for prompt in short.prompts(0)] == [3]  # the fourth is left to be said
    little = Person("cy", "read", (clip("a", 1.0), clip("b", 0.9)))
    assert [len(prompt) for prompt in little.prompts(0)] == [2]  # all there is
    assert list(Person("di", "read", (clip("long", 40), clip("as long", 40))).prompts(0)) == []


def test_joined_recordings_have_a_pause_between_them():
    wav = joined([clip("a", 1.0), clip("b", 0.5)])
    assert len(wav) == 1.7 * RATE
    assert wav[:100].all()
    assert not wav[100:120].any()
    assert wav[120:].all()
    assert len(joined([clip("a", 1.0)])) == RATE


@pytest.mark.parametrize(
    ("transcript", "written"),
    [
        ("He said so.", "He said so."),
        ("HE SAID SO", "He said so."),
        ("I THINK I'M AT HOME AND I'LL STAY", "I think I'm at home and I'll stay."),
        ("I'M IN HAWAI'I", "I'm in hawai'i."),
        ("DO I, REALLY?", "Do I, really?"),
        ("  TWO   SPACES ", "Two spaces."),
        ("", ""),
    ],
)
def test_transcripts_in_capitals_are_written_as_people_would(transcript, written):
    assert as_written(transcript) == written


def test_a_file_of_texts(tmp_path):
    path = tmp_path / "texts.txt"
    path.write_bytes("\ufeffOne line.\r\n\r\n  Another – line. \n...\n".encode())
    assert [line.text for line in read_lines(path)] == ["One line.", "Another – line."]
    assert all(line.recording is None for line in read_lines(path))
    assert len(read_lines(path, 1)) == 1


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "holds no words"),
        (b"...\n\n--\n", "holds no words"),
        (b"\xff\xfe\x00a", "not text in UTF-8"),
        (None, "cannot read"),
    ],
)
def test_files_without_texts_are_one_line(tmp_path, content, words):
    path = tmp_path / "texts.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(InputError, match=words) as error:
        read_lines(path)
    assert "\n" not in str(error.value)
    with pytest.raises(InputError, match="folder"):
        read_lines(tmp_path)


def test_of_an_only_recording_the_beginning_is_the_prompt_and_the_rest_is_compared():
    long = people_of([clip("one", 10.0, "ada"), clip("two", 10.0, "bo")])[0]
    (prompt,) = long.prompts(0)
    assert [part.duration for part in prompt] == [PROMPT_SECONDS]
    (rest,) = long.beside(prompt)
    assert rest.duration == 10.0 - PROMPT_SECONDS
    assert [line.text for line in lines_for(long, people_of([clip("two", 10.0, "bo")]), prompt, 3, 0)] == [
        "Text of two."
    ]
    short = people_of([clip("one", 5.0, "ada")])[0]
    assert [[part.duration for part in prompt] for prompt in short.prompts(0)] == [[5.0]]
    assert short.beside(short.recordings) == []
