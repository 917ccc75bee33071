"""With `pytest -n` the workers share the processor: each gets its threads before torch counts them. Nothing
may hang on how fast the machine is."""

import gc
import os
import runpy
import weakref
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

if workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "0")):
    os.environ.setdefault("OMP_NUM_THREADS", str(max(1, (os.cpu_count() or 1) // workers)))

# What is imported to collect the tests stays: looking for cycles in it takes seconds each time, and finds none.
gc.disable()


@pytest.hookimpl(wrapper=True)
def pytest_collection() -> Generator[None, Any, Any]:
    try:
        return (yield)
    finally:
        gc.freeze()
        gc.enable()


# No timing assertions: a machine that others keep busy is slow at drawing examples, too.
settings.register_profile("patient", deadline=None, suppress_health_check=[HealthCheck.too_slow])
settings.load_profile("patient")

# Triton's kernels run in its interpreter (tests/kernels), which has to be asked for before any of them is imported.
# TRITON_INTERPRET=0 runs them on a GPU instead.
os.environ.setdefault("TRITON_INTERPRET", "1")

# Before encodec, tortoise-tts and transformers, which are references here, import torchaudio.
runpy.run_path(str(Path(__file__).parents[1] / "benchmarks" / "references.py"))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """With `-n` a worker takes half of the tests, and then what another has not come to: those of a file stay together,
    so that what its fixtures make is made once. `--dist` with another value than the default `load` is left alone."""
    if config.getvalue("dist") != "load":
        return None
    from xdist.scheduler import WorkStealingScheduling

    return WorkStealingScheduling(config, log)


@pytest.fixture(autouse=True)
def threads_of_torch() -> Generator[None, None, None]:
    """What one test sets is no other's: a trainer sets torch's threads for the process, OpenMP in other libraries for
    the thread that calls them, and threads that begin take the number that torch was told last."""
    import torch  # after the number above

    before = torch.get_num_threads()
    torch.set_num_threads(
        before
    )  # also for threads that begin: fixtures of modules may have left another number
    yield
    torch.set_num_threads(before)


@pytest.fixture(autouse=True, scope="session")
def float32_of_a_gpu() -> None:
    """Convolutions in float32, not in TF32's ten bits, which cuDNN takes unasked: what is compared is the code."""
    import torch

    torch.backends.cudnn.allow_tf32 = False


@pytest.fixture(scope="session")
def save_tiny_flow() -> Callable[..., None]:
    """Writes tiny models of the flow path into a folder. tokens_hash: of the tokenizer that they say they belong to."""
    import torch
    from myna.codec.checkpoint import weights_hash
    from myna.codec.mel.speech_tokens import SpeechTokenizer, SpeechTokensConfig
    from myna.codec.mel_vocoder import MelVocoder, MelVocoderConfig
    from myna.data.checkpoint import save_checkpoint
    from myna.layers.dit import DiTConfig
    from myna.tts.decoders.flow.decoder import FlowConfig, FlowDecoder
    from myna.tts.lm.token_ar import TokenAR, TokenARConfig
    from myna.tts.registry import FLOW_FILES

    dit = DiTConfig(width=32, depth=1, n_heads=2, hidden=24, kernel=3, context=400)

    def save(folder: Path, tokens_hash: str | None = None) -> None:
        torch.manual_seed(0)
        tokenizer = SpeechTokenizer(SpeechTokensConfig(width=16, depth_before=1, depth=1))
        flow = FlowDecoder(FlowConfig(text_width=24, text_depth=1, condition=16, trunk=dit, head=dit))
        small = {"width": 32, "depth": 1, "n_heads": 2, "n_kv_heads": 1, "hidden": 24, "text_depth": 1}
        ar = TokenAR(TokenARConfig(**small, context=256))
        vocoder = MelVocoder(MelVocoderConfig(width=16, depth=1))
        for model in (tokenizer, flow, ar, vocoder):  # what starts at zero would hide mistakes
            for parameter in model.parameters():
                if parameter.abs().sum() == 0:
                    parameter.data.normal_(0, 0.1)
        own = {"tokens_hash": tokens_hash or weights_hash(tokenizer)[:16]}
        save_checkpoint(tokenizer, tokenizer.config, folder / FLOW_FILES["tokens"], "tokens")
        save_checkpoint(flow, flow.config, folder / FLOW_FILES["flow"], "flow", own)
        save_checkpoint(ar, ar.config, folder / FLOW_FILES["ar"], "token-ar", own)
        save_checkpoint(vocoder, vocoder.config, folder / FLOW_FILES["vocoder"], "mel-vocoder")

    return save


@pytest.fixture
def no_synchronisation() -> type:
    """A context in which whatever makes a GPU and its host wait for one another raises: reading a number out of a
    tensor, a result whose shape hangs on one, or numbers of Python's that a tensor is made of, which a GPU would have
    to be sent. What runs in it can be captured in a CUDA graph as far as that goes."""
    import torch
    from torch.overrides import TorchFunctionMode

    asking = {
        *(getattr(torch.Tensor, name) for name in ("item", "tolist", "numpy", "cpu", "nonzero")),
        *(getattr(torch.Tensor, f"__{name}__") for name in ("bool", "int", "float", "index")),
        *(
            getattr(torch.Tensor, name)
            for name in ("masked_select", "unique", "equal", "allclose", "new_tensor")
        ),
        *(
            getattr(torch, name)
            for name in ("nonzero", "masked_select", "unique", "equal", "allclose", "bincount")
        ),
        *(torch.tensor, torch.as_tensor, torch.from_numpy),
    }
    indexing = {torch.Tensor.__getitem__, torch.Tensor.__setitem__}
    repeating = {torch.repeat_interleave, torch.Tensor.repeat_interleave}

    def waits(func, args, kwargs) -> bool:
        if func in indexing:  # a mask: how many are true is asked; a list: its numbers are sent
            index = args[1] if isinstance(args[1], tuple) else (args[1],)
            masks = (isinstance(i, torch.Tensor) and i.dtype == torch.bool for i in index)
            return any(masks) or any(isinstance(i, list) for i in index)
        if func in repeating:
            return any(isinstance(a, torch.Tensor) for a in args[1:]) and kwargs.get("output_size") is None
        return func in asking or (func is torch.where and len(args) == 1 and not kwargs)

    class NoSynchronisation(TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            if waits(func, args, kwargs or {}):
                raise AssertionError(f"{func.__name__} waits for the device")
            return func(*args, **(kwargs or {}))

    return NoSynchronisation


@pytest.fixture
def steadily(monkeypatch) -> Any:
    """Steps of streams go the way that a GPU goes, uncaptured on a CPU, from the second of a kind on. `shapes` of the
    inputs that went it, `count` of those of one length."""
    from myna.layers import steady

    class Taken:
        def __init__(self) -> None:
            self.shapes: list[tuple[int, ...]] = []

        def count(self, length: int, axis: int = -1) -> int:
            return [shape[axis] for shape in self.shapes].count(length)

    taken, real = Taken(), steady.HeldStep.__call__

    def call(self, inputs):
        y = real(self, inputs)
        taken.shapes.append(tuple(inputs[0].shape))
        return y

    monkeypatch.setattr(steady.HeldStep, "__call__", call)
    monkeypatch.setattr(steady, "may_capture", lambda _: True)
    monkeypatch.setattr(steady, "AFTER", 2)
    monkeypatch.setattr(steady, "_STEPS", weakref.WeakKeyDictionary())
    return taken
