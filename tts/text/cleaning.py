"""Text as people paste it to plain text: markup, emoji, control characters and look-alike signs go.

What stays is letters, digits, ordinary signs and one set of quotes, dashes and stops; a line break ends a paragraph.
"""

from __future__ import annotations

import html
import re
import unicodedata

# What colours and moves the cursor of a terminal (ECMA-48), as copied logs hold it.
_ESCAPES = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b\n]{0,1000}(?:\x07|\x1b\\)|\x1b[@-Z\\^_]")
# Tags that end a line of text when a page is shown.
_BLOCK = "p|br|div|li|ul|ol|h[1-6]|tr|table|section|article|header|footer|blockquote|pre|s|speak|title"
_MARKUP = [
    (re.compile(r"<!--.*?(?:-->|$)|<!\[CDATA\[|\]\]>", re.S), " "),
    (re.compile(r"<(script|style)\b[^<>]*>.*?(?:</\1\s*>|$)", re.S | re.I), " "),
    (re.compile(r"<break\b[^<>]*>", re.I), ", "),  # SSML's pause
    (re.compile(rf"</?(?:{_BLOCK})\b[^<>]*>", re.I), "\n\n"),
    (re.compile(r"</?[A-Za-z][^<>]{0,1000}>|<[?!][A-Za-z][^<>]{0,1000}>"), ""),
]
_MARKDOWN = [
    (re.compile(r"!?\[([^\[\]\n]{1,500})\]\(([^()\s]{1,2000})\)"), r"\1"),  # a link: its words
    (re.compile(r"^[ \t]*#{1,6}[ \t]+(.*?)[ \t#]*$", re.M), r"\n\n\1\n\n"),
    (re.compile(r"^[ \t]*(?:[-*_][ \t]*){3,}$", re.M), "\n\n"),  # a rule
    (re.compile(r"^[ \t]*(?:[-*+•▪◦‣·]|\d{1,3}[.)](?=[ \t]+[A-Z]))[ \t]+", re.M), "\n\n"),  # a list's item
    (re.compile(r"^[ \t]*>[ \t]?", re.M), ""),
    (re.compile(r"(?<![\w*])(\*{1,3}|_{1,3}|~~|`{1,3})(?=\S)([^*_`~\n]{1,1000}?)(?<=\S)\1(?![\w*])"), r"\2"),
    (re.compile(r"`"), ""),
]
_EMOTICON = re.compile(
    r"(?<!\S)(?:[:;=8xX][-o'^]?[)(\]\[DPpOo/\\|*]|[)(][-o']?[:;=]|<3|\^_?\^|:'\()(?=\s|$|[.,!?])"
)
_SIGNS = str.maketrans(
    {
        **dict.fromkeys("‘’‚‛′´ʼ＇", "'"),
        **dict.fromkeys("“”„‟«»″「」『』〝〞＂", '"'),
        **dict.fromkeys("‐‑‒﹣－", "-"),
        **dict.fromkeys("―⸺⸻", "—"),
        **dict.fromkeys("。｡．", ". "),
        **dict.fromkeys("、､，", ", "),
        **dict.fromkeys("！", "! "),
        **dict.fromkeys("？", "? "),
        **dict.fromkeys("；", "; "),
        **dict.fromkeys("：", ": "),
        **dict.fromkeys("（【〔《〈", " ("),
        **dict.fromkeys("）】〕》〉", ") "),
        **dict.fromkeys("‥⋯", "…"),
        **dict.fromkeys("•▪◦‣·・", ","),
        "⁄": "/",
        "∕": "/",
        "−": "-",
        "‰": " per mille",
        "№": "No. ",
        "℃": "°C",
        "℉": "°F",
        "µ": "μ",
        "\u2028": "\n",
        "\u2029": "\n\n",
    }
)
# A superscript or a vulgar fraction would run into the digit before it when it becomes a plain digit.
_RAISED = re.compile("([⁰¹²³⁴⁵⁶⁷⁸⁹⁻]+)")
_RAISED_DIGITS = str.maketrans("⁰¹²³⁴⁵⁶⁷⁸⁹⁻", "0123456789-")
_VULGAR = re.compile("([¼½¾⅐-⅞↉])")
_KEPT_SYMBOLS = frozenset("°©®™§¶€£¥₹₽₩₿¢$+<=>|~^`×÷±≈≠≤≥√∞→←∑∂%‰&@#*/\\_")
_BLANK_LINES = re.compile(r"[ \t]*\n[ \t]*\n\s*")
_TERMINAL = (".", "!", "?", "…", ":", ";", ",", "—")


def clean(text: str) -> str:
    """Plain text in one line a paragraph, each ending in punctuation."""
    text = _spaces(_ESCAPES.sub("", text).replace("\r\n", "\n").replace("\r", "\n"))
    if "<" in text:
        for pattern, replacement in _MARKUP:
            text = pattern.sub(replacement, text)
    if "&" in text:
        text = html.unescape(text)
    for pattern, replacement in _MARKDOWN:
        text = pattern.sub(replacement, text)
    text = _EMOTICON.sub(" ", text)
    text = _RAISED.sub(lambda m: "^" + m[1].translate(_RAISED_DIGITS), text)
    text = _VULGAR.sub(lambda m: " " + unicodedata.normalize("NFKC", m[1]) + " ", text)
    text = _spaces(_characters(unicodedata.normalize("NFC", text.translate(_SIGNS))))
    text = re.sub(r"\.(?:[ \t]?\.){2,}", "…", text)
    text = re.sub(r"[!?]{2,}", lambda m: "?" * ("?" in m[0]) + "!" * ("!" in m[0]), text)
    text = re.sub(r"(?<=[^\W\d_])\s*--+\s*|\s+--?\s+(?=[^\W\d_])|\s*—\s*|(?<=[^\W\d_])\s+–\s*", " — ", text)
    paragraphs = (" ".join(part.split()) for part in _BLANK_LINES.split(text))
    return "\n".join(part for part in map(_tidy, paragraphs) if part)


def _spaces(text: str) -> str:
    """Runs of spaces to one, runs of empty lines to one."""
    return re.sub(r"\n(?: ?\n)+", "\n\n", re.sub(r"[ \t\f\v]+", " ", text))


def _characters(text: str) -> str:
    """Without control characters, emoji and pictures, private and unassigned code points, and stacks of accents."""
    out = []
    marks = 0
    for char in text:
        if char.isascii():
            if char >= " " or char == "\n":
                out.append(char)
            elif char in "\t\v\f":
                out.append(" ")
            marks = 0
            continue
        category = unicodedata.category(char)
        marks = marks + 1 if category[0] == "M" else 0
        if category[0] == "Z":
            out.append(" ")
        elif category[0] in "LNP" or char in _KEPT_SYMBOLS or category == "Sm":
            out.append(unicodedata.normalize("NFKC", char) if _is_compatible(char) else char)
        elif category[0] == "M" and marks <= 3 and not 0xFE00 <= ord(char) <= 0xFE0F and char != "\u20e3":
            out.append(char)
        elif category[0] == "S":
            out.append(" ")  # an emoji between two words stands for a space
    return "".join(out)


def _is_compatible(char: str) -> bool:
    """Full-width letters, ligatures, mathematical alphabets and circled digits: letters in costume."""
    code = ord(char)
    return (
        0x1D400 <= code <= 0x1D7FF
        or 0xFB00 <= code <= 0xFB06
        or 0xFF01 <= code <= 0xFF5E
        or 0x2460 <= code <= 0x24FF
    )


def _tidy(paragraph: str) -> str:
    """One paragraph with the spaces of its punctuation put right and a stop at its end."""
    paragraph = re.sub(r"([,;:]) ?(?=[,;:.!?…])", "", paragraph)
    paragraph = re.sub(r" +(?=[,;:!?…](?!\w)|\.(?![\w.]))", "", paragraph)
    paragraph = re.sub(r"^[\s,;:—]+|(?<=[!?…])\s*[,;]", "", paragraph)
    if not any(char.isalnum() for char in paragraph):
        return ""
    return paragraph if paragraph.rstrip("\"')]* ").endswith(_TERMINAL) else paragraph + "."
