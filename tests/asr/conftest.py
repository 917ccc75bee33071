"""A model that says what a test tells it to, in place of a Whisper."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import pytest
import torch
from myna.asr.model.tokenizer import Tokenizer
from myna.asr.model.whisper import WhisperDims
from myna.asr.vocabularies import vocabulary_for
from torch import Tensor

ENGLISH, MULTILINGUAL = 51864, 51865


@dataclass(frozen=True)
class Answer:
    """What one window's decoding is to give.

    no_speech: its probability.   doubts: text tokens as likely as the one that is meant, itself included, so
    that its probability is 1 in so many.   n_tail: tokens of the prompt after the start of the transcript.
    """

    tokens: Sequence[int]
    no_speech: float = 0.0
    doubts: int = 1
    n_tail: int | None = None


@dataclass(frozen=True)
class State:
    rows: list[tuple[Answer, tuple[int, ...]]]  # of each row: its answer, and the tokens that it has read

    def select(self, rows: Tensor) -> State:
        return State([self.rows[i] for i in rows.tolist()])

    keep = select

    def spread(self, n_beams: int) -> State:
        return State([row for row in self.rows for _ in range(n_beams)])


@dataclass
class ScriptedWhisper:
    """Gives the answers in turn, one for each window of each decoding.

    prompts: what each of these was given up to its first answer, prompt and prefix included.
    """

    answers: list[Answer]
    n_vocab: int = ENGLISH
    language: str = "en"
    name: str = "scripted"
    prompts: list[tuple[int, ...]] = field(default_factory=list)
    windows: list[Tensor] = field(default_factory=list)
    device = torch.device("cpu")
    draft = None

    def __post_init__(self):
        self.dims = replace(WhisperDims(), n_vocab=self.n_vocab)
        self.vocabulary = vocabulary_for(self.n_vocab)
        self.eot = len(self.vocabulary)
        self.no_speech = self.n_vocab - 1501 - 2
        self.given = 0

    def __hash__(self):
        return id(self)

    def encode(self, mel: Tensor) -> Tensor:
        self.windows.extend(mel)
        return mel[:, :1, ::2].mT

    def init_state(self, features: Tensor, n_beams: int = 1) -> State:
        if self.given >= len(self.answers):
            raise AssertionError(f"decoded more often than the {len(self.answers)} times that were expected")
        answers = self.answers[self.given : self.given + len(features)]
        self.given += len(features)
        return State([(answer, ()) for answer in answers])

    def step(self, tokens: Tensor, state: State, lengths: Tensor | None = None) -> tuple[Tensor, State]:
        logits = torch.full((len(tokens), self.n_vocab), -20.0)
        rows = []
        for i, (answer, before) in enumerate(state.rows):
            read = (*before, *tokens[i, : None if lengths is None else int(lengths[i])].tolist())
            n_tail = answer.n_tail if answer.n_tail is not None else 2 * (self.n_vocab > ENGLISH)
            begins = len(read) - read[::-1].index(self.eot + 1) + n_tail
            n = max(0, len(read) - begins)
            if before in self.prompts and n == 0:
                self.prompts[-1 - self.prompts[::-1].index(before)] = read
            elif not before:
                self.prompts.append(read)
            logits[i, 1000 : 1000 + answer.doubts - 1] = 29.999
            logits[i, answer.tokens[n] if n < len(answer.tokens) else self.eot] = 30.0
            odds = torch.tensor(answer.no_speech).logit()
            logits[i, self.no_speech] = odds + logits[i].logsumexp(0) if n == 0 else -20.0
            rows.append((answer, read))
        return logits, State(rows)


@pytest.fixture
def scripted():
    """Makes the model: scripted([Answer, ...], n_vocab=51864)."""
    return ScriptedWhisper


@pytest.fixture
def answer():
    return Answer


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    """Of the models of English alone."""
    return Tokenizer(vocabulary_for(ENGLISH) or (), ENGLISH)
