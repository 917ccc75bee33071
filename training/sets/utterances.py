"""The utterances of a corpus that have a text, as phones.

The corpus's cache holds audio only; texts, phonemes and their times come from the .json files in its shards.
"""

from __future__ import annotations

import json
import tarfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from ...data.corpus import Corpus, Item
from ...errors import InputError
from ...tts.text.normalize import normalize
from ...tts.text.phonemes import phonemize
from ...tts.text.phones import Phones


@dataclass(frozen=True)
class Utterance:
    """times: (P, 2) start and end of each phone in seconds, None where the corpus has none.   exact: they are."""

    item: Item
    text: str
    phones: Phones
    times: Tensor | None
    exact: bool


def read_utterances(
    folder: str | Path,
    corpus: Corpus,
    language: str = "en",
    progress: Callable[[int, int], None] | None = None,
) -> list[Utterance]:
    """Those items of `corpus` (of the shards in `folder`) that have a text in the language, in its order.

    progress: called with (items done, items in all). Raises InputError where a shard cannot be read, or nothing
    has a text.
    """
    described = _descriptions(Path(folder))
    capitals = {  # sources that write everything in them: left so, words would be spelled out
        source
        for source in corpus.sources
        if all(
            str(described[item.key].get("text") or "A").isupper()
            for item in corpus.items
            if item.source == source and item.key in described
        )
    }
    found = []
    for done, item in enumerate(corpus.items):
        meta = described.get(item.key, {})
        if meta.get("text") and str(meta.get("language", language)).startswith(language):
            text = str(meta["text"])
            utterance = _utterance(item, text.lower() if item.source in capitals else text, meta)
            if utterance is not None:
                found.append(utterance)
        if progress:
            progress(done + 1, len(corpus.items))
    if not found:
        raise InputError(f"no recording in {folder} has a text in language {language!r} beside it")
    return found


def _utterance(item: Item, text: str, meta: dict[str, Any]) -> Utterance | None:
    """None where the text holds nothing that can be said."""
    if meta.get("phones"):
        phones, times = Phones.from_timed(meta["phones"])
        return Utterance(item, text, phones, times, meta.get("phone_times") == "exact")
    try:
        ipa, language = meta.get("phonemes"), _language(meta)  # what was said, by the voice that said it
        phones = Phones.from_ipa(ipa) if ipa else phonemize(normalize(text, language), language)
    except InputError:
        return None
    return Utterance(item, text, phones, None, False) if phones.n_sounds else None


def _language(meta: dict[str, Any]) -> str:
    language = str(meta.get("language", "en"))
    return "en-us" if language == "en" else language


def _descriptions(folder: Path) -> dict[str, dict[str, Any]]:
    """Every .json of the shards, by key. Raises InputError for a shard that cannot be read."""
    found = {}
    for shard in sorted(folder.glob("*.tar")):
        try:
            with tarfile.open(shard) as tar:
                for member in tar:
                    file = tar.extractfile(member) if member.name.endswith(".json") else None
                    if file:
                        found[Path(member.name).name.removesuffix(".json")] = json.loads(file.read())
        except (OSError, tarfile.TarError, ValueError) as error:
            raise InputError(f"{shard} cannot be read ({error}); copy it again, or remove it") from error
    return found
