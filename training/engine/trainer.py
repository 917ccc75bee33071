"""The loop that every trainer shares: steps, reports, validation, the state on disk, and an exact resume.

A trainer says what a batch, a step and a validation are; when each happens is decided here, the same way in all
processes. Batches and random numbers are functions of the step, so a run that is killed goes on exactly.
"""

from __future__ import annotations

import contextlib
import copy
import hashlib
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from ...data.corpus import Prefetch
from ...errors import InputError, MynaError, UsageError
from . import distributed, sharded
from .checkpoint import load_module_state, load_state, module_state, save_state
from .distributed import World
from .ema import EMA
from .interrupt import Interrupt
from .logging import RunLog
from .optimizer import averaged, learning
from .recipe import Recipe, load_recipe
from .same_run import changes, describe, may_change
from .schedule import cools, rate_factor, set_rate
from .trainer_recipe import TrainerRecipe, ValidationSection

SHIPPED_WEIGHTS = Path(__file__).resolve().parents[2] / "weights"

R = TypeVar("R", bound=TrainerRecipe)
B = TypeVar("B")


@dataclass(frozen=True)
class TrainingSummary:
    """How a run ended. best: the held-out value that chose best.safetensors, None if nothing was validated."""

    steps: int
    minutes: float
    interrupted: bool
    best: float | None
    output: Path


class Trainer(ABC, Generic[R, B]):
    """One run. Its state is what `_save` writes; everything else follows from the recipe and the step.

    A subclass's __init__ calls this one's, sets `model` (what is averaged, judged and exported), its modules and
    optimizers by name, then `_resume`s, opens its data, and calls `_begin`.
    """

    name = "model"  # of `model` among the modules
    higher_is_better: tuple[str, ...] = ()  # held-out values of which more is better
    shards = False  # whether the model can be trained in shards

    def __init__(self, recipe: R, world: World, quiet: bool = False):
        self.recipe, self.world, self.quiet = recipe, world, quiet
        if not self.shards and (recipe.parallel == "fsdp" or recipe.checkpoint_activations):
            raise UsageError(
                f"{self.name} is not trained in shards: set parallel: ddp and checkpoint_activations: false"
            )
        self._template: nn.Module | None = None
        if recipe.threads:
            torch.set_num_threads(recipe.threads)
        seed_torch(recipe.seed, 0, 0)
        self.step, self.minutes = 0, 0.0
        self.best: float | None = None
        self._notes: list[str] = []
        self._best_by_another = False
        self.state_path = recipe.output / "state.pt"
        self.stable_path = recipe.output / "stable.pt"  # before the rate went down (decay "wsd")
        self.modules: dict[str, nn.Module] = {}
        self.optimizers: dict[str, torch.optim.Optimizer] = {}

    def _own(self, model: nn.Module, optimizer: torch.optim.Optimizer) -> None:
        """Take the model that this run is about, on its device, and what moves its weights."""
        self.model, self.optimizer = model, learning(optimizer)
        self.modules[self.name], self.optimizers[self.name] = model, optimizer
        self.ema = EMA(model, self.recipe.ema)

    def _sharded(self, model: nn.Module) -> nn.Module:
        """The model on its device as the recipe wants it, before its optimizer is made."""
        if self.recipe.checkpoint_activations:
            sharded.checkpoint_activations(model)
        if self.recipe.parallel == "fsdp" and self.world.size > 1:
            self._template = copy.deepcopy(model).cpu()
            return sharded.shard(model, self.world, self.recipe.precision == "bf16")
        return model

    def _begin(self, described: str) -> None:
        """Open the log and say what is trained."""
        recipe, world = self.recipe, self.world
        self.log = RunLog(recipe.output, recipe.max_steps, self.step, self.quiet, world.is_main)
        went_on = f"continuing at step {self.step}" if self.step else "starting"
        self.log.say(
            f"{went_on}: {described}, {millions(self.model)} parameters, {world.size} x {world.device}"
        )
        for note in self._notes:
            self.log.say(note)

    # What a trainer is

    @abstractmethod
    def batch(self, step: int) -> B:
        """What this process sees in a step; a function of the step, called ahead by a thread."""

    @abstractmethod
    def train_step(self, batch: B) -> dict[str, Tensor]:
        """One step; the losses by name."""

    @property
    @abstractmethod
    def validation(self) -> ValidationSection | None:
        """When to measure; None: never."""

    @abstractmethod
    def measure(self) -> dict[str, float]:
        """Held-out values of `model`, which holds the averaged weights and is in evaluation mode."""

    @property
    @abstractmethod
    def best_by(self) -> str:
        """The value of `measure` that chooses best.safetensors."""

    @abstractmethod
    def export(self, model: nn.Module, path: Path, notes: dict[str, str]) -> None:
        """Write a copy of the model, in the precision to ship, as a checkpoint of its own."""

    def fit_to_be_best(self) -> bool:
        """Whether the model can be used as it is at this step."""
        return True

    def shown(self, values: dict[str, float]) -> dict[str, float]:
        """Those of the held-out values that go to the terminal."""
        return values

    def extra_state(self) -> dict[str, Any]:
        """What else learning has changed."""
        return {}

    def load_extra_state(self, state: dict[str, Any]) -> None:
        """Take up what `extra_state` gave; `state` is the whole state of the run."""

    # The loop

    def run(self, interrupt: Interrupt) -> TrainingSummary:
        recipe, validation = self.recipe, self.validation
        batches = Prefetch(self.batch)
        begun, before = time.monotonic(), self.minutes
        saved = validated = self.minutes
        interrupted, cooled = False, self._cools() and self.stable_path.exists()
        try:
            while not self._done():
                if self._cools() and not cooled:
                    self._save(self.stable_path)
                    cooled = True
                losses = self.train_step(batches[self.step])
                self.step += 1
                self.minutes = before + (time.monotonic() - begun) / 60
                if self.step % recipe.log_every == 0:
                    self._report(losses)
                if validation and self._due(validation.every_steps, validation.every_minutes, validated):
                    self.validate()
                    validated = self.minutes
                if self._due(recipe.save_every_steps, recipe.save_every_minutes, saved):
                    self._save()
                    saved = self.minutes
                if distributed.any_true(interrupt.requested):
                    interrupted = True
                    break
            if not interrupted and validated != self.minutes:
                self.validate()
            self._save()
        finally:
            batches.close()
            self.log.close()
        if interrupted:
            self.log.say(f"stopped at step {self.step}, saved; the same command continues")
        return TrainingSummary(self.step, self.minutes, interrupted, self.best, recipe.output)

    def validate(self) -> dict[str, float]:
        """Measure the averaged weights on what is held out; keep the best and the last."""
        if not self.world.is_main and self._template is None:  # a model in shards is judged by all together
            return {}
        if self.validation is None:  # nothing to be judged by: the last weights are kept all the same
            with self._shipped(), torch.no_grad():
                self._export("last")
            return {}
        with self._shipped(), torch.no_grad():
            self.model.eval()
            values = self.measure()
            self.log.scalars(self.step, "held-out", values)
            if self.fit_to_be_best():
                self._keep_if_best(values)
            self._export("last")
        listed = "  ".join(f"{name} {value:.3f}" for name, value in self.shown(values).items())
        self.log.say(f"step {self.step} held out: {listed}")
        return values

    def _shipped(self) -> contextlib.AbstractContextManager[None]:
        """Inside, the model has the weights that are judged and shipped: the moving average, or that of the optimizer
        where it keeps one itself."""
        own = self.recipe.optimizer.kind == "schedule-free"
        return averaged(self.optimizer) if own else self.ema.swapped_in(self.model)

    def autocast(self) -> torch.autocast:
        """bf16 inside, if the recipe says so."""
        return torch.autocast(self.world.device.type, torch.bfloat16, enabled=self.recipe.precision == "bf16")

    def descend(self, loss: Tensor) -> Tensor:
        """One step of the optimizer down `loss`, and of the averaged weights; returns the gradient's norm before it was
        clipped. A gradient that is not finite changes nothing: one bad batch must not end a run of hours."""
        self.optimizer.zero_grad()
        (loss if self._template is None else sharded.touched(loss, self.model)).backward()
        norm = sharded.whole(nn.utils.clip_grad_norm_(self.model.parameters(), self.recipe.optimizer.clip))
        if bool(torch.isfinite(norm)):
            set_rate(self.optimizer, self.recipe.optimizer.lr * self.rate_factor())
            self.optimizer.step()
            self.ema.update(self.model)
        return norm.detach()

    def rate_factor(self) -> float:
        """What the learning rates are multiplied with at this step."""
        schedule = self.recipe.schedule
        return rate_factor(
            self.step,
            self._progress(),
            schedule.warmup_steps,
            schedule.decay,
            schedule.final,
            schedule.gamma,
            schedule.cooldown,
        )

    def _progress(self) -> float:
        """Share of the run that is done, of steps or of minutes as the schedule counts."""
        by_steps = self.recipe.schedule.over == "steps"
        end = self.recipe.max_steps if by_steps else self.recipe.max_minutes
        return (self.step if by_steps else self.minutes) / (end or 1)

    def _cools(self) -> bool:
        """Whether the learning rate has begun to go down for good: what is learned from here on is not gone on with."""
        schedule = self.recipe.schedule
        return schedule.decay == "wsd" and cools(self._progress(), schedule.cooldown)

    # Around the steps

    def _done(self) -> bool:
        recipe = self.recipe
        if recipe.max_steps is not None and self.step >= recipe.max_steps:
            return True
        over = recipe.max_minutes is not None and self.minutes >= recipe.max_minutes
        return distributed.any_true(over)

    def _due(self, every_steps: int | None, every_minutes: float | None, last: float) -> bool:
        if every_steps and self.step % every_steps == 0:
            return True
        return bool(every_minutes) and distributed.any_true(self.minutes - last >= (every_minutes or 0))

    def _report(self, losses: dict[str, Tensor]) -> None:
        values = {name: float(value.detach()) for name, value in losses.items()}
        values["learning_rate"] = self.optimizer.param_groups[0]["lr"]
        self.log.scalars(self.step, "train", values)
        limit = self.recipe.max_minutes
        self.log.progress(self.step, None if limit is None else limit - self.minutes, values)

    def _keep_if_best(self, values: dict[str, float]) -> None:
        name = self.best_by
        if name not in values:
            raise UsageError(
                f"data.held_out.best_by is {name}, but the package that measures it is not installed"
            )
        value, best = values[name], self.best
        if best is None or (value > best if name in self.higher_is_better else value < best):
            self.best = value
            self._export("best")

    def _export(self, name: str) -> None:
        """Write the model as it is now (the averaged weights, within `validate`)."""
        if self._template is None:
            model = copy.deepcopy(self.model)
        else:
            weights = sharded.full_weights(self.model)
            if not self.world.is_main:
                return
            model = copy.deepcopy(self._template)
            model.load_state_dict(weights)
        notes = {"step": str(self.step), "minutes": f"{self.minutes:.1f}"}
        path = self.recipe.output / f"{name}.safetensors"
        self.export(model.half() if self.recipe.half_precision_export else model, path, notes)

    # The state on disk

    def _save(self, path: Path | None = None) -> None:
        if self.recipe.parallel == "fsdp":
            self._save_shards()
        elif self.world.is_main:
            save_state(
                path or self.state_path,
                {
                    "step": self.step,
                    "minutes": self.minutes,
                    "best": self.best,
                    "seed": self.recipe.seed,
                    "recipe": describe(self.recipe),
                    "modules": {name: module_state(module) for name, module in self.modules.items()},
                    "optimizers": {
                        name: optimizer.state_dict() for name, optimizer in self.optimizers.items()
                    },
                    "ema": self.ema.state_dict(),
                    **self.extra_state(),
                },
            )
        distributed.barrier()

    def _resume(self) -> None:
        """Take up the run in the output folder, if there is one."""
        if self.recipe.parallel == "fsdp":
            self._resume_shards()
            return
        if not self.state_path.exists():
            return
        state = load_state(self.state_path, self.world.device)
        self._compare(state)
        if self._goes_further(state) and self.stable_path.exists():
            self._notes.append("the run goes further than before: on from before its learning rate went down")
            state = load_state(self.stable_path, self.world.device)
        try:
            for name, module in self.modules.items():
                # A run may gain a module (discriminators) between two sittings, but never its model.
                if name == self.name or name in state["modules"]:
                    load_module_state(module, state["modules"][name])
                    self.optimizers[name].load_state_dict(state["optimizers"][name])
            self.ema.load_state_dict(state["ema"])
        except (ValueError, KeyError, RuntimeError) as error:
            raise InputError(
                f"{self.state_path} is the state of another model ({error}); choose another output in the "
                "recipe, or remove the file"
            ) from error
        self.load_extra_state(state)
        self.step, self.minutes, self.best = state["step"], state["minutes"], state["best"]
        if self._best_by_another:
            self.best = None

    def _save_shards(self) -> None:
        facts = {name: getattr(self, name) for name in ("step", "minutes", "best")}
        facts |= {"seed": self.recipe.seed, "recipe": describe(self.recipe), "averaged": self.ema.steps}
        sharded.save_shards(
            self.recipe.output, facts, self.model, self.optimizer, self.ema.shadow, self.world
        )

    def _resume_shards(self) -> None:
        facts = sharded.read_facts(self.recipe.output)
        if facts is None:
            return
        self._compare(facts)
        sharded.load_shards(
            self.recipe.output, facts, self.model, self.optimizer, self.ema.shadow, self.world
        )
        self.step, self.minutes, self.best = facts["step"], facts["minutes"], facts["best"]
        self.ema.steps = facts["averaged"]
        if self._best_by_another:
            self.best = None

    def _goes_further(self, state: dict[str, Any]) -> bool:
        """Whether a run of decay "wsd" that had begun to go down is now to end later."""
        schedule = self.recipe.schedule
        if schedule.decay != "wsd" or "recipe" not in state:
            return False
        end, done = ("max_steps", "step") if schedule.over == "steps" else ("max_minutes", "minutes")
        before = next((c.before for c in changes(state["recipe"], self.recipe) if c.key == end), None)
        return bool(before) and cools(state[done] / before, schedule.cooldown)

    def _compare(self, state: dict[str, Any]) -> None:
        """Raise UsageError if the recipe is that of another run than the state's; note what else has changed."""
        if "recipe" not in state:  # saved by an earlier version
            return
        differ = changes(state["recipe"], self.recipe)
        free = [change for change in differ if may_change(change.key, self.recipe.may_change)]
        fixed = [change for change in differ if change not in free]
        if fixed:
            folder = self.recipe.output
            more = f" and {len(fixed) - 3} more" if len(fixed) > 3 else ""
            raise UsageError(
                f"{folder} holds a run of another recipe: {'; '.join(map(str, fixed[:3]))}{more}; give the old values "
                f"to continue it, or another output with init_from={folder}/last.safetensors"
            )
        if free:
            self._notes.append(f"changed since the run was saved: {'; '.join(map(str, free))}")
        # The best of another measure is not to be compared with.
        self._best_by_another = any(change.key == "data.held_out.best_by" for change in free)


def run_recipe(
    trainer: type[Trainer[Recipe, Any]],  # pyright: ignore[reportInvalidTypeArguments]
    schema: type[Recipe],
    recipe: str | Path,
    overrides: Sequence[str] = (),
    quiet: bool = False,
) -> TrainingSummary:
    """Train by a recipe (a path or the name of one that ships), or continue the run in its output folder.

    overrides: `key.subkey=value` each. Under torchrun, every process calls this. Raises MynaError with one
    line for whatever the user can mend.
    """
    options = load_recipe(recipe, schema, overrides)
    world = distributed.setup(options.device)  # pyright: ignore[reportAttributeAccessIssue]
    try:
        with Interrupt() as interrupt:
            summary = trainer(options, world, quiet).run(interrupt)
    except BaseException:
        distributed.shutdown(together=False)  # the others wait elsewhere, and torchrun ends them
        raise
    distributed.shutdown()
    return summary


def decayed_groups(module: nn.Module, weight_decay: float, never: Sequence[str] = ()) -> list[dict[str, Any]]:
    """Parameter groups: matrices and convolutions decay; biases, scales, and names that contain one of `never`
    do not."""
    decayed, others = [], []
    for name, parameter in module.named_parameters():
        decays = parameter.ndim > 1 and not any(part in name for part in never)
        (decayed if decays else others).append(parameter)
    return [{"params": decayed, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]


def first_process_first(world: World, work: Any, what: str) -> Any:
    """work() in the main process, then in the others (which find its cache); an error of the first ends all."""
    failure: MynaError | None = None
    result = None
    if world.is_main:
        try:
            result = work()
        except MynaError as error:
            failure = error
    if distributed.any_true(failure is not None):
        raise failure or InputError(f"{what} cannot be used; the first process says why")
    return result if world.is_main else work()


def seed_torch(seed: int, step: int, rank: int) -> torch.Generator:
    """Seed torch by the step, so that a resumed run draws what the first one would have drawn.

    Returns a generator that is the same on all ranks, for decisions that they must take together.
    """
    torch.manual_seed(mix(seed, step, rank))
    return torch.Generator().manual_seed(mix(seed, step))


def mix(*numbers: int) -> int:
    """A seed from several numbers, none of which can make up for another."""
    digest = hashlib.sha256(repr(numbers).encode()).digest()
    return int.from_bytes(digest[:7], "big")


def millions(module: nn.Module) -> str:
    """Its parameters, in millions, as text."""
    return f"{sum(p.numel() for p in module.parameters()) / 1e6:.2f} M"
