"""A prepared corpus of one person to what the parts of the speech models learn from.

    shards -> one person's clips -> a tenth kept apart
                               '--> texts, where there are any -> phones, timed by the aligner -> codes (a SpeechSet)

What is made is kept in the work folder and found there when the run goes on.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from ...codec import Codec
from ...codec.checkpoint import codes_hash
from ...data.corpus import Corpus, Item, open_corpus
from ...data.files import atomic_output
from ...errors import InputError
from ...tts.aligner import Aligner
from ..sets.align_corpus import align_corpus
from ..sets.extract_speech import Extractor
from ..sets.speech_set import Speech, SpeechSet, speech_set_bytes
from ..sets.utterances import read_utterances
from .people import Person, one_person

RATE = 24_000
SHORTEST, LONGEST = 30.0, 3600.0  # seconds of speech
PERSON = "person"  # the speaker, however many voices were found in them

Note = Callable[[str], None]


@dataclass(frozen=True)
class Material:
    """corpus: the clips, at 24 kHz.   person: which of them are used.   held: keys of those kept apart.   speech: what
    is said in them, None without texts.   seconds: of speech, in all.   whose: the speaker of all, whatever voices were
    found in them; None: of several people."""

    folder: Path
    corpus: Corpus
    person: Person
    held: frozenset[str]
    speech: SpeechSet | None
    seconds: float
    whose: str | None = PERSON

    def speaker(self) -> Tensor:
        """The mean speaker vector (E,) of the clips to learn from, of length 1."""
        vectors = [self.person.vectors[item.key] for item in self.person.items if item.key not in self.held]
        return F.normalize(torch.stack(vectors).mean(0), dim=0)

    def likeness(self) -> float:
        """How like each other the recordings are: the mean cosine of the clips to learn from with those kept apart."""
        vectors = self.person.vectors
        own = torch.stack([vectors[item.key] for item in self.person.items if item.key not in self.held])
        return float((own @ torch.stack([vectors[key] for key in sorted(self.held)]).mT).mean())

    def prompts(self, n: int) -> list[tuple[Item, str | None]]:
        """At most n clips that a voice can be made of, and their texts: of 3 to 12 s where there are such. First the
        one that is most like all the others, then others from all over the recordings, of 5 s and more if there are
        enough."""
        rate, vectors = self.corpus.sample_rate, self.person.vectors
        texts = {item.key: item.text for item in self.speech.items} if self.speech else {}
        free = [item for item in self.person.items if item.key not in self.held]
        free = [item for item in free if item.key in texts] or free
        long = [item for item in free if 3 * rate <= item.length <= 12 * rate] or free
        mean = torch.stack([vectors[item.key] for item in self.person.items]).mean(0)
        chosen = [max(long, key=lambda item: (float(vectors[item.key] @ mean), item.key))]
        rest = [item for item in long if item is not chosen[0]]
        longer = [item for item in rest if item.length >= 5 * rate]
        rest = longer if len(longer) >= n - 1 else rest
        n = min(n - 1, len(rest))
        chosen += [rest[(2 * i + 1) * len(rest) // (2 * n)] for i in range(n)]
        return [(item, texts.get(item.key)) for item in chosen]

    def train(self) -> list[int]:
        """Utterances of `speech` to learn from."""
        return (
            [i for i, item in enumerate(self.speech.items) if item.key not in self.held]
            if self.speech
            else []
        )

    def kept_apart(self) -> list[int]:
        return [i for i, item in enumerate(self.speech.items) if item.key in self.held] if self.speech else []


def gather(
    folder: Path, work: Path, codec: Codec, aligner: Aligner | None, share: float, given: bool, note: Note
) -> Material:
    """The clips of a prepared corpus.

    share: of the clips is kept apart.   given: the texts are the user's, so that all of them being wrong is an error.
    Raises InputError for less than half a minute of one person, or texts of other recordings, OutputError.
    """
    corpus = open_corpus(folder, RATE, work / "decoded")
    person = one_person(corpus, corpus.items, work / "vectors.safetensors")
    seconds = sum(item.length for item in person.items) / RATE
    if seconds < SHORTEST:
        raise InputError(
            f"{seconds:.0f} s of speech of one person are left, at least {SHORTEST:.0f} s are needed; record more, "
            "close to the microphone and without noise"
        )
    if person.others:
        away = sum(item.length for item in person.others) / RATE
        note(f"left out: {len(person.others)} clips, {away:.0f} s, in which somebody else speaks")
    items, total = [], 0.0
    for item in person.items:
        total += item.length / RATE
        if total > LONGEST:
            note(f"the first hour of {seconds / 3600:.1f} h is used")
            break
        items.append(item)
    person = replace(person, items=tuple(items))
    speech = None
    if aligner is not None:
        speech = _speech(
            folder, corpus, person.items, codec, aligner, work / "speech.safetensors", given, note
        )
    keys = [item.key for item in (speech.items if speech else person.items)]
    if len(keys) < 3:
        raise InputError(
            f"{len(keys)} clips can be used, at least 3 are needed; record more, in shorter sentences"
        )
    return Material(folder, corpus, person, _kept_apart(keys, share), speech, min(seconds, LONGEST))


def others(folder: Path, n: int, codec: Codec, aligner: Aligner, work: Path, seed: int) -> Material:
    """Utterances of other people, from a corpus with texts: those who are heard at least twice, one after the other.

    Raises InputError without any.
    """
    corpus = open_corpus(folder, RATE)
    by_speaker: dict[tuple[str, str], list[Item]] = {}
    for item in corpus.items:
        if item.split == "train" and item.speaker:
            by_speaker.setdefault((item.source, item.speaker), []).append(item)
    pairs = [items[:2] for _, items in sorted(by_speaker.items()) if len(items) > 1]
    order = np.random.default_rng(seed).permutation(len(pairs))
    chosen = tuple(item for i in order[: max(1, n // 2)] for item in pairs[i])
    path = work / "others.safetensors"
    speech = _speech(folder, corpus, chosen, codec, aligner, path, True, lambda line: None, whose=None)
    assert speech is not None
    return Material(folder, corpus, Person(chosen, (), {}), frozenset(), speech, 0.0, whose=None)


def _speech(
    folder: Path,
    corpus: Corpus,
    items: Sequence[Item],
    codec: Codec,
    aligner: Aligner,
    path: Path,
    given: bool,
    note: Note,
    whose: str | None = PERSON,
) -> SpeechSet | None:
    """The items that have texts that fit. None where none has a text, and none was given."""
    own = codes_hash(codec)[:16]
    if path.is_file():
        found = SpeechSet(path)
        if found.codec_hash == own and {item.key for item in found.items} <= {item.key for item in items}:
            return found
    mine = replace(corpus, items=tuple(items))
    try:
        utterances = read_utterances(folder, mine)
    except InputError:
        return None
    aligned, dropped = align_corpus(aligner, mine, utterances, (1.0,))
    n_dropped = dropped.unfit.total() + dropped.unlike.total()
    if n_dropped > len(aligned) and given:
        raise InputError(
            f"the texts are not those of the recordings: {n_dropped} of {len(utterances)} do not fit what is said; "
            "give exactly what is said, or leave --texts out"
        )
    if n_dropped:
        note(f"left out: {n_dropped} clips whose text is not what is said")
    if not aligned:
        return None
    if whose is not None:
        aligned = [replace(one, item=replace(one.item, speaker=whose)) for one in aligned]
    codes = Extractor(codec, mine).codes(aligned)
    speech = [
        Speech(one.item, one.phones, one.pointer, torch.from_numpy(each).long())
        for one, each in zip(aligned, codes, strict=True)
    ]
    about = codec.codebook_size, codec.name, own, float(codec.frame_rate)
    with atomic_output(path, force=True) as file:
        file.write(speech_set_bytes(speech, *about))
    return SpeechSet(path)


def _kept_apart(keys: Sequence[str], share: float) -> frozenset[str]:
    """Evenly over the recordings, at least one."""
    n = max(1, round(share * len(keys)))
    return frozenset(keys[(2 * i + 1) * len(keys) // (2 * n)] for i in range(n))
