"""Errors of a recogniser: words and characters of what was said against what was heard, both normalised."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Errors:
    """Counts of one clip. characters: with the spaces between words, unless letters are words."""

    n_words: int
    substitutions: int
    deletions: int
    insertions: int
    n_characters: int
    character_errors: int

    @property
    def word_errors(self) -> int:
        return self.substitutions + self.deletions + self.insertions

    @property
    def wer(self) -> float:
        """Word error rate; above 1 where more was heard than said."""
        return self.word_errors / self.n_words


def compare(
    said: str, heard: str, normalize: Callable[[str], str], letters_are_words: bool = False
) -> Errors | None:
    """What was heard against what was said; None where nothing is left of what was said once it is normalised.

    letters_are_words: what `normalize` makes of them; the spaces that it puts between them are no characters.
    """
    from rapidfuzz.distance import Levenshtein

    reference, hypothesis = (" ".join(normalize(text).split()) for text in (said, heard))
    if not reference:
        return None
    edits = [edit.tag for edit in Levenshtein.editops(reference.split(), hypothesis.split())]
    n_words = len(reference.split())
    if letters_are_words:
        reference, hypothesis = reference.replace(" ", ""), hypothesis.replace(" ", "")
    return Errors(
        n_words=n_words,
        substitutions=edits.count("replace"),
        deletions=edits.count("delete"),
        insertions=edits.count("insert"),
        n_characters=len(reference),
        character_errors=Levenshtein.distance(reference, hypothesis),
    )
