"""Text to phones with espeak-ng, through phonemizer and the library that espeakng-loader carries.

No system package is used, so that every machine gives the symbols the models were trained on.
"""

from __future__ import annotations

import atexit
import difflib
import logging
import os
import re
import shutil
import tempfile
import threading
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from ...errors import InputError, UsageError
from .lexicon import Lexicon
from .phones import SPACE, Phones

if TYPE_CHECKING:
    from phonemizer.backend import EspeakBackend

TRAINED_LANGUAGES = ("en-us", "en-gb")

# Names in common use for what espeak-ng calls otherwise.
_NAMES = {
    "en": "en-us",
    "english": "en-us",
    "fr": "fr-fr",
    "french": "fr-fr",
    "zh": "cmn",
    "chinese": "cmn",
    "mandarin": "cmn",
    "zh-hk": "yue",
    "cantonese": "yue",
    "no": "nb",
    "norwegian": "nb",
    "iw": "he",
}

# Full stop, comma and colon are punctuation unless they stand between digits, where espeak-ng needs to see them.
_PUNCTUATION = re.compile(r'(\s*(?:[?!;—…"]|(?<!\d)[.,:]|[.,:](?!\d))+\s*)')

# A capital A among letters or at the end of a phrase ("A B C", "grade A") is the letter's name; espeak-ng reads it as
# the article, and the word below as the name.
_LETTER_A = re.compile(r"(?<=\b[A-Z] )A\b|\bA(?=(?: [A-Z])+\b(?!'))|(?<=[a-z] )A$")
_LETTER_A_NAME = "eigh"

# Inside espeak-ng's answer these are sounds, not punctuation (Mandarin's s.i, Danish's ?).
_NOT_PUNCTUATION = str.maketrans({".": "", "?": "ʔ", ":": "ː", ",": "", ";": "ʲ", "!": "", '"': ""})

# espeak-ng cuts off paths longer than this, does not find its data, and ends the whole process.
_LONGEST_PATH = 120

# espeak-ng keeps everything in global variables: one thread at a time.
_lock = threading.RLock()


def phonemize(text: str, language: str = "en-us", lexicon: Lexicon | None = None) -> Phones:
    """The sounds of `text`, which `normalize` has been over (a bare `A` is the article, `12` is what espeak-ng says).

    lexicon: words in it are said as it says. Safe to call from several threads.
    Errors: UsageError for a language that espeak-ng does not know, InputError when there is nothing to say.
    """
    code = find_language(language)
    words, sounds = _apply_lexicon(text, lexicon) if lexicon else ([text], [None])
    pieces: list[str | None] = []  # None: espeak-ng's turn
    asked: list[str] = []
    for word, sound in zip(words, sounds, strict=True):
        if sound is not None:
            pieces.append(f" {sound} ")
            continue
        for i, part in enumerate(_PUNCTUATION.split(word)):
            if i % 2 or not part.strip():
                pieces.append(part)
            else:
                # Spaces at a piece's ends are kept by hand: phonemizer strips them.
                lead, trail = part[: len(part) - len(part.lstrip())], part[len(part.rstrip()) :]
                asked.append(_name_letters(part.strip()) if code.startswith("en") else part.strip())
                pieces += [lead, None, trail]
    answers = iter(_espeak(asked, code))
    phones = Phones.from_ipa("".join(next(answers) if piece is None else piece for piece in pieces))
    if not phones.n_sounds:
        raise InputError(f"nothing to say in {_excerpt(text)}: give some text in words")
    return phones


@lru_cache(maxsize=1)
def languages() -> dict[str, str]:
    """Every language espeak-ng can read here: code -> name."""
    from phonemizer.backend.espeak.wrapper import EspeakWrapper

    with _lock:
        _use_bundled_library()
        wrapper = EspeakWrapper()
        voices, data = wrapper.available_voices(), Path(wrapper.data_path or ".")
    known: dict[str, str] = {}
    for voice in voices:
        # A few voices are listed without the dictionary they read from.
        if (data / f"{voice.language.split('-')[0].lower()}_dict").is_file():
            known.setdefault(voice.language, voice.name)
    return dict(sorted(known.items()))


@lru_cache(maxsize=256)
def find_language(language: str) -> str:
    """espeak-ng's code for `language` as people write it: `en`, `en_US`, `pt-BR`, `zh`. UsageError if there is none."""
    if language in TRAINED_LANGUAGES:  # espeak-ng needs as long to list all as to say a sentence
        return language
    known = {code.lower(): code for code in languages()}
    for code, name in reversed(languages().items()):
        known.setdefault(name.lower(), code)
        known[name.lower().split(" (")[0]] = code
    asked = language.strip().lower().replace("_", "-")
    for name in (asked, asked.split("-")[0]):
        code = known.get(_NAMES.get(name, name))
        if code:
            return code
    close = dict.fromkeys(known[name] for name in difflib.get_close_matches(asked, known, 3, cutoff=0.7))
    raise UsageError(
        f"unknown language {language!r}: expected one of the {len(languages())} that espeak-ng knows, such as en-us, "
        f"en-gb or de" + (f"; did you mean {' or '.join(close)}?" if close else "")
    )


def language_note(language: str) -> str | None:
    """What to tell someone who asks for a language that the shipped weights have not learned, else None."""
    code = find_language(language)
    if code.split("-")[0] == "en":
        return None
    return (
        f"{languages()[code]} ({code}): espeak-ng can read it, but the shipped weights were trained on English; "
        "expect a strong accent and mistakes"
    )


def _apply_lexicon(text: str, lexicon: Lexicon) -> tuple[list[str], list[str | None]]:
    """Cut `text` where the lexicon gives IPA; respellings just take the word's place. -> (texts, their IPA or None)."""
    words, sounds, plain, end = [], [], "", 0
    for found in lexicon.find(text):
        entry = lexicon[found[0]]
        plain += text[end : found.start()]
        end = found.end()
        if entry.ipa is None:
            plain += entry.respelling or ""
        else:
            words += [plain, found[0]]
            sounds += [None, entry.ipa]
            plain = ""
    return [*words, plain + text[end:]], [*sounds, None]


def _espeak(texts: list[str], code: str) -> list[str]:
    if not texts:
        return []
    with _lock:
        answers = _backend(code).phonemize(texts, strip=True)
    return [answer.strip().translate(_NOT_PUNCTUATION) or SPACE for answer in answers]


def _name_letters(text: str) -> str:
    return _LETTER_A.sub(_LETTER_A_NAME, " ".join(text.split()))


@lru_cache(maxsize=8)
def _backend(code: str) -> EspeakBackend:
    """Made once a language (it copies and loads the library: some 20 ms), then reused."""
    from phonemizer.backend import EspeakBackend

    _use_bundled_library()
    logger = logging.getLogger("myna.espeak")
    logger.setLevel(logging.ERROR)  # phonemizer warns about words that change the language, which is fine
    return EspeakBackend(code, with_stress=True, language_switch="remove-flags", logger=logger)


@lru_cache(maxsize=1)
def _use_bundled_library() -> None:
    import espeakng_loader
    from phonemizer.backend.espeak.wrapper import EspeakWrapper

    data = espeakng_loader.get_data_path()
    if len(os.fsencode(data)) > _LONGEST_PATH:
        # phonemizer resolves links before it hands a path on, so the short one goes by the environment.
        folder = tempfile.mkdtemp(prefix="espeak-")
        atexit.register(shutil.rmtree, folder, ignore_errors=True)
        os.symlink(data, os.path.join(folder, "espeak-ng-data"))
        os.environ["ESPEAK_DATA_PATH"] = folder
    EspeakWrapper.set_library(espeakng_loader.get_library_path())
    EspeakWrapper.set_data_path(data)


def _excerpt(text: str) -> str:
    text = " ".join(text.split())
    return repr(text if len(text) <= 40 else text[:37] + "...") if text else "an empty text"
