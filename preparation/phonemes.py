"""The phonemes of a piece's text: espeak-ng's IPA, as the speech models read it."""

from __future__ import annotations

from ..errors import MynaError


def phonemes(text: str, language: str | None) -> str | None:
    """None where espeak-ng does not know the language, or there is nothing to say in the text."""
    from ..tts.text.normalize import normalize
    from ..tts.text.phonemes import phonemize

    try:
        said = " ".join(normalize(text, language or "en-us").split())
        return phonemize(said, language or "en-us").ipa()
    except MynaError:
        return None
