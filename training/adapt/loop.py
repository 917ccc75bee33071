"""The loop in which a part learns: step, judge, keep the best, stop when nothing is gained; resumed exactly.

What is on disk is the adapter, the optimizer and the step; batches are functions of the step.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from ...errors import InputError
from ...layers.lora import LoRAWeights, load_weights, weights_of
from ..engine.checkpoint import load_state, save_state
from ..engine.interrupt import Interrupt
from ..engine.schedule import set_rate
from ..engine.trainer import seed_torch
from .judge import Measured
from .parts import Part
from .recipe import PartSection

_SAVE_SECONDS = 30.0


@dataclass(frozen=True)
class Progress:
    """part: that learns.   step, loss.   before, best: how the voice was judged.   minutes_left: at most."""

    part: str
    step: int
    loss: float
    before: Measured
    best: Measured
    minutes_left: float


@dataclass(frozen=True)
class Learned:
    """before, best: as it was judged first and at its best.   weights: at its best, None where nothing was gained.
    steps, minutes: taken in all."""

    before: Measured
    best: Measured
    weights: LoRAWeights | None
    steps: int
    minutes: float


def learn(
    part: Part,
    section: PartSection,
    measure: Callable[[], Measured],
    path: Path,
    identity: str,
    seed: int,
    minutes: float,
    patience: int,
    words_slack: float,
    interrupt: Interrupt,
    report: Callable[[Progress], None],
) -> Learned:
    """Let a part learn for so many minutes at most, or go on with what is in `path`.

    measure: judges it as it is.   identity: stands for all that the run is; a state of another is begun anew.
    words_slack: by how much words may become worse.   Raises OutputError where the state cannot be saved.
    """
    parameters = [p for layer in part.layers.values() for p in (layer.down, layer.up)]
    optimizer = torch.optim.AdamW(parameters, lr=section.lr, betas=(0.9, 0.98), weight_decay=0.0)
    state = _State(path, identity)
    if not state.resume(part, optimizer):
        state.before = state.best = measure()
    begun, saved = time.monotonic() - 60 * state.minutes, time.monotonic()

    def done() -> bool:
        enough = section.max_steps is not None and state.step >= section.max_steps
        return state.finished or enough or state.minutes >= minutes

    while not done() and not interrupt.requested:
        seed_torch(seed, state.step, 0)
        loss = part.loss(state.step)
        optimizer.zero_grad()
        loss.backward()
        norm = nn.utils.clip_grad_norm_(parameters, section.clip)
        if bool(torch.isfinite(norm)):
            set_rate(optimizer, section.lr * min(1.0, (state.step + 1) / max(1, section.warmup_steps)))
            optimizer.step()
        state.step += 1
        state.minutes = (time.monotonic() - begun) / 60
        if state.step % section.measure_every == 0:
            state.judge(part, measure(), patience, words_slack)
        report(
            Progress(
                part.name, state.step, float(loss.detach()), state.before, state.best, minutes - state.minutes
            )
        )
        if state.step % section.measure_every == 0 or time.monotonic() - saved > _SAVE_SECONDS:
            state.save(part, optimizer)
            saved = time.monotonic()
    if not interrupt.requested and state.step % section.measure_every and not state.finished:
        state.judge(part, measure(), patience, words_slack)
    state.save(part, optimizer)
    return Learned(state.before, state.best, state.weights, state.step, state.minutes)


class _State:
    """What learning has changed."""

    before: Measured
    best: Measured

    def __init__(self, path: Path, identity: str):
        self.path, self.identity = path, identity
        self.step, self.minutes, self.waited, self.finished = 0, 0.0, 0, False
        self.weights: LoRAWeights | None = None

    def judge(self, part: Part, now: Measured, patience: int, words_slack: float) -> None:
        """Keep what is best by likeness among what says the words."""
        if now.likeness > self.best.likeness and now.words >= self.before.words - words_slack:
            self.best, self.weights, self.waited = now, weights_of(part.layers), 0
        else:
            self.waited += 1
            self.finished |= self.waited >= patience

    def save(self, part: Part, optimizer: torch.optim.Optimizer) -> None:
        facts = {name: getattr(self, name) for name in ("step", "minutes", "waited", "finished", "identity")}
        judged = {
            name: (getattr(self, name).likeness, getattr(self, name).words) for name in ("before", "best")
        }
        best = None if self.weights is None else _packed(self.weights)
        save_state(
            self.path,
            {
                **facts,
                **judged,
                "weights": best,
                "now": _packed(weights_of(part.layers)),
                "optimizer": optimizer.state_dict(),
            },
        )

    def resume(self, part: Part, optimizer: torch.optim.Optimizer) -> bool:
        """Take up the state that is there; False for none, or that of another run."""
        if not self.path.is_file():
            return False
        try:
            state = load_state(self.path, torch.device("cpu"))
            if state["identity"] != self.identity:
                return False
            load_weights(part.layers, _unpacked(state["now"]))
            optimizer.load_state_dict(state["optimizer"])
            for name in ("step", "minutes", "waited", "finished"):
                setattr(self, name, state[name])
            self.before, self.best = Measured(*state["before"]), Measured(*state["best"])
            self.weights = None if state["weights"] is None else _unpacked(state["weights"])
        except (InputError, KeyError, ValueError, TypeError):  # damaged: begun anew
            self.step, self.minutes, self.waited, self.finished, self.weights = 0, 0.0, 0, False, None
            return False
        return True


def _packed(weights: LoRAWeights) -> dict[str, Any]:
    return {"down": dict(weights.down), "up": dict(weights.up), "scale": weights.scale}


def _unpacked(packed: dict[str, Any]) -> LoRAWeights:
    return LoRAWeights(packed["down"], packed["up"], packed["scale"])
