"""Our tokenizer beside openai-whisper's, on both vocabularies and all three numbers of ids."""

from __future__ import annotations

import string

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from myna.asr.model.languages import ALIASES, LANGUAGES, find_language
from myna.asr.model.tokenizer import Tokenizer
from myna.asr.vocabularies import pack, read_vocabulary, unpack, vocabulary_for
from myna.errors import InputError, UsageError
from whisper import tokenizer as reference

SIZES = (51864, 51865, 51866)  # models of English, of 99 languages, of 100
SPECIAL = [
    "eot",
    "sot",
    "sot_prev",
    "sot_lm",
    "transcribe",
    "translate",
    "no_speech",
    "no_timestamps",
    "timestamp_begin",
]
TEXTS = [
    "",
    " ",
    "   \n\n  two  spaces \t and tabs\r\n",
    " And so my fellow Americans, ask not what your country can do for you.",
    "I'm he's we'll they'd you've 'tis don'T DON'T rock'n'roll '",
    "3.14159 €1,000,000 ½ ² ⅷ ①",
    " Ça va? Größenwahn, naïve façade, Übermut",
    "こんにちは世界。今日は良い天気ですね。",
    " สวัสดีชาวโลก नमस्ते दुनिया مرحبا بالعالم",
    "👩‍👩‍👧‍👦 🤷🏽‍♀️ e\u0301 \ufffd \u200b\u2003x\x1c\x1dy\x85z\xa0",
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "[MUSIC] (applause) ♪♪♪ -- <<>> {{x}}",
]


def both(n_vocab: int, language: str | None = None, task: str | None = None):
    vocabulary = vocabulary_for(n_vocab)
    assert vocabulary is not None
    theirs = reference.get_tokenizer(
        n_vocab >= 51865,
        num_languages=n_vocab - 51765 - (n_vocab >= 51865),
        language=language,
        task=task,
    )
    return Tokenizer(vocabulary, n_vocab, language, task), theirs


@pytest.mark.parametrize("n_vocab", SIZES)
def test_every_special_token_has_the_original_id(n_vocab: int):
    ours, theirs = both(n_vocab)
    for name in SPECIAL:
        assert getattr(ours, name) == getattr(theirs, name), name
    assert ours.special_tokens == theirs.special_tokens
    assert max(ours.special_tokens.values()) == n_vocab - 1
    # The original walks a set, in an order of its own each run.
    assert ours.all_language_tokens == tuple(sorted(theirs.all_language_tokens))
    assert set(zip(ours.all_language_tokens, ours.all_language_codes, strict=True)) == set(
        zip(theirs.all_language_tokens, theirs.all_language_codes, strict=True)
    )
    assert ours.non_speech_tokens == theirs.non_speech_tokens
    assert ours.is_multilingual == (n_vocab > 51864)
    every = list(range(0, n_vocab, 7)) + list(range(ours.eot - 1, n_vocab))
    assert [ours.decode_with_timestamps([t]) for t in every] == [
        theirs.decode_with_timestamps([t]) for t in every
    ]
    assert ours.decode(every) == theirs.decode(every)


@pytest.mark.parametrize("n_vocab", SIZES)
@pytest.mark.parametrize("task", [None, "transcribe", "translate"])
@pytest.mark.parametrize("language", [None, "en", "German", "my", "ja", "haitian"])
def test_the_start_of_a_transcript(n_vocab: int, language: str | None, task: str | None):
    ours, theirs = both(n_vocab, language, task)
    assert ours.sot_sequence == tuple(theirs.sot_sequence)
    assert ours.sot_sequence_including_notimestamps == tuple(theirs.sot_sequence_including_notimestamps)
    if n_vocab > 51864:
        assert ours.language_token == theirs.language_token
    else:
        with pytest.raises(ValueError, match="English alone"):
            _ = ours.language_token


def test_cantonese_came_with_large_v3():
    ours, theirs = both(51866, "Cantonese")
    assert ours.language_token == theirs.language_token == 50358
    with pytest.raises(UsageError, match=r"99 languages, not cantonese \(yue\)"):
        Tokenizer(read_vocabulary("multilingual"), 51865, "yue")
    with pytest.raises(UsageError, match="task 'sing'"):
        Tokenizer(read_vocabulary("multilingual"), 51865, "en", "sing")


@pytest.mark.parametrize("n_vocab", SIZES[:2])
@pytest.mark.parametrize("text", TEXTS)
def test_texts_are_encoded_and_parted_as_by_the_original(n_vocab: int, text: str):
    ours, theirs = both(n_vocab)
    tokens = ours.encode(text)
    assert tokens == theirs.encode(text)
    assert ours.decode(tokens) == text
    assert ours.split_to_word_tokens(tokens) == theirs.split_to_word_tokens(tokens)
    spaceless, theirs = both(51865, "ja")
    tokens = spaceless.encode(text)
    assert spaceless.split_to_word_tokens(tokens) == theirs.split_to_word_tokens(tokens)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    # Characters that Unicode has named since would be letters to one library and nothing to another.
    st.text(st.characters(exclude_categories=("Cs", "Cn", "Co")), max_size=60)
    | st.text(string.ascii_letters + " '\n.1", max_size=200)
)
def test_any_text_encodes_as_by_the_original_and_comes_back(text: str):
    for n_vocab in SIZES[:2]:
        ours, theirs = both(n_vocab)
        tokens = ours.encode(text)
        assert tokens == theirs.encode(text)
        assert ours.decode(tokens) == text


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(st.integers(0, 50255) | st.integers(0, 255) | st.integers(50256, 51863), max_size=24))
def test_any_tokens_decode_and_part_as_by_the_original(tokens: list[int]):
    for n_vocab, language in ((51864, None), (51865, "en"), (51865, "zh")):
        ours, theirs = both(n_vocab, language)
        assert ours.decode(tokens) == theirs.decode(tokens)
        assert ours.decode_with_timestamps(tokens) == theirs.decode_with_timestamps(tokens)
        try:
            expected = theirs.split_to_word_tokens(list(tokens))
        except IndexError:  # the original runs off the end of the text where the last bytes are cut
            continue
        assert ours.split_to_word_tokens(tokens) == expected


def test_a_word_of_a_hundred_thousand_letters_takes_no_more_than_its_share():
    ours, theirs = both(51864)
    word = "".join(chr(ord("a") + (i * i * 31 + i // 7) % 26) for i in range(20_000))
    tokens = ours.encode(word)
    assert tokens == theirs.encode(word)
    assert len(tokens) > 5000


def test_no_text_becomes_a_special_token_and_no_half_character_an_error():
    ours, _ = both(51865)
    tokens = ours.encode("<|endoftext|><|0.00|>")
    assert max(tokens) < ours.eot
    assert ours.decode(tokens) == "<|endoftext|><|0.00|>"
    assert ours.decode(ours.encode("a\ud83d b \ud83d\ude00")) == "a\ufffd b 😀"
    with pytest.raises(ValueError, match="no token 51865"):
        ours.decode_with_timestamps([51865])
    with pytest.raises(ValueError, match="no token -1"):
        ours.decode([-1])


def test_small_vocabularies_work_and_foreign_ones_are_refused():
    letters = (*(bytes([i]) for i in range(256)), b"th", b"the")
    ours = Tokenizer(letters, 258 + 8 + 1501)
    assert ours.n_languages == 0
    assert ours.encode("the thé") == [257, 32, 256, 0xC3, 0xA9]
    assert ours.decode(ours.encode("the thé")) == "the thé"
    assert ours.timestamp_begin == 258 + 8
    with pytest.raises(InputError, match="do not go with"):
        Tokenizer(letters, 51865)
    with pytest.raises(InputError, match="do not go with"):
        Tokenizer(letters, 300)
    with pytest.raises(InputError, match="no vocabulary"):
        Tokenizer(None, 51865)
    with pytest.raises(UsageError, match="no token for the byte"):
        Tokenizer(letters[:150], 150 + 8 + 1501).encode("é")


def test_vocabularies_are_those_of_the_original():
    for name, encoding in (("english", "gpt2"), ("multilingual", "multilingual")):
        ours, theirs = read_vocabulary(name), reference.get_encoding(encoding)
        n_ranks = theirs.eot_token
        assert len(ours) == n_ranks
        assert all(theirs.decode_single_token_bytes(i) == ours[i] for i in range(n_ranks))
        assert unpack(pack(ours), len(ours)) == ours
    assert vocabulary_for(1000) is None
    for packed, n in ((b"", 1), (b"\x02a", 1), (b"\x01ab", 1)):
        with pytest.raises(ValueError, match="not a vocabulary"):
            unpack(packed, n)


def test_languages_by_code_name_and_region():
    assert list(LANGUAGES.items()) == list(reference.LANGUAGES.items())
    for name, code in reference.TO_LANGUAGE_CODE.items():
        assert find_language(name) == find_language(name.title()) == find_language(code.upper()) == code
    assert find_language(" en-US ") == "en"
    assert find_language("pt_BR") == "pt"
    assert set(ALIASES.values()) <= set(LANGUAGES)
    for wrong in ("Klingon", "", "-", "germann"):
        with pytest.raises(UsageError, match="haw") as error:
            find_language(wrong)
        assert "\n" not in str(error.value)
    with pytest.raises(UsageError, match="did you mean german"):
        find_language("germann")
