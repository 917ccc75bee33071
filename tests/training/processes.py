"""Two processes that find each other as those of torchrun do, forked from one that has imported the trainers: importing
takes ten times as long as what is trained here. test_clusters.py has torchrun itself. Importable in the processes.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import time
import traceback
from collections.abc import Callable
from multiprocessing.connection import wait
from pathlib import Path
from typing import Any

PATIENCE = 300.0  # seconds
_IMPORTED = ["torch.distributed.fsdp", "myna.training.engine.trainer"] + [
    f"myna.training.models.{name}"
    for name in (
        "codec_trainer",
        "lm_trainer",
        "flow",
        "token_ar",
        "clvp",
        "aligner_trainer",
    )
]


def _context() -> Any:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(_IMPORTED)
    return context


def killed(recipe: str, overrides: list[str], metrics: Path, n_rows: int) -> None:
    """Trains in a process of its own, and ends that by SIGKILL once `metrics` has so many rows."""
    process = _context().Process(
        target=_endless, args=(recipe, [*overrides, "max_steps=100000"]), daemon=True
    )
    process.start()
    deadline = time.monotonic() + PATIENCE
    while process.is_alive() and time.monotonic() < deadline:
        if metrics.exists() and metrics.read_text().count("\n") >= n_rows:
            break
        time.sleep(0.003)
    process.kill()
    process.join()
    assert process.exitcode == -signal.SIGKILL


def _endless(recipe: str, overrides: list[str]) -> None:
    import torch
    from myna.training.train import train

    torch.set_num_threads(1)
    train(recipe, overrides, quiet=True)


def in_two_processes(function: Callable[..., Any], *arguments: Any) -> Any:
    """What `function(world, *arguments)`, of this module, returns in the first of them. Raises AssertionError with the
    traceback of the one that failed; the other is then ended."""
    context = _context()
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    pipes = [context.Pipe(duplex=False) for _ in range(2)]
    started = [
        context.Process(target=_joined, args=(rank, port, pipes[rank][1], function, arguments), daemon=True)
        for rank in range(2)
    ]
    for process in started:
        process.start()
    for _, sender in pipes:
        sender.close()
    found: dict[int, Any] = {}
    try:
        while len(found) < 2:
            ready = wait(
                [receiver for rank, (receiver, _) in enumerate(pipes) if rank not in found], PATIENCE
            )
            assert ready, f"the processes say nothing for {PATIENCE:g} s"
            for rank, (receiver, _) in enumerate(pipes):
                if receiver in ready:
                    try:
                        ended, found[rank] = receiver.recv()
                    except EOFError:
                        ended, found[rank] = False, "it was ended"
                    assert ended, f"process {rank}: {found[rank]}"
        for process in started:
            process.join(PATIENCE)
        assert [process.exitcode for process in started] == [0, 0]
    finally:
        for process in started:
            process.kill()
            process.join()
    return found[0]


def _joined(
    rank: int, port: int, sender: Any, function: Callable[..., Any], arguments: tuple[Any, ...]
) -> None:
    os.environ.update(
        RANK=str(rank), LOCAL_RANK=str(rank), WORLD_SIZE="2", MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port)
    )
    import torch
    from myna.training.engine import distributed

    torch.set_num_threads(1)
    try:
        found = function(distributed.setup("cpu"), *arguments)
        distributed.shutdown()
    except BaseException:
        sender.send((False, traceback.format_exc()))
        raise
    sender.send((True, found))


def trained(world: Any, trainer: type, recipe: type, name: str, overrides: list[str]) -> list[str]:
    """A line for each module and for the first batches: the same in both processes or not, and the step that was
    reached."""
    import torch
    import torch.distributed as dist
    from myna.training.engine.interrupt import Interrupt
    from myna.training.engine.recipe import load_recipe

    run: Any = trainer(load_recipe(name, recipe, overrides), world, quiet=True)  # pyright: ignore
    batch = vars(run.batch(0)).values()
    seen = torch.stack([value.double().sum() for value in batch if isinstance(value, torch.Tensor)])
    run.run(Interrupt())
    every = {
        name: torch.cat([p.detach().flatten() for p in m.parameters()]) for name, m in run.modules.items()
    }
    lines = []
    for name, mine in sorted({**every, "batches": seen}.items()):
        theirs = [torch.empty_like(mine) for _ in range(world.size)]
        dist.all_gather(theirs, mine)
        same = all(torch.equal(t, theirs[0]) for t in theirs)
        lines.append(f"{name} {'same' if same else 'differ'} {run.step}")
    return lines


def jobs(world: Any, *described: str) -> None:
    """Runs of the AR one after another, each "steps override override ...". Shards leave their weights in seen.pt."""
    import torch
    from myna.training.engine import distributed, sharded
    from myna.training.engine.interrupt import Interrupt
    from myna.training.engine.recipe import load_recipe
    from myna.training.models.lm_recipe import ARRecipe
    from myna.training.models.lm_trainer import ARTrainer

    for job in described:
        steps, *overrides = job.split()
        trainer = ARTrainer(load_recipe("myna-ar-tiny", ARRecipe, overrides), world, quiet=True)

        class Stop(Interrupt):
            requested = property(lambda self, at=int(steps), run=trainer: run.step >= at)  # pyright: ignore

            def __init__(self) -> None: ...

            def __enter__(self) -> Any:
                return self

        trainer.run(Stop())
        if trainer.recipe.parallel == "fsdp":
            kinds = {type(p).__name__ for p in trainer.model.parameters()}
            weights = sharded.full_weights(trainer.model)
            if world.is_main:
                torch.save({"weights": weights, "kinds": kinds}, trainer.recipe.output / "seen.pt")
        distributed.barrier()
