"""Phones: espeak-ng's IPA to tokens and back, with and without times."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from myna.tts.text.phones import FOLDED, N_SYMBOLS, PAD, SYMBOLS, UNKNOWN, Phones


def listed(phones):
    return [(SYMBOLS[s], stress, long) for s, stress, long in phones.tokens.T.tolist()]


def test_symbols_are_unique_and_their_order_stands():
    """Ids are part of every checkpoint: a change here makes shipped weights useless."""
    assert len(set(SYMBOLS)) == N_SYMBOLS == 155
    assert SYMBOLS[PAD] == "<pad>"
    assert SYMBOLS[UNKNOWN] == "<unknown>"
    assert [SYMBOLS.index(symbol) for symbol in (" ", "?", ".", ",", "a", "z", "æ", "ɐ", "ʔ", "1", "7")] == [
        *(2, 3, 6, 10, 12, 36, 37, 47, 107, 148, 154)
    ]


def test_marks_ride_on_their_sounds():
    assert listed(Phones.from_ipa("nˈuːs ɪˌt")) == [
        (" ", 0, 0),
        ("n", 0, 0),
        ("u", 1, 1),
        ("s", 0, 0),
        (" ", 0, 0),
        ("ɪ", 0, 0),
        ("t", 2, 0),
        (".", 0, 0),
    ]


@pytest.mark.parametrize(
    ("ipa", "again"),
    [
        ("hˈaɪ, ðˈɛɹ!", "hˈaɪ, ðˈɛɹ!"),
        ("hˈaɪ", "hˈaɪ."),
        ("hˈaɪ ", "hˈaɪ."),
        ('"hˈaɪ?!" nˈoʊ', "hˈaɪ? nˈoʊ."),
        ("ðɪʲ ˈɛnd", "ðɪ ˈɛnd."),
        ("prʲivʲˈet", "prʲivʲˈet."),
        ("bˈʌʔn̩", "bˈʌʔn."),
        ("bɔ̃ʒˈuʁ", "bɔ̃ʒˈuʁ."),
        ("gɩd", "ɡɪd."),
        ("t͡ʃ ʧ ʦ", "tʃ tʃ ts."),
        ("a; b: c — d… e", "a, b, c, d. e."),
        ("a\n b", "a b."),
        ("ˈ.", "."),
        ("", "."),
        (" . , ", "."),
    ],
)
def test_ipa(ipa, again):
    if not again.strip("."):
        assert Phones.from_ipa(ipa).n_sounds == 0
        return
    phones = Phones.from_ipa(ipa)
    assert phones.ipa() == again
    assert listed(Phones.from_ipa(phones.ipa())) == listed(phones)


def test_unknown_signs_are_one_symbol():
    assert (Phones.from_ipa("a語b").tokens[0] == UNKNOWN).sum() == 1


@settings(max_examples=100, deadline=None)
@given(st.text(alphabet='abɪʃˈˌː .,?!—"ʲ\u0303', max_size=40))
def test_every_utterance_begins_with_a_space_and_ends_in_punctuation(ipa):
    phones = Phones.from_ipa(ipa)
    first, *_, last = listed(phones)
    assert first[0] == " "
    assert last[0] in ".,?!"
    assert not any(symbol in FOLDED for symbol, _, _ in listed(phones))
    assert listed(Phones.from_ipa(phones.ipa())) == listed(phones)


def test_times_of_marks_go_to_their_sounds():
    timed = [
        ["n", 0.1, 0.2],
        ["ˈ", 0.2, 0.25],
        ["u", 0.25, 0.3],
        ["ː", 0.3, 0.4],
        [",", 0.4, 0.5],
        [" ", 0.5, 0.6],
    ]
    timed += [["s", 0.6, 0.8], [".", 0.95, 0.8]]
    phones, times = Phones.from_timed(timed)
    assert phones.ipa() == "nˈuː, s."
    assert times.shape == (len(phones), 2)
    expected = [[0, 0.1], [0.1, 0.2], [0.2, 0.4], [0.4, 0.6], [0.6, 0.8], [0.8, 0.8]]
    assert times.tolist() == [pytest.approx(row) for row in expected]


def test_adding_keeps_every_token():
    a, b = Phones.from_ipa("nˈoʊ."), Phones.from_ipa("jˈɛs!")
    assert len(a + b) == len(a) + len(b)
    assert (a + b).ipa() == "nˈoʊ. jˈɛs!"
    assert a.n_sounds == 3
