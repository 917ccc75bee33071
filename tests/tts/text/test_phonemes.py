"""Phonemes from the bundled espeak-ng: sounds, languages, threads, no system package."""

import os
import subprocess
import sys
import threading

import pytest
from myna.errors import InputError, UsageError
from myna.tts.text.lexicon import Lexicon
from myna.tts.text.phonemes import find_language, language_note, languages, phonemize
from myna.tts.text.phones import SYMBOLS, UNKNOWN, Phones

# From the corpora: what their own makers' espeak-ng said.
CORPUS = [
    (
        "Through advances made to various builders, and that it could only maintain its credit "
        "by wholesale discounting.",
        "θɹuː ɐdvˈænsᵻz mˌeɪd tə vˈɛɹiəs bˈɪldɚz, ænd ðˌɐɾɪt kʊd ˈoʊnli meɪntˈeɪn ɪts kɹˈɛdɪt baɪ hˈoʊlseɪl "
        "dˈɪskaʊntɪŋ.",
    ),
    (
        "At length a man was caught in the act of passing a forged cheque at the Union Bank.",
        "æt lˈɛŋθ ɐ mˈæn wʌz kˈɔːt ɪnðɪ ˈækt ʌv pˈæsɪŋ ɐ fˈɔːɹdʒd tʃˈɛk æt ðə jˈuːniən bˈæŋk.",
    ),
    (
        "The atrocity of the murder no doubt attracted extraordinary attention to it.",
        "ðɪʲ ɐtɹˈɑːsᵻɾiʲ ʌvðə mˈɜːdɚ nˈoʊ dˈaʊt ɐtɹˈæktᵻd ɛkstɹˈɔːɹdɪnˌɛɹiʲ ɐtˈɛnʃən tʊ ɪt.",
    ),
]


@pytest.mark.parametrize(("text", "ipa"), CORPUS, ids=["joe", "synth", "glides"])
def test_the_corpora_s_symbols(text, ipa):
    assert phonemize(text).tokens.tolist() == Phones.from_ipa(ipa).tokens.tolist()


@pytest.mark.parametrize(
    ("text", "ipa"),
    [
        ("hello", "həlˈoʊ."),
        ("Hello, world!", "həlˈoʊ, wˈɜːld!"),
        ("Is it? Yes.", "ɪz ɪt? jˈɛs."),
        ('"No," he said.', "nˈoʊ, hiː sˈɛd."),
        ("A B C", "ˈeɪ bˈiː sˈiː."),
        ("F B I", "ˈɛf bˈiː ˈaɪ."),
        ("A cat", "ɐ kˈæt."),
        ("grade A", "ɡɹˈeɪd ˈeɪ."),
        ("no no no no", "nˈoʊ nˈoʊ nˈoʊ nˈoʊ."),
        ("well-known", "wˈɛlnˈoʊn."),
    ],
)
def test_english(text, ipa):
    assert phonemize(text).ipa() == ipa


@pytest.mark.parametrize(
    ("text", "language"),
    [
        ("Guten Tag, wie geht's?", "de"),
        ("Bonjour, ça va ?", "fr"),
        ("¿Qué tal?", "es"),
        ("Привет, мир!", "ru"),
        ("你好，世界。", "zh"),
        ("こんにちは。", "ja"),
        ("नमस्ते", "hi"),
        ("Cześć", "pl"),
        ("Bom dia", "pt-BR"),
        ("hello", "en-gb"),
    ],
)
def test_other_languages_have_known_symbols(text, language):
    phones = phonemize(text, language)
    assert phones.n_sounds > 3
    assert UNKNOWN not in phones.tokens[0]


def test_british_is_not_american():
    assert "ɒ" in phonemize("hot", "en-gb").ipa()
    assert "ɒ" not in phonemize("hot", "en-us").ipa()


@pytest.mark.parametrize(
    ("name", "code"),
    [("en", "en-us"), ("en_US", "en-us"), ("EN-GB", "en-gb"), ("pt-BR", "pt-br"), ("zh-CN", "cmn"), ("de-DE", "de"),
     ("French", "fr-fr"), ("german", "de"), ("fr-CA", "fr-fr")],
)  # fmt: skip
def test_language_names(name, code):
    assert find_language(name) == code


@pytest.mark.parametrize("name", ["xx", "", "klingonese", "../etc"])
def test_unknown_language_is_one_line(name):
    with pytest.raises(UsageError) as error:
        phonemize("hello", name)
    assert "\n" not in str(error.value)
    assert "en-us" in str(error.value)


def test_note_for_languages_not_trained():
    assert language_note("en-gb") is None
    assert "trained on English" in (language_note("de") or "")
    assert len(languages()) > 100


@pytest.mark.parametrize("text", ["", " ", "...", "?!"])
def test_nothing_to_say(text):
    with pytest.raises(InputError, match="nothing to say"):
        phonemize(text)


def test_a_word_of_ten_thousand_letters():
    assert phonemize("a" * 10_000).n_sounds > 100


def test_lexicon_in_ipa_and_respelled():
    lexicon = Lexicon.of({"Myna": "mˈaɪnə", "sql": "sequel"})
    assert phonemize("Myna, SQL and myna.", lexicon=lexicon).ipa() == "mˈaɪnə, sˈiːkwəl ænd mˈiːnə."


def test_threads_agree():
    texts = [f"Sentence number {word} is here, the end." for word in ("one", "two", "three", "four")]
    alone = [phonemize(text, language).ipa() for text in texts for language in ("en-us", "en-gb")]
    answers: list[list[str]] = []

    def work():
        answers.append([phonemize(text, language).ipa() for text in texts for language in ("en-us", "en-gb")])

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert answers == [alone] * 4


def test_no_system_package_is_needed():
    """With nothing on the path, no espeak on the machine is found: the bundled library answers."""
    program = "from myna.tts.text.phonemes import phonemize; print(ascii(phonemize('hello').ipa()))"
    environment = {key: value for key, value in os.environ.items() if key in ("SYSTEMROOT", "PYTHONPATH")}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**environment, "PATH": ""},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.strip() == ascii("həlˈoʊ.")


def test_a_long_path_to_the_library_s_data(tmp_path):
    """espeak-ng ends the process when it does not find its data; the path of a deep environment is too long for it."""
    import espeakng_loader

    deep = tmp_path / ("d" * 120) / "espeak-ng-data"
    deep.parent.mkdir()
    os.symlink(espeakng_loader.get_data_path(), deep)
    program = (
        "import espeakng_loader, os; deep = os.environ['DEEP']; espeakng_loader.get_data_path = lambda: deep\n"
        "import pathlib; pathlib.Path.resolve = lambda self, strict=False: self\n"  # as if it were no link
        "from myna.tts.text.phonemes import phonemize; print(ascii(phonemize('hello').ipa()))"
    )
    environment = {**os.environ, "DEEP": str(deep)}
    done = subprocess.run([sys.executable, "-c", program], env=environment, capture_output=True, text=True)
    assert done.stdout.strip() == ascii("həlˈoʊ."), done.stderr


def test_every_token_is_a_symbol():
    assert phonemize("Any words.").tokens[0].max() < len(SYMBOLS)
