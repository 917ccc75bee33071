"""The kernels beside PyTorch: right, how fast, and what Triton's compiler makes of them.

    python benchmarks/kernels.py --predict                       no GPU: what the counts of bytes and operations say
    python benchmarks/kernels.py --compile-only [--json OUT]     no GPU: registers, shared memory, spills (which fail)
        [--representative] [--limit-s 300]                       the largest of each kernel; the rest at the next run
    python benchmarks/kernels.py [--json OUT] [--limit-s 95]     on a GPU: that, errors, microseconds

Needs torch, triton and numpy; weights are random. On a GPU, each kernel's result on fresh random numbers, in memory
that was filled with NaN before, is held against float64: its error is to be at most twice that of PyTorch in the same
precision. Then eager, CUDA graph, fused, and fused in a CUDA graph (of 10 calls, so one call's share) are timed, whole
steps first, then ways to cut convolutions, and torch.compile while there is time. A kernel that fails is reported and
the rest goes on. Times are medians of runs back to back: what fits the 60 MB of an H200's second-level cache stays
there, as it does when speech is made. Roofline: the greater of bytes over the measured copy rate and operations over
the measured matrix rate (60 TFLOP/s for float32), over the time. Results are written as they come.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import multiprocessing
import os
import statistics
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).resolve().parents[1]
if importlib.util.find_spec("myna") is None:  # a checkout that is not installed: its root is the package
    spec = importlib.util.spec_from_file_location(
        "myna", ROOT / "__init__.py", submodule_search_locations=[str(ROOT)]
    )
    assert spec is not None
    assert spec.loader is not None
    package = importlib.util.module_from_spec(spec)
    sys.modules["myna"] = package
    spec.loader.exec_module(package)
sys.path.insert(0, str(ROOT / "benchmarks"))

from kernel_cases import BF16, F32, Case, Make, cases, cut, cuts, upcast  # noqa: E402
from kernel_steps import Step, steps  # noqa: E402
from myna.kernels.gpu import aot  # noqa: E402

DTYPES = {"fp32": F32, "bf16": BF16}


class Record:
    """The results, written to a file whenever something is added.

    A kernel that reads where it must not leaves CUDA unusable in its process: then the program starts itself anew, with
    what it has found so far, and leaves out what it has tried.
    """

    def __init__(self, path: Path | None, limit: float, resume: Path | None = None):
        self.path, self.limit, self.start = path, limit, time.time()
        kinds = "compiled", "checked", "steps", "kernels", "failed", "tried", "cuts"
        self.data: dict[str, Any] = {kind: [] for kind in kinds}
        if resume:
            self.data = json.loads(resume.read_text())
            self.start = self.data["start"]
        self.data["start"] = self.start

    @property
    def left(self) -> float:
        return self.limit - (time.time() - self.start)

    def first(self, what: str) -> bool:
        """Whether this has not been tried; from now on it has."""
        if what in self.data["tried"]:
            return False
        self.data["tried"].append(what)
        return True

    def write(self) -> None:
        if self.path:
            part = self.path.with_name(self.path.name + ".part")
            part.write_text(json.dumps(self.data, indent=1))
            part.replace(self.path)

    def add(self, kind: str, entry: dict[str, Any]) -> None:
        self.data[kind].append(entry)
        self.write()

    def fail(self, what: str, problem: BaseException) -> None:
        line = f"{type(problem).__name__}: {str(problem).strip()[:300]}"
        print(f"FAILED {what}: {line}", flush=True)
        trace = "".join(traceback.format_exception(problem))[-3000:]
        self.add("failed", {"what": what, "error": line, "trace": trace})

    @contextmanager
    def guarded(self, what: str) -> Iterator[None]:
        try:
            yield
        except Exception as problem:
            self.fail(what, problem)
            if "CUDA" in str(problem) and not usable():
                self.start_anew()

    def start_anew(self) -> None:
        path = (self.path or Path(tempfile.gettempdir()) / "kernels.json").with_suffix(".resume")
        path.write_text(json.dumps(self.data))
        print("CUDA cannot be used any more in this process: starting anew", flush=True)
        own = [a for a in sys.argv if not a.startswith("--resume")]
        os.execv(sys.executable, [sys.executable, *own, f"--resume={path}"])


def usable() -> bool:
    """Whether CUDA still answers."""
    try:
        torch.cuda.synchronize()
        return float(torch.ones(2, device="cuda").sum()) == 2
    except Exception:
        return False


# ---- compiled without a GPU


H200 = 4.3e12, 780e12  # bytes and bf16 operations a second, as others have measured them
LAUNCH_US = 2.0  # a small kernel in a CUDA graph, from its start to the next one's


def predict(record: Record, only: str) -> None:
    """What the counts say: the least time that bytes and operations take on an H200, and whole steps' launches."""
    print(
        "predicted for an H200, not measured: microseconds that bytes and operations take, and launches",
        flush=True,
    )
    for case in cases():
        if only in case.name:
            print(f"{case.name:44} {case.precision}  {roofline(case, H200):8.2f} us")
    for step in steps():
        if only not in step.name:
            continue
        with record.guarded(f"launches of {step.name}"), torch.no_grad(), aot.recorded() as made:
            step.launch()
        n = sum(not launch.overlapping for launch in made)
        floor = roofline(step, H200)
        text = f"{step.name:44} {step.precision}  {floor:8.2f} us"
        print(text + (f", {n} launches: about {max(floor, LAUNCH_US * n):.0f} us" if n else ""), flush=True)


def launches(record: Record, only: str, target: str = "sm_90") -> list[aot.Launch]:
    """Every different launch of the cases and the steps, as they are on `target`."""
    found: dict[tuple[object, ...], aot.Launch] = {}
    named: list[tuple[str, Callable[[], Any]]] = []
    for case in cases():
        make = Make("cpu", DTYPES[case.precision], random=False)
        named.append((case.name, lambda case=case, make=make: case.fused(*case.make(make))))
    named += [(step.name, step.launch) for step in steps()]
    named += [
        (f"cut {shape}", cut(shape, blocks, Make("cpu", BF16, random=False)))
        for shape, blocks in cuts(divmod(aot.TARGETS[target], 10))
    ]
    for name, call in named:
        if only not in name:
            continue
        context = torch.enable_grad() if "gradient" in name else torch.no_grad()
        with record.guarded(f"launches of {name}"), context, aot.recorded(target) as made:
            call()
        found.update({launch.key: launch for launch in made})
    return list(found.values())


_TO_COMPILE: list[tuple[aot.Launch, str]] = []


def _compiled(index: int) -> dict[str, Any]:
    launch, target = _TO_COMPILE[index]
    try:
        return asdict(aot.report(launch, target))
    except Exception as problem:
        return {"name": launch.name, "target": target, "error": str(problem)[-300:]}


def compile_all(
    record: Record,
    targets: list[str],
    only: str,
    seconds: float | None,
    workers: int,
    representative: bool = False,
) -> int:
    """All launches for all targets, in processes of their own (which also fills Triton's cache for this machine).

    Returns how many are left when `seconds` are over."""
    _TO_COMPILE.clear()
    for target in targets:
        found = launches(record, only, target)
        found = aot.representative(found) if representative else found
        _TO_COMPILE.extend((launch, target) for launch in found)
    print(f"compiling {len(_TO_COMPILE)} kernels for {', '.join(targets)}", flush=True)
    print(
        f"{'kernel':22} {'target':6} {'regs':>5} {'shared':>7} {'spills':>6} {'stack':>5} {'mma':>5} {'instr':>6}"
    )
    end = None if seconds is None else time.perf_counter() + seconds
    pool = multiprocessing.get_context("fork").Pool(workers)
    left = len(_TO_COMPILE)
    try:
        results = pool.imap(_compiled, range(len(_TO_COMPILE)))
        for _ in _TO_COMPILE:
            wait = None if end is None else max(0.1, end - time.perf_counter())
            entry = results.next(wait)
            if "error" in entry:
                print(f"{entry['name']:22} {entry['target']:6} FAILED {entry['error']}", flush=True)
            else:
                print(
                    "{name:22} {target:6} {registers:5} {shared:7} {spills:6} {stack:5} {tensor_cores:5} "
                    "{instructions:6}".format(**entry),
                    flush=True,
                )
            record.add("compiled", entry)
            left -= 1
    except multiprocessing.TimeoutError:
        print(f"{left} are left: they are compiled at the next run, or when they are first used", flush=True)
    finally:
        pool.terminate()
    return left


def markdown(reports: list[dict[str, Any]]) -> str:
    """The table of docs/kernels.md: a line for each kernel and target, over all that was compiled of it."""
    head = (
        "name",
        "target",
        "launches",
        "registers",
        "shared KB",
        "spills",
        "stack B",
        "tensor cores",
        "instructions",
    )
    lines = [f"| {' | '.join(head)} |", "|---|---|" + "---:|" * (len(head) - 2)]
    groups: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for entry in reports:
        if "error" not in entry:
            groups.setdefault((entry["name"], entry["target"]), []).append(entry)

    def span(entries: list[dict[str, Any]], key: str, unit: int = 1) -> str:
        least, most = (round(each(e[key] for e in entries) / unit) for each in (min, max))
        return str(most) if least == most else f"{least} to {most}"

    for (name, target), entries in sorted(groups.items()):
        cells = [span(entries, key) for key in ("spills", "stack", "tensor_cores", "instructions")]
        memory = [span(entries, "registers"), span(entries, "shared", 1024)]
        lines.append(f"| {' | '.join([f'`{name}`', target, str(len(entries)), *memory, *cells])} |")
    return "\n".join(lines)


# ---- right


@contextmanager
def poisoned() -> Iterator[None]:
    """New memory holds NaN, or numbers that no result has."""

    def fill(t: torch.Tensor) -> torch.Tensor:
        return t.fill_(float("nan") if t.is_floating_point() else -(2**30)) if t.numel() else t

    real = torch.empty_like, torch.Tensor.new_empty, torch.empty
    torch.empty_like = lambda *a, **k: fill(real[0](*a, **k))  # pyright: ignore[reportAttributeAccessIssue]
    torch.Tensor.new_empty = lambda *a, **k: fill(real[1](*a, **k))  # pyright: ignore[reportAttributeAccessIssue]
    torch.empty = lambda *a, **k: fill(real[2](*a, **k))  # pyright: ignore[reportAttributeAccessIssue]
    try:
        yield
    finally:
        torch.empty_like, torch.Tensor.new_empty, torch.empty = real


def flat(result: Any) -> list[torch.Tensor]:
    return [t.clone() for t in (result if isinstance(result, tuple) else (result,))]


def worst(ours: list[torch.Tensor], exact: list[torch.Tensor], indices: bool) -> float:
    """The greatest relative error of the results, or the share of indices that differ."""
    if indices:
        return max(float((a != b).double().mean()) for a, b in zip(ours, exact, strict=True))
    pairs = (
        (a.double(), b.double()) for a, b in zip(ours, exact, strict=True)
    )  # a pointer is a whole number
    return max(float((a - b).norm() / b.norm()) for a, b in pairs)


def copied(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        return value.clone()
    return value


def check(case: Case, device: str) -> dict[str, Any]:
    inputs = case.make(Make(device, DTYPES[case.precision]))
    exact = flat(case.eager(*upcast(inputs)))
    theirs = flat(case.eager(*map(copied, inputs)))
    with poisoned():
        ours = flat(case.fused(*map(copied, inputs)))
    a, b = worst(theirs, exact, case.indices), worst(ours, exact, case.indices)
    floor = 0.003 if case.indices else 2e-7
    good = b <= max(2 * a, floor)
    return {"name": case.name, "precision": case.precision, "pytorch": a, "fused": b, "good": bool(good)}


# ---- fast


def microseconds(call: Callable[[], Any], budget: float = 0.03) -> float:
    """Of a call, run back to back: the median of five runs that take about `budget` seconds together."""
    for _ in range(3):
        call()
    torch.cuda.synchronize()
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))

    def run(n: int) -> float:
        begin.record()
        for _ in range(n):
            call()
        end.record()
        end.synchronize()
        return 1000 * begin.elapsed_time(end) / n

    n = max(1, min(200, int(budget * 1e6 / 5 / max(run(2), 1))))
    return statistics.median(run(n) for _ in range(5))


def captured(call: Callable[[], Any], times: int = 10) -> Callable[[], Any]:
    """So many calls in one CUDA graph."""
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(2):
            call()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(times):
            call()
    return graph.replay


_SLOW_COUNT = 0.4  # seconds that counting may take where it is not asked for whole steps
_counted: list[float] = []


def count(call: Callable[[], Any], whole: bool = False) -> int | None:
    """Kernels that a call starts, as the profiler sees them."""
    if not whole and _counted and _counted[-1] > _SLOW_COUNT:
        return None
    begun = time.perf_counter()
    try:
        with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
            call()
            torch.cuda.synchronize()
        return sum(event.device_type == torch.autograd.DeviceType.CUDA for event in profile.events() or ())
    except Exception:
        return None
    finally:
        _counted.append(time.perf_counter() - begun)


def ceilings() -> tuple[float, float]:
    """Bytes a second of a copy, read and written; bf16 operations a second of a product."""
    x, y = (torch.randn(2**28, device="cuda") for _ in range(2))
    rate = 2 * x.numel() * 4 / microseconds(lambda: y.copy_(x)) * 1e6
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=BF16) for _ in range(2))
    return rate, 2 * 8192**3 / microseconds(lambda: a @ b) * 1e6


def roofline(entry: Any, rates: tuple[float, float]) -> float:
    """The least microseconds."""
    operations = rates[1] if entry.precision == "bf16" else 60e12
    return 1e6 * max(entry.bytes / rates[0], entry.flops / operations)


def time_case(case: Case, rates: tuple[float, float], record: Record) -> dict[str, Any]:
    inputs = case.make(Make("cuda", DTYPES[case.precision]))
    floor = roofline(case, rates)
    times: dict[str, float] = {}
    entry = {"name": case.name, "precision": case.precision, "us": times, "roofline_us": floor}
    gradient = "gradient" in case.name
    for label, function in (("fused", case.fused), ("eager", case.eager)):

        def call(function: Callable[..., Any] = function) -> Any:
            return function(*inputs)

        with record.guarded(f"{label} {case.name} {case.precision}"):
            times[label] = microseconds(call)
            if not gradient:
                times[f"{label} graph"] = microseconds(captured(call)) / 10
            entry[f"{label}_launches"] = count(call)
    best = min((us for label, us in times.items() if label.startswith("fused")), default=float("nan"))
    entry["share"] = floor / best
    return entry


def time_step(step: Step, rates: tuple[float, float], record: Record) -> dict[str, Any]:
    times: dict[str, float] = {}
    counts: dict[str, int | None] = {}
    floor = roofline(step, rates)
    entry: dict[str, Any] = {
        "name": step.name, "precision": step.precision, "us": times, "launches": counts, "roofline_us": floor,
        "target_us": step.target_us,
    }  # fmt: skip
    record.add("steps", entry)  # before it is full: a variant may end this process
    with record.guarded(f"{step.name} {step.precision}"):
        for label, call in step.build("cuda"):
            with record.guarded(f"{label}: {step.name} {step.precision}"):
                times[label] = microseconds(call)
                if "graph" not in label:
                    counts[label] = count(call, whole=True)
                record.write()
    best = min((us for label, us in times.items() if label.startswith("fused")), default=float("nan"))
    entry["share"] = floor / best
    record.write()
    return entry


def compile_column(case: Case, record: Record) -> None:
    """torch.compile of PyTorch's version, added to what was timed."""
    inputs = case.make(Make("cuda", DTYPES[case.precision]))
    with record.guarded(f"torch.compile {case.name} {case.precision}"):
        torch._dynamo.reset()
        function = torch.compile(case.eager, dynamic=False)
        us = microseconds(lambda: function(*inputs))
        for entry in record.data["kernels"]:
            if entry["name"] == case.name and entry["precision"] == case.precision:
                entry["us"]["compile"] = us
        print(f"{case.name:44} {case.precision}  torch.compile {us:9.1f} us", flush=True)
        record.write()


def line(entry: dict[str, Any]) -> str:
    us = "  ".join(f"{label} {value:.1f}" for label, value in entry["us"].items())
    text = f"{entry['name']:44} {entry['precision']}  {us}  | roofline {entry['roofline_us']:.1f} us"
    return text + f", {100 * entry['share']:.0f} %"


def on_gpu(record: Record, only: str) -> None:
    torch.manual_seed(time.time_ns() % 2**31)
    record.data["gpu"], record.data["torch"] = torch.cuda.get_device_name(), torch.__version__
    chosen = [case for case in cases() if only in case.name]
    whole = [step for step in steps() if only in step.name]
    print("\nerrors against float64, PyTorch's and ours", flush=True)
    for case in chosen:
        if record.left < 35 or not record.first(f"check {case.name} {case.precision}"):
            continue
        with record.guarded(f"check {case.name} {case.precision}"), _mode(case):
            entry = check(case, "cuda")
            record.add("checked", entry)
            verdict = "good" if entry["good"] else "WRONG"
            print(
                f"{case.name:44} {case.precision}  {entry['pytorch']:.2e}  {entry['fused']:.2e}  {verdict}",
                flush=True,
            )
    for step in whole:
        what = f"check {step.name} {step.precision}"
        if step.errors is None or record.left < 25 or not record.first(what):
            continue
        with record.guarded(f"check {step.name} {step.precision}"), torch.inference_mode():
            theirs, ours = step.errors("cuda")
            good = ours <= max(2 * theirs, 1e-6)
            entry = {
                "name": step.name,
                "precision": step.precision,
                "pytorch": theirs,
                "fused": ours,
                "good": good,
            }
            record.add("checked", entry)
            print(
                f"{step.name:44} {step.precision}  {theirs:.2e}  {ours:.2e}  {'good' if good else 'WRONG'}",
                flush=True,
            )
    rates = ceilings()
    record.data["copy_bytes_per_s"], record.data["bf16_flops"] = rates
    print(
        f"\ncopy {rates[0] / 1e12:.2f} TB/s, bf16 product {rates[1] / 1e12:.0f} TFLOP/s; microseconds\n",
        flush=True,
    )
    for step in whole:
        if record.left < 5 or not record.first(f"time {step.name} {step.precision}"):
            continue
        with record.guarded(f"time {step.name}"), torch.inference_mode():
            entry = time_step(step, rates, record)
            print(line(entry), f"launches {entry['launches']}", flush=True)
    for case in chosen:
        if record.left < 4 or not record.first(f"time {case.name} {case.precision}"):
            continue
        with record.guarded(f"time {case.name}"), _mode(case):
            entry = time_case(case, rates, record)
            record.add("kernels", entry)
            launched = f"launches {entry.get('eager_launches')} > {entry.get('fused_launches')}"
            print(line(entry), launched, flush=True)
    for shape, blocks in cuts(torch.cuda.get_device_capability()):
        name = f"cut {shape} {tuple(asdict(blocks).values())}"
        if only not in name or record.left < 4 or not record.first(name):
            continue
        with record.guarded(name), torch.no_grad():
            us = microseconds(captured(cut(shape, blocks, Make("cuda", BF16)))) / 10
            record.add("cuts", {"shape": shape, "blocks": asdict(blocks), "us": us})
            t, c, k = shape
            print(f"{name:60} {us:8.1f} us, {2 * t * c * c * k / us / 1e6:.0f} TFLOP/s", flush=True)
    slowest = 6.0  # seconds that one compilation may take
    for case in chosen:
        if record.left < slowest + 4:
            print("no time left for more of torch.compile", flush=True)
            break
        if "gradient" in case.name or not record.first(f"compile {case.name} {case.precision}"):
            continue
        begun = time.perf_counter()
        with _mode(case):
            compile_column(case, record)
        slowest = max(slowest, time.perf_counter() - begun)


def _mode(case: Case) -> Any:
    return nullcontext() if "gradient" in case.name else torch.no_grad()


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--compile-only", action="store_true", help="no GPU: compile, and print what comes out"
    )
    parser.add_argument(
        "--predict", action="store_true", help="no GPU: what the counts say, and nothing else"
    )
    parser.add_argument("--json", type=Path, help="write everything to this file too")
    parser.add_argument("--targets", nargs="+", default=None, choices=sorted(aot.TARGETS))
    parser.add_argument("--only", default="", help="cases and steps whose name has this in it")
    parser.add_argument("--limit-s", type=float, help="seconds for all of it (95 on a GPU)")
    parser.add_argument(
        "--representative", action="store_true", help="with --compile-only: the largest of each kernel"
    )
    parser.add_argument(
        "--markdown", action="store_true", help="with --compile-only: the table of docs/kernels.md"
    )
    parser.add_argument("--workers", type=int, default=max(1, min(14, (os.cpu_count() or 2) - 1)))
    parser.add_argument("--resume", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if not aot.available():
        sys.exit(
            "kernels are compiled by triton, which is not installed (or TRITON_INTERPRET is set): unset it"
        )
    limit = 95.0 if args.limit_s is None else args.limit_s
    record = Record(args.json, limit, args.resume)
    if args.predict or args.compile_only:
        predict(record, args.only)
    if args.predict:
        return
    if args.compile_only:
        targets = args.targets or ["sm_90", "sm_80"]
        left = compile_all(record, targets, args.only, args.limit_s, args.workers, args.representative)
        if args.json:
            args.json.write_text(json.dumps(record.data["compiled"], indent=1))
        if args.markdown:
            print(markdown(record.data["compiled"]))
        bad = [e for e in record.data["compiled"] if "error" in e]
        if bad or record.data["failed"]:
            sys.exit(f"{len(bad)} kernels do not compile")
        spilling = [f"{e['name']} on {e['target']}" for e in record.data["compiled"] if e["spills"]]
        if spilling:
            sys.exit(f"{len(spilling)} kernels spill: {', '.join(spilling)}")
        sys.exit(f"{left} kernels are left: run this again" if left else 0)
    if not args.resume:  # before CUDA starts: processes are forked
        with record.guarded("compiling ahead"):
            compile_all(record, args.targets or ["sm_90"], args.only, 0.45 * limit, args.workers)
    if not torch.cuda.is_available():
        sys.exit("there is no GPU here; --compile-only needs none")
    on_gpu(record, args.only)
    print("\nwhole steps, microseconds", flush=True)  # once more: a log's end is what is looked at
    for entry in record.data["steps"]:
        if "share" in entry:
            print(line(entry), f"bar {entry['target_us']} launches {entry['launches']}", flush=True)
    taken = limit - record.left
    wrong = [f"{e['name']} {e['precision']}" for e in record.data["checked"] if not e["good"]]
    print(f"\n{taken:.0f} s; {len(record.data['checked'])} checked, wrong: {wrong or 'none'}; "
          f"failed: {[e['what'] for e in record.data['failed']] or 'none'}")  # fmt: skip
    record.data["seconds"] = taken
    record.write()


if __name__ == "__main__":
    main()
