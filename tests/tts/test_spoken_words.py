"""When words are said: by the pointer, in order, wherever silence was cut and however fast it is said."""

from __future__ import annotations

import torch
from myna.tts.spoken_words import spoken_words
from myna.tts.text.phones import Phones

PHONES = Phones.from_ipa("hˈæloʊ wˈɜːld, jˈɛs.")


def pointer(frames_each: int = 2) -> torch.Tensor:
    return torch.arange(len(PHONES)).repeat_interleave(frames_each)


def first_phone(symbol: str) -> int:
    return next(
        i for i in range(len(PHONES)) if Phones(PHONES.tokens[:, i : i + 1]).ipa().strip(" ˈː") == symbol
    )


def test_a_word_is_said_from_its_first_phone_to_its_last():
    words = spoken_words("Hello world, yes.", PHONES, pointer(), 0.02, 0.0)
    assert [word.word for word in words] == ["Hello", "world,", "yes."]
    assert words[0].start == round(first_phone("h") * 0.04, 3)
    assert words[1].start == round(first_phone("w") * 0.04, 3)
    assert words[0].end <= words[1].start
    assert words[2].end < len(pointer()) * 0.02  # the pause after it is not of the word


def test_what_was_cut_and_how_fast_it_is_said_count():
    plain = spoken_words("Hello world, yes.", PHONES, pointer(), 0.02, 0.0)
    later = spoken_words("Hello world, yes.", PHONES, pointer(), 0.02, 1.5)
    faster = spoken_words("Hello world, yes.", PHONES, pointer(), 0.02, 0.0, 2.0)
    for a, b, c in zip(plain, later, faster, strict=True):
        assert (round(b.start - a.start, 3), round(b.end - a.end, 3)) == (1.5, 1.5)
        assert abs(c.start - a.start / 2) < 2e-3
    cut = spoken_words("Hello world, yes.", PHONES, pointer(), 0.02, -1.0)
    assert cut[0].start == 0.0


def test_words_that_are_said_as_one_share_its_time():
    words = spoken_words("Hel lo wor ld yes", PHONES, pointer(), 0.02, 0.0)
    assert [word.word for word in words] == ["Hel", "lo", "wor", "ld", "yes"]
    times = [time for word in words for time in (word.start, word.end)]
    assert times == sorted(times)
    assert all(word.end > word.start for word in words)


def test_phones_that_are_passed_over_take_no_time():
    skipping = torch.tensor([i for i in pointer().tolist() if i != first_phone("w") - 1])
    words = spoken_words("Hello world, yes.", PHONES, skipping, 0.02, 0.0)
    assert words[0].end == words[1].start


def test_without_a_pointer_there_are_no_words():
    assert spoken_words("Hello.", PHONES, torch.full((9,), -1), 0.02, 0.0) == ()
    assert spoken_words("-- !", PHONES, pointer(), 0.02, 0.0) == ()
    assert spoken_words("Hello.", PHONES, pointer()[:0], 0.02, 0.0) == ()
