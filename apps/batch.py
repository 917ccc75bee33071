"""One file or a folder of them: in a folder one bad file is reported and the rest go on."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import asdict
from typing import Any

import typer

from ..data.files import output_errors
from ..errors import MynaError
from .console import Console, complain
from .options import Job


def run_jobs(jobs: Iterable[Job], work: Callable[[Job], tuple[Any, str]], console: Console) -> None:
    """Do all jobs; `work` returns the facts of one and a line about it.

    With --json the outcome is {"files": [...], "errors": [...]}. Ends with the exit code of the failures, 1
    if they are of different kinds.
    """
    done, errors, codes = [], [], set()
    for job in jobs:
        try:
            with output_errors(job.target.parent):
                job.target.parent.mkdir(parents=True, exist_ok=True)
            facts, line = work(job)
        except MynaError as error:
            message = str(error)
            if str(job.source) not in message and str(job.target) not in message:
                message = f"{job.source}: {message}"
            complain(message)
            errors.append({"input": str(job.source), "error": message, "exit_code": error.exit_code})
            codes.add(error.exit_code)
            continue
        done.append(asdict(facts))
        if not console.json:
            console.result(facts, line)
    if console.json:
        console.result({"files": done, "errors": errors}, "")
    elif errors:
        complain(f"{len(errors)} of {len(done) + len(errors)} files failed")
    if codes:
        raise typer.Exit(codes.pop() if len(codes) == 1 else 1)
