"""Whisper's tokens: GPT-2's byte-pair encoding for text, then the special tokens in a fixed order (Radford et al. 2019,
section 2.2; Radford et al. 2022, section 2.3).

    ids  0 ... eot-1   text, by the rank of their merges: the vocabulary alone says how to merge
         eot           end of text, then: start of transcript, the languages, translate, transcribe, start of LM, start
                       of previous text, no speech, no timestamps
         timestamps    <|0.00|> ... <|30.00|>, 20 ms apart, up to the last id
"""

from __future__ import annotations

import heapq
import re
import string
import unicodedata
from collections.abc import Iterator, Sequence
from functools import cached_property, lru_cache
from pathlib import Path

from ...errors import InputError, UsageError
from .languages import LANGUAGES, find_language

N_TIMESTAMPS = 1501  # 0 to 30 s
SECONDS_PER_TIMESTAMP = 0.02
TASKS = ("transcribe", "translate")

_N_SPECIAL = 8  # those that are neither languages nor timestamps
_NO_SPACES = {"zh", "ja", "th", "lo", "my", "yue"}  # languages whose words are not parted by spaces
_REPLACEMENT = "\ufffd"  # what stands for bytes that are no whole character

# What is said to be no speech: brackets and marks of transcribers, and the signs of music. A hyphen or an apostrophe is
# one only at the start of a word.
_MARKS = [*'"#()*+/:;<=>@[\\]^_`{|}~「」『』', "<<", ">>", "<<<", ">>>", "--", "---", "-(", "-[", "('", '("']
_MARKS += ["((", "))", "(((", ")))", "[[", "]]", "{{", "}}", "♪♪", "♪♪♪"]
_MUSIC = "♩♪♫♬♭♮♯"

# GPT-2 parts text into runs of one kind before it merges. The kinds are written as letters (see `_kind`); a space
# before a run belongs to it, also the last of several.
_RUN = re.compile(r" ?L+| ?N+| ?O+|[ s]+(?![LNO])|[ s]+")
_CONTRACTION = re.compile(r"'(?:s|t|re|ve|m|ll|d)")
# White space as Unicode defines it; Python's own also counts the separators U+001C to U+001F.
_SPACES = frozenset("\t\n\v\f\r \x85\xa0\u1680\u2028\u2029\u202f\u205f\u3000") | {
    chr(code) for code in range(0x2000, 0x200B)
}


def check_vocabulary(n_tokens: int, n_vocab: int, path: str | Path = "this model") -> int:
    """How many languages a model of n_vocab ids has, n_tokens of them text. Raises InputError if that cannot be."""
    n_languages = n_vocab - n_tokens - _N_SPECIAL - N_TIMESTAMPS
    if not 0 <= n_languages <= len(LANGUAGES):
        raise InputError(
            f"{path}: {n_vocab} ids do not go with a vocabulary of {n_tokens} tokens; use those of one model"
        )
    return n_languages


class Tokenizer:
    """Text to ids and back, for one model, language and task.

    vocabulary: the bytes of every text token by id, a model's `vocabulary`.   n_vocab: ids in all, special ones too.
    language: of the speech, by code or name; task: "transcribe" or "translate". A multilingual model takes English and
    "transcribe" where none is given; one of English alone has neither in its prompt.

    Raises UsageError for a language or task that the model does not know, InputError for no vocabulary or one that does
    not fit.
    """

    def __init__(
        self,
        vocabulary: Sequence[bytes] | None,
        n_vocab: int,
        language: str | None = None,
        task: str | None = None,
    ):
        if vocabulary is None:
            raise InputError("this model has no vocabulary; put its vocabulary.json beside its weights")
        self.eot = len(vocabulary)
        self.n_vocab = n_vocab
        self.n_languages = check_vocabulary(self.eot, n_vocab)
        self._bpe = _encoding(tuple(vocabulary))
        self.is_multilingual = n_vocab >= 51865
        if task is not None and task not in TASKS:
            raise UsageError(f"no task {task!r}; choose {' or '.join(TASKS)}")
        self.language = find_language(language or "en") if self.is_multilingual else None
        self.task = (task or "transcribe") if self.is_multilingual else None
        if self.language is not None:
            self.to_language_token(self.language)

    # The special tokens, in the order of their ids.

    @property
    def sot(self) -> int:
        return self.eot + 1

    @cached_property
    def all_language_codes(self) -> tuple[str, ...]:
        return tuple(LANGUAGES)[: self.n_languages]

    @cached_property
    def all_language_tokens(self) -> tuple[int, ...]:
        return tuple(range(self.sot + 1, self.translate))

    @property
    def translate(self) -> int:
        return self.sot + 1 + self.n_languages

    @property
    def transcribe(self) -> int:
        return self.translate + 1

    @property
    def sot_lm(self) -> int:
        return self.translate + 2

    @property
    def sot_prev(self) -> int:
        return self.translate + 3

    @property
    def no_speech(self) -> int:
        return self.translate + 4

    @property
    def no_timestamps(self) -> int:
        return self.translate + 5

    @property
    def timestamp_begin(self) -> int:
        return self.translate + 6

    @property
    def language_token(self) -> int:
        """The token of the speech's language. Raises ValueError for a model of English alone."""
        if self.language is None:
            raise ValueError("a model of English alone has no token for its language")
        return self.to_language_token(self.language)

    def to_language_token(self, code: str) -> int:
        """Raises UsageError for a language that the model does not know."""
        if code not in self.all_language_codes:
            name = f"{LANGUAGES[code]} ({code})" if code in LANGUAGES else repr(code)
            raise UsageError(
                f"this model knows {self.n_languages} languages, not {name}; large-v3 knows most"
            )
        return self.sot + 1 + self.all_language_codes.index(code)

    @cached_property
    def sot_sequence(self) -> tuple[int, ...]:
        """What a transcript starts with: the start, and in a multilingual model language and task."""
        if self.language is None:
            return (self.sot,)
        task = self.translate if self.task == "translate" else self.transcribe
        return (self.sot, self.language_token, task)

    @cached_property
    def sot_sequence_including_notimestamps(self) -> tuple[int, ...]:
        return (*self.sot_sequence, self.no_timestamps)

    @cached_property
    def special_tokens(self) -> dict[str, int]:
        """The text of every special token, to its id."""
        names = ["endoftext", "startoftranscript", *self.all_language_codes, "translate", "transcribe"]
        names += ["startoflm", "startofprev", "nospeech", "notimestamps"]
        names += [f"{i * SECONDS_PER_TIMESTAMP:.2f}" for i in range(N_TIMESTAMPS)]
        return {f"<|{name}|>": self.eot + i for i, name in enumerate(names)}

    @cached_property
    def non_speech_tokens(self) -> tuple[int, ...]:
        """Tokens that write what nobody says: ♪♪♪, (APPLAUSE), [ANNA]. Sorted; a mark of several tokens stays, but for
        the signs of music, whose first token no letter shares."""
        found = {self.encode(" -")[0], self.encode(" '")[0]}
        for mark in [*_MARKS, *_MUSIC]:
            for tokens in (self.encode(mark), self.encode(" " + mark)):
                if len(tokens) == 1 or mark in _MUSIC:
                    found.add(tokens[0])
        return tuple(sorted(found))

    # Text.

    def encode(self, text: str) -> list[int]:
        """The ids of a text. What looks like a special token is text like any other."""
        return self._bpe.encode(text)

    def decode(self, tokens: Sequence[int]) -> str:
        """The text of the ids; timestamps are dropped, other special tokens written out. Bytes that are no whole
        character become U+FFFD."""
        return self.decode_with_timestamps([token for token in tokens if token < self.timestamp_begin])

    def decode_with_timestamps(self, tokens: Sequence[int]) -> str:
        """As `decode`, timestamps written as <|1.08|>."""
        return b"".join(map(self.bytes_of, tokens)).decode("utf-8", "replace")

    def bytes_of(self, token: int) -> bytes:
        """The bytes that an id stands for, perhaps a part of a character. Raises ValueError for an id that is none."""
        if 0 <= token < self.eot:
            return self._bpe.vocabulary[token]
        if not self.eot <= token < self.n_vocab:
            raise ValueError(f"no token {token} in a vocabulary of {self.n_vocab}")
        return self._special_names[token - self.eot]

    @cached_property
    def _special_names(self) -> list[bytes]:
        return [name.encode() for name in self.special_tokens]

    # Words.

    def split_to_word_tokens(self, tokens: Sequence[int]) -> tuple[list[str], list[list[int]]]:
        """The words that the ids write, and the ids of each: parted before spaces and punctuation, in languages without
        spaces wherever a character is whole. A special token is a word of its own."""
        pieces = self._whole_characters(tokens)
        if self.language in _NO_SPACES:
            return [text for text, _ in pieces], [ids for _, ids in pieces]
        words: list[str] = []
        word_tokens: list[list[int]] = []
        for text, ids in pieces:
            # A string of punctuation in its ASCII order, the empty one included, counts as one: the original's rule.
            begins = ids[0] >= self.eot or text.startswith(" ") or text.strip() in string.punctuation
            if begins or not words:
                words.append(text)
                word_tokens.append(ids)
            else:
                words[-1] += text
                word_tokens[-1].extend(ids)
        return words, word_tokens

    def _whole_characters(self, tokens: Sequence[int]) -> list[tuple[str, list[int]]]:
        """The smallest groups of ids whose bytes are whole characters, with their text. Ids at the end that complete
        none are left out."""
        whole = self.decode_with_timestamps(tokens)
        pieces: list[tuple[str, list[int]]] = []
        group: list[int] = []
        at = 0
        for token in tokens:
            group.append(token)
            text = self.decode_with_timestamps(group)
            broken = text.find(_REPLACEMENT)
            # U+FFFD that also stands there in the whole text will not become anything better.
            if broken < 0 or whole[at + broken : at + broken + 1] == _REPLACEMENT:
                pieces.append((text, group))
                group = []
                at += len(text)
        return pieces


class _BytePairs:
    """Byte-pair encoding over a vocabulary whose ids are the ranks of its merges."""

    def __init__(self, vocabulary: tuple[bytes, ...]):
        self.vocabulary = vocabulary
        self.ranks = {token: rank for rank, token in enumerate(vocabulary) if token}

    def encode(self, text: str) -> list[int]:
        # A lone surrogate is no character and has no bytes; a pair of them is one.
        text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        tokens: list[int] = []
        for piece in _pieces(text):
            data = piece.encode()
            token = self.ranks.get(data)
            tokens.extend(self._merge(data) if token is None else (token,))
        return tokens

    def _merge(self, piece: bytes) -> list[int]:
        """Join the neighbours whose union has the lowest rank, the leftmost first, until none has a rank."""
        ranks = self.ranks
        # Parts are known by where they begin; `end` and `before` link them. The heap keeps pairs that have since become
        # others: they are told by where they end.
        end = list(range(1, len(piece) + 1))
        before = list(range(-1, len(piece) - 1))
        alive = [True] * len(piece)
        heap: list[tuple[int, int, int]] = []

        def offer(left: int) -> None:
            right = end[left]
            if right < len(piece):
                rank = ranks.get(piece[left : end[right]])
                if rank is not None:
                    heapq.heappush(heap, (rank, left, end[right]))

        for start in range(len(piece) - 1):
            offer(start)
        while heap:
            _, left, stop = heapq.heappop(heap)
            right = end[left]
            if not alive[left] or right >= len(piece) or end[right] != stop:
                continue
            end[left], alive[right] = stop, False
            if stop < len(piece):
                before[stop] = left
            offer(left)
            if before[left] >= 0:
                offer(before[left])
        try:
            tokens, at = [], 0
            while at < len(piece):
                tokens.append(ranks[piece[at : end[at]]])
                at = end[at]
            return tokens
        except KeyError as error:
            raise UsageError(f"the vocabulary has no token for the byte {error.args[0]!r}") from None


def _pieces(text: str) -> Iterator[str]:
    kinds = "".join(map(_kind, text))
    at = 0
    while at < len(text):
        found = _CONTRACTION.match(text, at) or _RUN.match(kinds, at)
        assert found is not None  # every kind begins one of the runs
        yield text[at : found.end()]
        at = found.end()


@lru_cache(maxsize=4096)
def _kind(character: str) -> str:
    """L letter, N number, " " the space, s another white space, O any other."""
    if character in _SPACES:
        return " " if character == " " else "s"
    category = unicodedata.category(character)[0]
    return category if category in "LN" else "O"


@lru_cache(maxsize=8)
def _encoding(vocabulary: tuple[bytes, ...]) -> _BytePairs:
    return _BytePairs(vocabulary)
