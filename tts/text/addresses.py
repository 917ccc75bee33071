"""E-mail addresses, web addresses and file names as one would read them out."""

from __future__ import annotations

import re

from .english import words
from .numbers import digits

_TOP_LEVEL = """com org net edu gov mil int info biz io ai app dev co me tv uk us de fr es it nl se no fi dk pl ru cn jp
in au ca br mx ch at be eu nz ie pt gr cz xyz online site tech blog shop news"""
_SAID_AS_WORDS = words(
    "com org net gov mil info biz app dev online site tech blog shop news co me int in it no at be"
)
_FILE_ENDINGS = """txt pdf doc docx xls xlsx ppt pptx csv json xml html htm css js ts py md jpg jpeg png gif svg
mp3 mp4 wav flac ogg zip tar gz exe dll cfg yaml yml toml ini log sh bat cpp hpp java rs go rb php sql myna
safetensors"""
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_DOMAIN = rf"(?:{_LABEL}\.){{1,8}}(?:{'|'.join(_TOP_LEVEL.split())})"
_PATH = r"(?:[/?#][^\s<>\"]*[^\s<>\".,;:!?)\]'])?/?"

_EMAIL = re.compile(
    rf"(?<![\w.+@-])(?:mailto:)?([A-Za-z0-9][\w.+%-]{{0,63}})@((?:{_LABEL}\.){{1,8}}[A-Za-z]{{2,24}})\b"
)
_URL = re.compile(
    r"\b(?:https?|ftp)://([^\s<>\"]*[^\s<>\".,;:!?)\]'])"
    rf"|(?<![\w@.])((?:www\.)?{_DOMAIN}(?::\d+)?(?![\w-]|\.\w){_PATH})",
    re.IGNORECASE,
)
_FILE = re.compile(
    rf"(?<![\w.-])[\w-]{{1,80}}(?:\.[\w-]{{1,40}}){{0,8}}\.(?:{'|'.join(_FILE_ENDINGS.split())})\b(?!\.\w)"
)
_HANDLE = re.compile(r"(?<![\w@])@(\w{1,50})")
_HASHTAG = re.compile(r"(?<![\w&#])#([^\W\d]\w{0,80})")

_SIGNS = {
    ".": "dot",
    "/": "slash",
    "-": "dash",
    "_": "underscore",
    ":": "colon",
    "?": "question mark",
    "=": "equals",
}
_SIGNS |= {
    "&": "and",
    "#": "hash",
    "%": "percent",
    "+": "plus",
    "~": "tilde",
    "@": "at",
    "!": "exclamation mark",
}
_SIGNS |= {"*": "star", ",": "comma", ";": "semicolon", "$": "dollar", "'": "apostrophe", "(": "", ")": ""}
_TOKEN = re.compile(r"[^\W\d_]+|\d+|\S")
_NO_VOWEL = re.compile(r"[^aeiouy]+", re.IGNORECASE)


def say_addresses(text: str) -> str:
    """`text` with its addresses, file names, @handles and #hashtags in words."""
    if "@" in text:
        text = _EMAIL.sub(lambda m: f"{_read(m[1])} at {_read(m[2], domain=True)}", text)
        text = _HANDLE.sub(lambda m: "at " + _read(m[1]), text)
    if "." in text or "://" in text:
        text = _URL.sub(lambda m: _read_url(m[1] or m[2]), text)
        text = _FILE.sub(lambda m: _read(m[0], domain=True), text)
    return _HASHTAG.sub(lambda m: "hashtag " + _camel(m[1]), text)


def _read_url(url: str) -> str:
    host, slash, path = re.fullmatch(r"([^/?#]*)([/?#]?)(.*)", url, re.S).groups()  # pyright: ignore
    said = _read(host, domain=True)
    return f"{said} {_read(slash + path)}" if path else said


def _read(text: str, domain: bool = False) -> str:
    """Letters and digits as words, signs by name. domain: after the first dot, two or three letters are spelled."""
    out = []
    after_dot = False
    for token in _TOKEN.findall(text):
        if token.isdigit():
            out.append(digits(token))
        elif not token.isalpha():
            out.append(_SIGNS.get(token, ""))
        elif _NO_VOWEL.fullmatch(token) or (
            domain and after_dot and len(token) <= 3 and token.lower() not in _SAID_AS_WORDS
        ):
            out.append(" ".join(token.upper()))
        else:
            out.append(_camel(token))
        after_dot = after_dot or token == "."
    return " ".join(part for part in out if part)


def _camel(word: str) -> str:
    """MakeItSo -> Make It So; snake_case -> snake case."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])|(?<=[^\W\d_])(?=\d)", " ", word.replace("_", " "))
