"""TorToise's autoregressive network here and in the package tortoise-tts, at the published size, on random weights.

    python benchmarks/tortoise.py [--threads 2] [--json]

The reference is the inference model of tortoise-tts 3.0.0 with its cache (`past_key_values`), in a loop that does what
transformers' `generate` did for it (its own `generate` runs on transformers 4.31 only), with transformers' processors
of logits. Every measurement is a process of its own, and the two alternate, so that what else the machine does falls
on both. Memory is the most that a process had (resident), loading included.

Needs tortoise-tts as `tests/tts/tortoise/reference.py` says, 4 GB of memory and 2 GB of disk.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

# A script's own folder is searched first, and this script has the name of the package.
sys.path[:] = [path for path in sys.path if Path(path or ".").resolve() != Path(__file__).resolve().parent]

TEXT = list(range(14, 74))  # 60 tokens: a sentence
TESTS = Path(__file__).resolve().parents[1] / "tests" / "tts" / "tortoise"
PRECISIONS = ("float32", "half", "int8", "bfloat16")


def make(folder: Path) -> None:
    """A file as published, of random weights."""
    import torch

    model = _reference()
    with torch.no_grad():
        model.mel_head.bias[8193] = -1e4  # so that no candidate ends
    torch.save(model.state_dict(), folder / "autoregressive.pth")


def _reference():
    sys.path.insert(0, str(TESTS))
    import reference
    import torch

    torch.manual_seed(0)
    kind = reference.module("models.autoregressive").UnifiedVoice
    return kind(
        max_mel_tokens=604,
        max_text_tokens=402,
        max_conditioning_inputs=2,
        layers=30,
        model_dim=1024,
        heads=16,
        number_text_tokens=255,
        start_text_token=255,
        checkpointing=False,
        train_solo_embeddings=False,
    ).eval()


def _voice():
    import torch

    return torch.randn(1, 1024, generator=torch.Generator().manual_seed(1))


def run_reference(folder: Path, batch: int, n_codes: int) -> dict[str, float]:
    """Seconds a code, and megabytes."""
    import torch
    from transformers.generation import logits_process

    model = _reference()
    model.load_state_dict(torch.load(folder / "autoregressive.pth", map_location="cpu"))
    model.post_init_gpt2_config(kv_cache=True)
    text = torch.tensor([[*TEXT, 0]])
    padded = torch.nn.functional.pad(torch.nn.functional.pad(text, (0, 1)), (1, 0), value=255)
    embedded = torch.cat(
        [_voice()[:, None], model.text_embedding(padded) + model.text_pos_embedding(padded)], dim=1
    )
    inference = model.inference_model
    inference.store_mel_emb(embedded)
    ids = torch.full((batch, embedded.shape[1] + 1), 1)
    ids[:, -1] = 8192
    processors = (
        logits_process.RepetitionPenaltyLogitsProcessor(2.0),
        logits_process.TemperatureLogitsWarper(0.8),
        logits_process.TopKLogitsWarper(50),
        logits_process.TopPLogitsWarper(0.8),
    )
    past, clock = None, Clock()
    with torch.no_grad():
        for _ in range(n_codes):
            clock.start()
            step = ids if past is None else ids[:, -1:]
            out = inference(
                input_ids=step,
                past_key_values=past,
                attention_mask=torch.ones_like(ids),
                use_cache=True,
                return_dict=True,
            )
            past, scores = out.past_key_values, out.logits[:, -1]
            for process in processors:
                scores = process(ids, scores)
            ids = torch.cat([ids, torch.multinomial(scores.softmax(-1), 1)], dim=1)
            clock.stop()
    return clock.measured()


def run_ours(folder: Path, batch: int, n_codes: int, precision: str) -> dict[str, float]:
    """Seconds a code, and megabytes."""
    import torch
    from myna.tts.tortoise.generate import CodeOptions, code_steps
    from myna.tts.tortoise.model.autoregressive import Autoregressive
    from myna.tts.tortoise.networks import Networks
    from myna.tts.tortoise.precision import check_precision

    networks = Networks(folder, precision=check_precision(precision))
    model = networks.get("autoregressive", Autoregressive)
    voice = _voice().to(next(model.parameters()).dtype)
    text = torch.tensor([[*TEXT, 0]])
    clock = Clock()
    clock.start()
    for _ in code_steps(model, voice, text, CodeOptions(max_codes=n_codes), list(range(batch))):
        clock.stop()
        clock.start()
    return clock.measured()


def run_parity(folder: Path) -> dict[str, float]:
    """The largest difference of logits and latents, both in float32."""
    import torch
    from myna.tts.tortoise.adapter import load_published

    theirs = _reference()
    theirs.load_state_dict(torch.load(folder / "autoregressive.pth", map_location="cpu"))
    mine = load_published("autoregressive", folder / "autoregressive.pth")
    text, codes = torch.tensor([TEXT]), torch.arange(0, 8000, 250)[None]
    lengths = torch.tensor([len(TEXT)]), torch.tensor([codes.shape[1] * 1024])
    with torch.no_grad():
        expected = theirs(
            _voice(), text, lengths[0], codes, lengths[1], return_latent=True, clip_inputs=False
        )
        latents = mine.latents(_voice(), text, codes)
        logits, others = mine.code_head(latents), theirs.mel_head(expected)
    return {
        "latents": float((latents - expected).abs().max()),
        "logits": float((logits - others).abs().max()),
    }


class Clock:
    """Steps on the wall's clock and in the processor's time of all threads."""

    def __init__(self) -> None:
        self.wall: list[float] = []
        self.processor: list[float] = []

    def start(self) -> None:
        self._began = time.perf_counter(), time.process_time()

    def stop(self) -> None:
        self.wall.append(time.perf_counter() - self._began[0])
        self.processor.append(time.process_time() - self._began[1])

    def measured(self) -> dict[str, float]:
        """Milliseconds a step, the first aside. "ms" is the lowest decile of the wall's clock: what else the machine
        does only ever adds; "ms_median" the median; "cpu_ms" the median of the processor's time."""
        return {
            "ms": 1000 * statistics.quantiles(self.wall[1:], n=10)[0],
            "ms_median": 1000 * statistics.median(self.wall[1:]),
            "cpu_ms": 1000 * statistics.median(self.processor[1:]),
            "first_ms": 1000 * self.wall[0],
            "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000,
            "codes": len(self.wall),
        }


def worker(folder: Path, threads: int, *arguments: str) -> dict[str, float]:
    """One measurement in a process of its own."""
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": str(threads),
        "OMP_WAIT_POLICY": "passive",
        "PYTHONWARNINGS": "ignore",
    }
    command = [sys.executable, __file__, "--worker", *arguments, "--folder", str(folder)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(arguments)} failed:\n{done.stderr[-2000:]}")
    return json.loads(done.stdout.strip().splitlines()[-1])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--codes", type=int, default=40, help="drawn in a measurement")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--precision", default="half", help="the one that the ratios are of")
    parser.add_argument("--precisions", nargs="*", default=list(PRECISIONS), help="that are measured")
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--folder", type=Path)
    parser.add_argument("--worker", nargs="+", metavar="WHAT")
    chosen = parser.parse_args()
    if chosen.worker:
        what, *rest = chosen.worker
        if what == "make":
            make(chosen.folder)
            result = {}
        elif what == "parity":
            result = run_parity(chosen.folder)
        elif what == "reference":
            result = run_reference(chosen.folder, int(rest[0]), int(rest[1]))
        else:
            result = run_ours(chosen.folder, int(rest[0]), int(rest[1]), what)
        print(json.dumps(result))
        return
    with tempfile.TemporaryDirectory(prefix="myna-tortoise-") as name:
        report = measure(Path(name), chosen)
    print(json.dumps(report) if chosen.json else describe(report))


def _has(precision: str) -> bool:
    """Whether this processor multiplies so."""
    import torch
    from myna.kernels.int8 import int8_engine

    if precision == "bfloat16":
        return torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return precision != "int8" or int8_engine() is not None


def measure(folder: Path, chosen: argparse.Namespace) -> dict:
    """All measurements."""
    worker(folder, chosen.threads, "make")
    parity = worker(folder, chosen.threads, "parity")
    table: dict[str, dict[str, dict[str, float]]] = {}
    wanted = dict.fromkeys([chosen.precision, *chosen.precisions])
    lacking = [precision for precision in wanted if not _has(precision)]
    for precision in lacking:
        print(f"{precision}: left out, this processor has no such products", file=sys.stderr)
    systems = ("reference", *(precision for precision in wanted if precision not in lacking))
    if chosen.precision in lacking:
        raise SystemExit(
            f"--precision {chosen.precision}: this processor has no such products; choose another"
        )
    for batch in ("1", "4"):
        runs: dict[str, list[dict[str, float]]] = {system: [] for system in systems}
        for _ in range(chosen.repeats):
            for system in systems:
                found = worker(folder, chosen.threads, system, batch, str(chosen.codes))
                print(f"{system}, batch {batch}: {found['ms']:.1f} ms a step", file=sys.stderr)
                runs[system].append(found)
        table[batch] = {
            # The quickest: what the machine does besides only ever adds.
            system: min(found, key=lambda run: run["ms"])
            for system, found in runs.items()
        }
    reference = {batch: rows["reference"] for batch, rows in table.items()}
    ours = {batch: rows[chosen.precision] for batch, rows in table.items()}
    return {
        "ar_ratio_1": reference["1"]["ms"] / ours["1"]["ms"],
        "ar_ratio_4": reference["4"]["ms"] / ours["4"]["ms"],
        "memory_ratio": ours["4"]["peak_mb"] / reference["4"]["peak_mb"],
        "parity_max": max(parity.values()),
        "cpu_ratio_1": reference["1"]["cpu_ms"] / ours["1"]["cpu_ms"],
        "cpu_ratio_4": reference["4"]["cpu_ms"] / ours["4"]["cpu_ms"],
        "precision": chosen.precision,
        "threads": chosen.threads,
        "table": table,
    }


def describe(report: dict) -> str:
    """A table for people."""
    lines = [f"{'':12}{'batch':>6}{'ms a step':>11}{'codes a s':>11}{'cpu ms':>9}{'peak MB':>9}"]
    for batch, rows in report["table"].items():
        for system, row in rows.items():
            rate = 1000 * int(batch) / row["ms"]
            lines.append(
                f"{system:12}{batch:>6}{row['ms']:>11.1f}{rate:>11.1f}{row['cpu_ms']:>9.1f}{row['peak_mb']:>9.0f}"
            )
    lines.append(
        f"{report['precision']} against the reference, {report['threads']} threads: "
        f"{report['ar_ratio_1']:.2f} times as fast, {report['ar_ratio_4']:.2f} times with four candidates, "
        f"in processor time {report['cpu_ratio_1']:.2f} and {report['cpu_ratio_4']:.2f}, "
        f"with {report['memory_ratio']:.2f} of its memory; in float32 they differ by {report['parity_max']:.1e}"
    )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
