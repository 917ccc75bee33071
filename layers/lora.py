"""Low-rank adapters (Hu et al. 2021, "LoRA", section 4): what a few minutes add to a linear layer that stays as it is.

    y = base(x) + scale * up(down(x))        down (R, I), up (O, R), up zero at first; scale = alpha / R

An adapter of a model is `LoRAWeights`, two matrices a layer by the layer's name. `attach` puts layers to be trained in
the place of linear ones; `adapted` gives a view of a model that says something with one adapter and shares every
weight that it leaves as it is; `Bank` serves rows of one batch with adapters of their own. A model without an adapter
is the model itself: nothing of this file is in it.

Shapes: B rows, T frames, I channels in, O out, R rank, N adapters.
"""

from __future__ import annotations

import copy
import hashlib
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

LARGEST_RANK = 16  # ranks of a bank are filled up to it: sums over them then have one order
_FEW = 4  # frames of a row up to which a bank's products are summed row by row


@dataclass(frozen=True)
class LoRAOptions:
    """Which layers get an adapter, and of what size. Raises ValueError for what cannot be."""

    rank: int = 8
    alpha: float = 16.0  # what is learned is scaled by alpha / rank, so that one learning rate fits all ranks
    dropout: float = 0.0  # of what goes in, while it learns
    targets: tuple[str, ...] = ("*",)  # patterns of names of linear layers, such as "*.attention.qkv"

    def __post_init__(self) -> None:
        if not 1 <= self.rank <= LARGEST_RANK:
            raise ValueError(f"rank is 1 to {LARGEST_RANK}, got {self.rank}")
        if self.alpha <= 0 or not 0 <= self.dropout < 1:
            raise ValueError(f"alpha is above 0, dropout 0 to 1, got {self.alpha} and {self.dropout}")
        if not self.targets:
            raise ValueError('targets names no layer; give patterns such as "*.attention.qkv"')


@dataclass(frozen=True, eq=False)
class LoRAWeights:
    """An adapter of a model, by the names of its layers.   down (R, I), up (O, R), one rank for all.   scale: of the
    product."""

    down: Mapping[str, Tensor]
    up: Mapping[str, Tensor]
    scale: float

    def __post_init__(self) -> None:
        if set(self.down) != set(self.up) or not self.down:
            raise ValueError("an adapter has both matrices of at least one layer")
        ranks = {len(down) for down in self.down.values()} | {up.shape[1] for up in self.up.values()}
        if len(ranks) != 1 or not 1 <= next(iter(ranks)) <= LARGEST_RANK:
            raise ValueError(f"an adapter has one rank, 1 to {LARGEST_RANK}, got {sorted(ranks)}")

    @property
    def rank(self) -> int:
        return len(next(iter(self.down.values())))

    @property
    def n_bytes(self) -> int:
        return sum(t.numel() * t.element_size() for part in (self.down, self.up) for t in part.values())

    def half(self) -> LoRAWeights:
        """In 16 bits, as it is kept."""
        return self._map(lambda tensor: tensor.detach().half().cpu().contiguous())

    def scaled(self, gains: Mapping[str, Tensor]) -> LoRAWeights:
        """For layers whose input has lost a factor (I,): it moves into `down`."""
        down = {
            name: part * gains[name].to(part) if name in gains else part for name, part in self.down.items()
        }
        return LoRAWeights(down, self.up, self.scale)

    def digest(self) -> str:
        """Stands for all of it."""
        found = hashlib.sha256(repr(self.scale).encode())
        for part in (self.down, self.up):
            for name, tensor in sorted(part.items()):
                found.update(f"{name} {tuple(tensor.shape)}".encode() + tensor.float().numpy().tobytes())
        return found.hexdigest()

    def _map(self, change) -> LoRAWeights:
        down, up = ({name: change(t) for name, t in part.items()} for part in (self.down, self.up))
        return LoRAWeights(down, up, self.scale)


class LoRALinear(nn.Module):
    """A linear layer and an adapter beside it.

    base: plain (`nn.Linear`), packed or in 8 bits (`kernels`): anything that maps (..., I) to (..., O).   down (R, I),
    up (O, R).
    """

    def __init__(self, base: nn.Module, down: Tensor, up: Tensor, scale: float, dropout: float = 0.0):
        super().__init__()
        self.base, self.scale, self.dropout = base, scale, dropout
        self.down, self.up = nn.Parameter(down), nn.Parameter(up)
        self._plain: Tensor | None = None  # the base's weight while it is merged

    def forward(self, x: Tensor) -> Tensor:
        """x (..., I) -> (..., O)."""
        if self.merged:
            return self.base(x)
        inside = F.dropout(x, self.dropout, self.training) if self.dropout else x
        return self.base(x) + self.scale * F.linear(F.linear(inside, self.down.to(x)), self.up.to(x))

    @property
    def merged(self) -> bool:
        return self._plain is not None

    @torch.no_grad()
    def merge(self) -> None:
        """Add the adapter to the weight of the layer, which then costs what it cost before. Raises TypeError for a
        layer that has given its weight away (packed or in 8 bits): there it stays beside."""
        if not isinstance(self.base, nn.Linear):
            raise TypeError(f"a {type(self.base).__name__} cannot be merged with; merge before it is packed")
        if not self.merged:
            plain = self.base.weight
            self._plain = plain
            self.base.weight = nn.Parameter(self._sum(plain), requires_grad=plain.requires_grad)

    def unmerge(self) -> None:
        """The weight as it was before `merge`, bit by bit."""
        if self._plain is not None:
            cast(nn.Linear, self.base).weight = cast(nn.Parameter, self._plain)
            self._plain = None

    def _sum(self, weight: Tensor) -> Tensor:
        return torch.addmm(weight, self.up.to(weight), self.down.to(weight), alpha=self.scale)


def find_targets(model: nn.Module, patterns: Sequence[str]) -> dict[str, nn.Linear]:
    """The linear layers of a model whose names match a pattern. Raises ValueError for a pattern that none has."""
    linear = {name: part for name, part in model.named_modules() if isinstance(part, nn.Linear)}
    for pattern in patterns:
        if not any(fnmatchcase(name, pattern) for name in linear):
            raise ValueError(
                f"no linear layer is named {pattern!r}; there are {', '.join(sorted(linear)[:6])}, ..."
            )
    return {name: part for name, part in linear.items() if any(fnmatchcase(name, p) for p in patterns)}


def attach(model: nn.Module, options: LoRAOptions, seed: int = 0) -> dict[str, LoRALinear]:
    """Put an adapter that is nothing yet beside each target of a model, in place, and freeze all else. -> by name.

    Raises ValueError as `find_targets`.
    """
    generator = torch.Generator().manual_seed(seed)
    model.requires_grad_(False)
    made = {}
    for name, linear in find_targets(model, options.targets).items():
        out, inside = linear.weight.shape
        bound = inside**-0.5
        down = (torch.rand(options.rank, inside, generator=generator) * 2 - 1) * bound
        up = torch.zeros(out, options.rank)
        scale = options.alpha / options.rank
        made[name] = LoRALinear(linear, down.to(linear.weight), up.to(linear.weight), scale, options.dropout)
        _replace(model, name, made[name])
    return made


def detach(model: nn.Module) -> None:
    """Take every adapter out of a model again, merged or not: it is what it was."""
    for name, part in list(model.named_modules()):
        if isinstance(part, LoRALinear):
            part.unmerge()
            _replace(model, name, part.base)


def weights_of(layers: Mapping[str, LoRALinear]) -> LoRAWeights:
    """A copy of what `attach`ed layers have learned."""
    down = {name: layer.down.detach().clone() for name, layer in layers.items()}
    up = {name: layer.up.detach().clone() for name, layer in layers.items()}
    return LoRAWeights(down, up, next(iter(layers.values())).scale)


@torch.no_grad()
def load_weights(layers: Mapping[str, LoRALinear], weights: LoRAWeights) -> None:
    """Overwrite `attach`ed layers. Raises ValueError for an adapter of other layers."""
    if set(layers) != set(weights.down):
        raise ValueError("the adapter is of other layers")
    for name, layer in layers.items():
        if layer.down.shape != weights.down[name].shape or layer.up.shape != weights.up[name].shape:
            raise ValueError(f"the adapter of {name} has another shape")
        layer.down.copy_(weights.down[name])
        layer.up.copy_(weights.up[name])


@torch.no_grad()
def adapted(model: nn.Module, weights: LoRAWeights) -> nn.Module:
    """A view of a model with an adapter, for inference: plain layers merged with it, others with it beside; all else
    is shared. The model stays as it is. Raises ValueError for an adapter that does not fit."""
    view = _view(model)
    parts = dict(view.named_modules())
    for name in weights.down:
        base = parts.get(name)
        down, up = weights.down[name].float(), weights.up[name].float()
        _check_fits(name, base, down, up)
        assert base is not None
        like = next((t for t in base.parameters()), None)
        place = down if like is None else like
        layer = LoRALinear(base, down.to(place), up.to(place), weights.scale)
        layer.requires_grad_(False)
        if isinstance(base, nn.Linear):
            merged = nn.Linear(base.in_features, base.out_features, base.bias is not None, device="meta")
            merged.weight = nn.Parameter(layer._sum(base.weight), requires_grad=False)
            merged.bias = base.bias
            _replace(view, name, merged)
        else:
            _replace(view, name, layer)
    return view.eval() if not model.training else view


def _check_fits(name: str, base: nn.Module | None, down: Tensor, up: Tensor) -> None:
    sizes = getattr(base, "in_features", None), getattr(base, "out_features", None)
    if base is None or None in sizes or (down.shape[1], len(up)) != sizes:
        raise ValueError(f"the adapter has a layer {name}, which the model has not, or of another size")


class Bank:
    """Adapters of several voices over one model, each row of a batch with its own: A and B are gathered for the rows
    (Chen et al. 2023, "Punica"; Sheng et al. 2023, "S-LoRA").

    Inside `rows` the model's layers add to each row what its adapter says; outside they are as they were. What a row
    becomes does not depend on the others. Adapters may join and leave while others compute.

    model: a view of the one that was given, whose linear layers know of the bank.
    """

    def __init__(self, model: nn.Module):
        self.model = _view(model)
        linear = [(name, part) for name, part in self.model.named_modules() if hasattr(part, "in_features")]
        self._layers = {name: _BankLinear(part, self) for name, part in linear}
        for name, layer in self._layers.items():
            _replace(self.model, name, layer)
        self._slots: list[LoRAWeights | None] = [None]  # the first is nobody's
        self._users: dict[str, list[int]] = {}  # digest -> slot, number of users
        self._lock, self._here = threading.Lock(), threading.local()

    def join(self, weights: LoRAWeights | None) -> int:
        """The slot of an adapter, to be given back by `leave`. Raises ValueError for one that does not fit."""
        if weights is None:
            return 0
        with self._lock:
            known = self._users.get(key := weights.digest())
            if known is None:
                self._check(weights)
                slot = next((i for i, one in enumerate(self._slots) if i and one is None), len(self._slots))
                slots = list(self._slots)
                slots[slot : slot + 1] = [weights]
                self._stack(slots)
                known = self._users[key] = [slot, 0]
            known[1] += 1
            return known[0]

    def leave(self, slot: int) -> None:
        with self._lock:
            for key, known in list(self._users.items()):
                if slot and known[0] == slot:
                    known[1] -= 1
                    if not known[
                        1
                    ]:  # its numbers stay until the slot is needed: somebody may be in the middle
                        del self._users[key]
                        self._slots[slot] = None

    @contextmanager
    def rows(self, slots: Tensor | int) -> Iterator[None]:
        """slots: of every row (B,), or of all. Counts in this thread only."""
        before = getattr(self._here, "rows", None)
        idle = (slots == 0) if isinstance(slots, int) else not bool(slots.any())
        self._here.rows = None if idle else slots
        try:
            yield
        finally:
            self._here.rows = before

    @property
    def active(self) -> Tensor | int | None:
        return getattr(self._here, "rows", None)

    def _check(self, weights: LoRAWeights) -> None:
        for name in weights.down:
            layer = self._layers.get(name)
            _check_fits(name, None if layer is None else layer.base, weights.down[name], weights.up[name])

    def _stack(self, slots: list[LoRAWeights | None]) -> None:
        for name, layer in self._layers.items():
            layer.stack(
                [
                    None if one is None or name not in one.down else (one.down[name], one.up[name], one.scale)
                    for one in slots
                ]
            )
        self._slots = slots


class _BankLinear(nn.Module):
    """A layer of a bank."""

    def __init__(self, base: nn.Module, bank: Bank):
        super().__init__()
        self.base = base
        self._bank = (bank,)  # not a module, and not to be found as one
        self.in_features, self.out_features = base.in_features, base.out_features
        self._stacked: tuple[Tensor, Tensor] | None = None  # (N, R, I), (N, O, R)

    def stack(self, each: Sequence[tuple[Tensor, Tensor, float] | None]) -> None:
        downs = torch.zeros(len(each), LARGEST_RANK, cast(int, self.in_features))
        ups = torch.zeros(len(each), cast(int, self.out_features), LARGEST_RANK)
        for i, one in enumerate(each):
            if one is not None:
                down, up, scale = one
                downs[i, : len(down)] = down.float()
                ups[i, :, : len(down)] = scale * up.float()
        self._stacked = downs, ups

    def forward(self, x: Tensor) -> Tensor:
        y, slots = self.base(x), self._bank[0].active
        if slots is None or self._stacked is None:
            return y
        downs, ups = (part.to(x) for part in self._stacked)
        rows = x.reshape(len(x), -1, x.shape[-1])  # (B, T, I)
        which = torch.full((len(x),), slots) if isinstance(slots, int) else slots
        down, up = downs[which.to(downs.device)], ups[which.to(ups.device)]
        if rows.shape[1] <= _FEW:
            inside = (rows[:, :, None] * down[:, None]).sum(-1)
            added = (inside[:, :, None] * up[:, None]).sum(-1)
        else:
            added = torch.bmm(torch.bmm(rows, down.mT), up.mT)
        return y + added.reshape(y.shape)


def _replace(model: nn.Module, name: str, part: nn.Module) -> None:
    *parents, last = name.split(".")
    setattr(model.get_submodule(".".join(parents)), last, part)


def _view(model: nn.Module) -> nn.Module:
    """A copy of the modules, not of what they hold."""
    view = copy.copy(model)
    inside = {name: None if part is None else _view(part) for name, part in model._modules.items()}
    view.__dict__.update(_parameters=dict(model._parameters), _buffers=dict(model._buffers), _modules=inside)
    return view
