"""Whether a width transfer rule (muP: Yang et al. 2022, "Tensor Programs V", table 8, for Adam) is worth having for the
token AR: the best learning rate at three widths, by what is there and by the rule.

    python benchmarks/widths.py measure SETS... --out widths.json [--widths 64,128,256] [--rates 5e-4,...] [--steps 200]
    python benchmarks/widths.py table widths.json

SETS: files of `python -m myna.training.sets.extract_mels`. Each run has the same batches and the same first weights for
its width; the rate rises over a tenth of the steps and falls in a straight line to 0. The rule is that of
`training/engine/width_transfer.py`, from the smallest width on. `measure` writes after every run and goes on where it
was.
"""

from __future__ import annotations

import argparse
import json
import math
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from myna.training.engine.distributed import World
from myna.training.engine.recipe import load_recipe
from myna.training.engine.schedule import set_rate
from myna.training.engine.trainer import decayed_groups
from myna.training.engine.width_transfer import transfer
from myna.training.models.token_ar import TokenARTrainer
from myna.training.models.token_ar_recipe import TokenARRecipe
from myna.tts.lm.token_ar import TokenAR, TokenARConfig
from torch import nn

HEAD = 32  # numbers of an attention head, the same at every width, so that its scale need not change


def config_of(width: int) -> TokenARConfig:
    """Half as deep as what ships: width is what is asked about."""
    return TokenARConfig(
        width=width,
        depth=3,
        text_depth=1,
        n_heads=width // HEAD,
        n_kv_heads=1,
        hidden=2 * width,
        extra=16,
    )


def run(
    trainer: TokenARTrainer, width: int, rule: bool, rate: float, steps: int, smallest: int
) -> dict[str, Any]:
    """One run: the loss of its last fifth of batches, all of which are new to it, and what is held out."""
    torch.manual_seed(0)
    model = TokenAR(config_of(width))
    decay = trainer.recipe.optimizer.weight_decay
    groups = decayed_groups(model, decay, never=("extra",))
    if rule:
        groups = transfer(model, TokenAR(config_of(smallest)), groups, begins=True)
    optimizer = torch.optim.AdamW(groups, lr=rate, betas=trainer.recipe.optimizer.betas, fused=True)
    losses, begun = [], time.process_time()
    for step in range(steps):
        torch.manual_seed(step)
        model.train()
        loss = model(trainer.read(trainer.batch(step))).loss
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), trainer.recipe.optimizer.clip)
        set_rate(optimizer, rate * min(1.0, 10 * (step + 1) / steps) * (1 - step / steps))
        optimizer.step()
        losses.append(float(loss.detach()))
        if not math.isfinite(losses[-1]):
            break
    last = losses[-max(1, steps // 5) :]
    trainer.model = model.eval()
    with torch.no_grad():
        held = trainer.measure()
    return {
        "width": width,
        "rule": "muP" if rule else "one rate",
        "rate": rate,
        "steps": len(losses),
        "last_fifth": sum(last) / len(last),
        "held_out": held["loss"],
        "seconds": round(time.process_time() - begun, 1),
    }


def measure(
    sets: Sequence[str], out: Path, widths: list[int], rates: list[float], steps: int, frames: int
) -> None:
    """Every run that `out` does not have."""
    done: list[dict[str, Any]] = json.loads(out.read_text()) if out.exists() else []
    smallest = min(widths)
    trainer = TokenARTrainer(
        load_recipe(
            "recipes/myna-token-ar-cpu.yaml",
            TokenARRecipe,
            [
                f"data.mel_sets=[{','.join(sets)}]",
                "data.tokens=weights/myna-tokens.safetensors",
                f"data.batch_frames={frames}",
                f"output={out.parent / (out.stem + '-run')}",
                f"model={{width: {smallest}, n_heads: {smallest // HEAD}}}",
            ],
        ),
        World(0, 1, torch.device("cpu")),
        quiet=True,
    )
    for rule in (False, True):
        for width in widths:
            for rate in rates:
                if rule and width == smallest:
                    continue  # the same as without
                key = (width, "muP" if rule else "one rate", rate)
                if any((r["width"], r["rule"], r["rate"]) == key for r in done):
                    continue
                done.append(run(trainer, width, rule, rate, steps, smallest))
                out.write_text(json.dumps(done, indent=1))
                print(done[-1], flush=True)


def best_rate(runs: list[dict[str, Any]]) -> float:
    """Where a parabola through the best run and its neighbours, over log2 of the rate, is lowest."""
    runs = sorted(runs, key=lambda r: r["rate"])
    at = min(range(len(runs)), key=lambda i: runs[i]["held_out"])
    if at in (0, len(runs) - 1):
        return runs[at]["rate"]
    x = [math.log2(runs[i]["rate"]) for i in (at - 1, at, at + 1)]
    y = [runs[i]["held_out"] for i in (at - 1, at, at + 1)]
    left, right = (y[0] - y[1]) / (x[1] - x[0]), (y[2] - y[1]) / (x[2] - x[1])
    middle_left, middle_right = (x[0] + x[1]) / 2, (x[1] + x[2]) / 2
    return 2 ** (middle_left + (middle_right - middle_left) * left / (left + right))


def table(out: Path) -> None:
    """Held-out loss by width and rate, and the best rate of each row."""
    done: list[dict[str, Any]] = json.loads(out.read_text())
    rates = sorted({r["rate"] for r in done})
    print("| width | rule | " + " | ".join(f"{r:g}" for r in rates) + " | best rate |")
    print("|---:|---|" + "---:|" * (len(rates) + 1))
    rows = sorted({(r["rule"] == "muP", r["width"], r["rule"]) for r in done})
    for _, width, rule in rows:
        runs = [r for r in done if (r["width"], r["rule"]) == (width, rule)]
        by_rate = {r["rate"]: f"{r['held_out']:.3f}" for r in runs}
        cells = " | ".join(by_rate.get(rate, "") for rate in rates)
        print(f"| {width} | {rule} | {cells} | {best_rate(runs):.1e} |")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("what", choices=("measure", "table"))
    parser.add_argument("files", nargs="+")
    parser.add_argument("--out", type=Path, default=Path("widths.json"))
    parser.add_argument("--widths", default="64,128,256")
    parser.add_argument("--rates", default="1e-3,2e-3,4e-3,8e-3,1.6e-2")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--frames", type=int, default=2000)
    args = parser.parse_args()
    if args.what == "table":
        table(Path(args.files[0]))
        return
    torch.set_num_threads(1)
    widths, rates = [int(w) for w in args.widths.split(",")], [float(r) for r in args.rates.split(",")]
    measure(args.files, args.out, widths, rates, args.steps, args.frames)


if __name__ == "__main__":
    main()
