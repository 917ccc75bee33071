"""A model that says what a test tells it to, in place of a Whisper."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import pytest
import torch
from torch import Tensor

from myna.asr.vocabularies import vocabulary_for
from myna.asr.whisper import WhisperDims

ENGLISH, MULTILINGUAL = 51864, 51865


@dataclass(frozen=True)
class Answer:
    """What one window's decoding is to give. no_speech: its probability.   doubts: text tokens as likely as the one that
    is meant, itself included: the log-probability of each token is that of 1 in so many."""

    tokens: Sequence[int]
    no_speech: float = 0.0
    doubts: int = 1


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
        for i, (answer, read) in enumerate(state.rows):
            read = (*read, *tokens[i, : None if lengths is None else int(lengths[i])].tolist())
            sot = len(read) - 1 - read[::-1].index(self.eot + 1)
            begins = sot + 1
            while begins < len(read) and self.eot < read[begins] < self.n_vocab - 1501:
                begins += 1
            n = len(read) - begins
            if n == 0:
                self.prompts.append(read)
            token = answer.tokens[n] if n < len(answer.tokens) else self.eot
            logits[i, token] = 30.0
            logits[i, 1000 : 1000 + answer.doubts - 1] = 29.999
            if n == 0:
                logits[i, self.no_speech] = 30.0 + torch.logit(torch.tensor(answer.no_speech)).item()
            rows.append((answer, read))
        return logits, State(rows)


@pytest.fixture
def scripted():
    """Makes the model: scripted([Answer, ...], n_vocab=51864)."""
    return ScriptedWhisper


@pytest.fixture
def answer():
    return Answer
