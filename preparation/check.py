"""Is what was written also what was said? Given texts against what the recogniser hears.

A recording that became one piece keeps its text, and the character error rate decides. One that became several has its
text cut first: the characters heard are aligned to those given (Levenshtein), and the text is cut at the word nearest
to where each piece ends. Words that no piece holds (music over them, a passage left out) then stand in a piece that
disagrees, and it is dropped: better a gap than a wrong text.
"""

from __future__ import annotations

import bisect
import unicodedata
from collections.abc import Sequence

from .options import PrepareOptions
from .records import Transcription


def spoken(text: str, language: str | None) -> str:
    """Lower-case words as they are said, without punctuation: what two texts are compared by."""
    from ..tts.text.normalize import normalize

    said = normalize(text, language or "en")  # numbers and abbreviations of English in words
    kept = [c if c.isalnum() or unicodedata.category(c)[0] == "M" else "" if c in "'’" else " " for c in said]
    return " ".join(unicodedata.normalize("NFKC", "".join(kept)).casefold().split())


def character_error_rate(given: str, heard: str, language: str | None) -> float:
    """Characters to insert, delete or substitute, over those of the given text, blanks left out."""
    from rapidfuzz.distance import Levenshtein

    reference, hypothesis = (spoken(text, language).replace(" ", "") for text in (given, heard))
    return Levenshtein.distance(reference, hypothesis) / max(1, len(reference))


def cut_text(text: str, heard: Sequence[str], language: str | None) -> list[str]:
    """One text over the pieces it is said in, by what was heard in each; "" where nothing is left for one.

    The parts, joined with blanks, are the text again.
    """
    from rapidfuzz.distance import Levenshtein

    words = text.split()
    given, starts = "", []  # the text as it is said, and where in it each written word begins
    for word in words:
        starts.append(len(given))
        given += spoken(word, language).replace(" ", "")
    ends: list[int] = []
    said = ""
    for part in heard:
        said += spoken(part, language).replace(" ", "")
        ends.append(len(said))
    places = _aligned(Levenshtein.opcodes(said, given), ends[:-1])
    parts, first = [], 0
    for place in places:
        # The word that begins nearest to it.
        after = bisect.bisect_left(starts, place)
        if after == len(starts):
            nearest = after if place - starts[-1] >= len(given) - place else after - 1
        elif after and place - starts[after - 1] < starts[after] - place:
            nearest = after - 1
        else:
            nearest = after
        nearest = max(first, nearest)
        parts.append(" ".join(words[first:nearest]))
        first = nearest
    return [*parts, " ".join(words[first:])]


def unsure(heard: Transcription, options: PrepareOptions) -> str | None:
    """Why a transcript of ours is not to be trusted."""
    if not any(c.isalnum() for c in heard.text):
        return "nothing was heard"
    if heard.logprob < options.min_logprob:
        return f"mean log-probability {heard.logprob:.2f} is below {options.min_logprob:g}"
    if heard.compression > options.max_compression:
        return f"it repeats itself: compression ratio {heard.compression:.1f} is above {options.max_compression:g}"
    return None


def _aligned(opcodes, places: Sequence[int]) -> list[int]:
    """Places in the one text to places in the other, along an alignment."""
    found = []
    blocks = list(opcodes)
    for place in places:
        block = next((b for b in blocks if b.src_start <= place < b.src_end), None)
        if block is None:  # behind the last character
            found.append(blocks[-1].dest_end if blocks else 0)
            continue
        share = (place - block.src_start) / (block.src_end - block.src_start)
        found.append(block.dest_start + round(share * (block.dest_end - block.dest_start)))
    return found
