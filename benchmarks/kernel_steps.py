"""Whole steps for `benchmarks/kernels.py`: what a frame of speech takes from codes to samples, and from frame to frame.

Weights are random, of the shapes that ship. Every step is timed as the models' own code, that code in a CUDA graph, the
fused step, and the fused step in a CUDA graph; and what comes out is compared with the same code in float64.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from copy import deepcopy
from dataclasses import dataclass
from typing import Any
from unittest.mock import patch

import torch
from kernel_cases import sample_with_sort
from myna.codec.dac import DAC, DAC_24K, DAC_44K, dac_decoder
from myna.codec.dac_fused import FusedDACDecoder
from myna.codec.encodec import Encodec
from myna.codec.myna import MynaCodec, expand
from myna.codec.myna_fused import FusedMynaDecoder
from myna.codec.seanet import SEANetConfig, seanet_decoder
from myna.kernels.gpu import rvq, sampling, token_moves
from myna.kernels.gpu.launch import overlapping
from myna.kernels.gpu.linear_rows import linear_rows
from myna.layers import transformer_fused
from myna.layers.graph import CapturedStep, StreamGraph
from myna.layers.streaming import Stream
from myna.layers.transformer import Transformer, TransformerConfig
from myna.layers.transformer_fused import FusedTransformer
from myna.tts.lm.quantize import for_inference
from myna.tts.lm.sampling import SamplingOptions, uniforms
from myna.tts.lm.token_ar import TokenAR, TokenARConfig
from myna.tts.lm.token_generate import TokenGenerator, TokenPrompt
from myna.tts.lm.token_slots import TokenSlots
from myna.tts.lm.token_step import N_NUMBERS
from myna.tts.text.phones import Phones
from torch import Tensor

F32, BF16 = torch.float32, torch.bfloat16


@dataclass(frozen=True)
class Step:
    """build: on a device, to variants by name ("eager", "graph", "fused", "fused graph", ...), each a function to time.
    errors: on a device, to relative errors against float64, of PyTorch and fused in the same precision; None: nothing
    is fused.
    launch: on the CPU, calls the fused step once, to have its launches recorded.   target_us: the bar, if any."""

    name: str
    precision: str
    build: Callable[[str], Iterator[tuple[str, Callable[[], Any]]]]
    errors: Callable[[str], tuple[float, float]] | None
    launch: Callable[[], Any]
    bytes: float
    flops: float
    target_us: float | None = None


def steps() -> list[Step]:
    """The bars first."""
    return [
        _myna(F32, 1, 60.0),
        _myna(BF16, 1, 60.0),
        _token(1, 130.0),
        _ar(F32, 320, 6, 4, 2, 640, 130.0),
        _ar(BF16, 512, 12, 8, 8, 1408, 130.0),
        _dac(DAC_44K, 1000.0),
        _dac(DAC_24K, 1000.0),
        _encodec(),
        _myna(F32, 8),
        _myna(F32, 32),
        _ar(BF16, 320, 6, 4, 2, 640, None, batch=16),
        _token(8),
    ]


def error(y: Tensor, reference: Tensor) -> float:
    return float((y.double().cpu() - reference.cpu()).norm() / reference.cpu().norm())


def size(make: Callable[[], torch.nn.Module]) -> int:
    """Parameters of what `make` makes, without making it."""
    with torch.device("meta"):
        return sum(p.numel() for p in make().parameters())


def shaken(module: torch.nn.Module) -> torch.nn.Module:
    """With weights that make every layer matter: new ConvNeXt blocks, for one, are the identity."""
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in module.parameters():
            fan = parameter[0].numel() if parameter.ndim > 1 else 0
            scale = 0.5 * fan**-0.5 if fan > 1 else 0.05
            parameter.add_(torch.randn_like(parameter) * scale)
    return module.eval().requires_grad_(False)


def agree(
    step: Callable[..., Tensor], captured: CapturedStep, inputs: tuple[Tensor, ...], state: list[Tensor]
) -> None:
    """Raises RuntimeError unless six steps, one by one and captured, give the same from the same state."""
    saved, results = [t.clone() for t in state], []
    for run in (step, captured):
        results.append(torch.stack([run(*inputs).double() for _ in range(6)]))
        for tensor, before in zip(state, saved, strict=True):
            tensor.copy_(before)
    off = float((results[0] - results[1]).norm() / results[0].norm())
    if not off < 1e-6:
        raise RuntimeError(f"a captured step differs from the step itself by {off:.1e}")


def in_dtype(decoder: Any, dtype: torch.dtype) -> Any:
    """A copy of myna-24k's decoder in `dtype`; its inverse MDCT is always in float32."""
    decoder = deepcopy(decoder).to(dtype)
    decoder.layers[-2].mdct.float()
    decoder.layers[-2].scale = decoder.layers[-2].scale.float()
    return decoder


_MADE: dict[str, Any] = {}


def once(name: str, make: Callable[[], Any]) -> Any:
    """Models are made once, on the CPU, and copied."""
    if name not in _MADE:
        _MADE[name] = make()
    return _MADE[name]


def _exact(decoder: Any, latents: Tensor) -> Tensor:
    """In float64, the inverse MDCT too, which the decoder itself does in float32."""
    decoder = deepcopy(decoder).double()
    *most, synthesis, overlap = decoder.layers
    x = latents.double()
    for layer in most:
        x = layer(x)
    c = expand(synthesis.project(x)) * synthesis.scale
    return overlap(torch.einsum("bht,wh->bwt", c, synthesis.mdct.basis))


def _myna(dtype: torch.dtype, batch: int, target: float | None = None) -> Step:
    def model() -> MynaCodec:
        return once("myna", lambda: shaken(MynaCodec()))

    def build(device: str) -> Iterator[tuple[str, Callable[[], Any]]]:
        codec = deepcopy(model()).to(device)
        codes = torch.randint(0, 1024, (batch, 8, 1), device=device)
        active = torch.ones(batch, dtype=torch.bool, device=device)
        latents = codec.quantizer.decode(codes)
        own = in_dtype(codec.decoder, dtype)
        stream = Stream(own, batch)
        like = latents.to(dtype)
        yield "eager", lambda: stream.push(codec.quantizer.decode(codes).to(dtype))
        graph = StreamGraph(Stream(own, batch), like)
        yield "graph", lambda: graph.push(like, active)
        fused = FusedMynaDecoder(codec, batch, 1, dtype)
        yield "fused", lambda: fused.step(codes, active)
        captured = CapturedStep(fused.step, (codes, active), fused.state)
        agree(fused.step, captured, (codes, active), fused.state)
        yield "fused graph", lambda: captured(codes, active)
        with overlapping():
            closer = CapturedStep(fused.step, (codes, active), fused.state)
        agree(fused.step, closer, (codes, active), fused.state)
        yield "fused graph, overlapping", lambda: closer(codes, active)

    def errors(device: str) -> tuple[float, float]:
        codec = model()
        codes = torch.randint(0, 1024, (batch, 8, 12))
        latents = codec.quantizer.decode(codes)
        exact = _exact(codec.decoder, latents)
        moved = deepcopy(codec).to(device)
        stream = Stream(in_dtype(moved.decoder, dtype), batch)
        fused = FusedMynaDecoder(moved, batch, 1, dtype)
        codes, latents = codes.to(device), latents.to(device, dtype)
        theirs = torch.cat([stream.push(latents[..., t : t + 1]) for t in range(12)], -1)
        ours = torch.cat([fused.step(codes[..., t : t + 1]) for t in range(12)], -1)
        return error(theirs, exact), error(ours, exact)

    def launch() -> Any:
        fused, codes = FusedMynaDecoder(model(), batch, 1, dtype), torch.zeros(batch, 8, 1, dtype=torch.int64)
        fused.step(codes)
        with overlapping():
            fused.step(codes)

    n = size(lambda: MynaCodec().decoder)
    name = f"decoder step, myna-24k B{batch}"
    precision = "fp32" if dtype == F32 else "bf16"
    return Step(name, precision, build, errors, launch, n * dtype.itemsize, 3 * n * batch, target)


def _encodec() -> Step:
    def model() -> Encodec:
        return once("encodec", lambda: shaken(Encodec()))

    def build(device: str) -> Iterator[tuple[str, Callable[[], Any]]]:
        decoder = deepcopy(model().decoder).to(device)
        chunk = torch.randn(1, 128, 1, device=device)
        active = torch.ones(1, dtype=torch.bool, device=device)
        stream = Stream(decoder)
        for _ in range(8):
            stream.push(chunk)
        yield "eager", lambda: stream.push(chunk)
        graph = StreamGraph(Stream(decoder), chunk)
        yield "graph", lambda: graph.push(chunk, active)

    n = size(lambda: seanet_decoder(SEANetConfig()))
    return Step(
        "decoder step, EnCodec 24k", "fp32", build, None, lambda: None, 4 * n, 40e6
    )  # fmt: skip


def _dac(config: Any, target: float, frames: int = 64) -> Step:
    variants = [(256, "fused"), (128, "fused, units to 128")][: 2 if config is DAC_44K else 1]

    def model() -> DAC:
        def make() -> DAC:
            codec = DAC(config)
            for parameter in codec.decoder.parameters():
                if parameter.ndim == 3 and parameter.shape[0] == 1 and parameter.shape[2] == 1:
                    parameter.data.uniform_(0.3, 1.5)  # alpha
            return codec.eval().requires_grad_(False)

        return once(config.name, make)

    def build(device: str) -> Iterator[tuple[str, Callable[[], Any]]]:
        codec = deepcopy(model()).to(device)
        latents = torch.randn(1, config.latent_dim, frames, device=device)
        half = deepcopy(codec.decoder).to(BF16)
        given = latents.to(BF16)
        yield "eager", lambda: half(given)
        captured = CapturedStep(half, (given,))
        yield "graph", lambda: captured(given)
        for widest, label in variants:
            fused = FusedDACDecoder(codec, BF16, widest)
            yield label, lambda fused=fused: fused(latents)
            graph = CapturedStep(fused, (latents,))
            yield label.replace("fused", "fused graph"), lambda graph=graph: graph(latents)

    def errors(device: str) -> tuple[float, float]:
        latents = torch.randn(1, config.latent_dim, frames)
        codec = deepcopy(model()).to(device)
        exact = deepcopy(codec.decoder).double()(latents.double().to(device))
        theirs = deepcopy(codec.decoder).to(BF16)(latents.to(device, BF16))
        return error(theirs, exact), error(FusedDACDecoder(codec)(latents.to(device)), exact)

    def launch() -> Any:
        latents = torch.zeros(1, config.latent_dim, frames)
        for widest, _ in variants:
            FusedDACDecoder(model(), BF16, widest)(latents)

    flops, length, width = 0.0, float(frames), config.decoder_dim
    for stride in config.decoder_rates:
        flops += 4 * length * width * width // 2 * stride
        length, width = length * stride, width // 2
        flops += 3 * 16 * length * width**2
    n = size(lambda: dac_decoder(config))
    name = f"DAC decode, {frames} frames, {config.name}"
    return Step(name, "bf16", build, errors, launch, 2 * n, flops, target)


class ARStep:
    """A step of the AR: embedding of the last code, transformer, logits, a draw. Random weights."""

    def __init__(self, model: Transformer, batch: int, dtype: torch.dtype, device: str, v: int = 1024):
        width, self.dtype = model.config.width, dtype
        torch.manual_seed(1)
        self.table = torch.randn(v, width).to(device, dtype)
        self.head = (torch.randn(v, width) * width**-0.5 * 3).to(device, dtype)
        self.bias = torch.zeros(v, device=device)
        self.code = torch.zeros(batch, dtype=torch.int64, device=device)
        self.weights = torch.zeros(batch, 0, device=device)
        self.options = torch.tensor([[0.9, 0, 0.9, 0.5]], device=device).repeat(batch, 1)
        self.recent = torch.full((batch, 10), -1, dtype=torch.int64, device=device)
        self.own = deepcopy(model).to(device, dtype)
        self.own.rotary.float()
        self.position, self.caches = self.own.init_state(batch, self.table)
        self.fused = FusedTransformer(self.own, batch, dtype)

    def fill(self, position: int) -> None:
        """As if so many frames had been."""
        for cache in (*self.caches, *self.fused.caches):
            for t in cache:
                t.normal_()
        self.position.fill_(position)
        self.fused.position.fill_(position)

    def eager(self, phone: Tensor, numbers: Tensor) -> Tensor:
        x = torch.nn.functional.embedding(self.code, self.table) + phone
        hidden, (following, _) = self.own.step(x[:, :, None], (self.position, self.caches))
        logits = torch.nn.functional.linear(hidden[:, :, 0], self.head, self.bias.to(self.dtype))
        code = sample_with_sort(logits.float()[:, None], self.weights, self.options, numbers, self.recent)
        self.code.copy_(code)
        self.position.copy_(following)
        return code

    def step(self, phone: Tensor, numbers: Tensor) -> Tensor:
        x = rvq.rvq_decode(self.code[:, None], self.table[None]) + phone
        logits = linear_rows(self.fused.step(x), self.head, self.bias)
        code = sampling.sample(logits[:, None], self.weights, self.options, numbers, self.recent)
        self.code.copy_(code)
        return code

    @property
    def state(self) -> list[Tensor]:
        """All tensors that either step changes."""
        own = [t for cache in self.caches for t in cache]
        return [self.position, *own, *self.fused.state, self.code, self.recent]


@contextmanager
def kernels(on: bool) -> Iterator[None]:
    """Whether models take kernels, where there is a GPU."""
    before = os.environ.get("MYNA_KERNELS")
    os.environ["MYNA_KERNELS"] = "on" if on else "off"
    try:
        yield
    finally:
        del os.environ["MYNA_KERNELS"]
        if before is not None:
            os.environ["MYNA_KERNELS"] = before


@contextmanager
def pretended() -> Iterator[None]:
    """As if the CPU were a GPU, so that launches can be recorded."""
    with ExitStack() as stack:
        for module in (transformer_fused, sampling, token_moves):
            stack.enter_context(patch.object(module, "supports", lambda *_: True))
        yield


def _token(slots: int, target: float | None = None, rows: int = 3) -> Step:
    """The token AR as it speaks (`TokenSlots`): inputs, heads, draws and pointers, too, after a prompt of 500 tokens.
    Random weights, and numbers that are drawn before."""
    config = TokenARConfig()
    transformer = TransformerConfig(
        width=config.width, depth=config.depth, n_heads=config.n_heads, n_kv_heads=config.n_kv_heads,
        hidden=config.hidden, context=config.context,
    )  # fmt: skip
    options = SamplingOptions(text_guidance=2.0, voice_guidance=1.5)
    phones = Phones.from_ipa("ænd nˈaʊ ðə ɹˈɛst. " * 10)

    def empty(device: str, dtype: torch.dtype = F32) -> TokenSlots:
        net: Any = deepcopy(once("token ar", lambda: TokenAR(config).eval().requires_grad_(False)))
        net = for_inference(net.to(device, dtype), "float32")
        return TokenSlots(net, options, slots, rows, 256)

    def opened(device: str, dtype: torch.dtype = F32) -> TokenSlots:
        made = empty(device, dtype)
        speaker = torch.nn.functional.normalize(torch.arange(256.0), dim=0)
        one = TokenGenerator(made.model, phones, TokenPrompt(torch.arange(500), speaker), options)
        for slot in range(slots):
            made.join(slot, one.step, one.begin(uniforms(slot)))
        return made

    def given(device: str) -> tuple[Tensor, Tensor]:
        numbers = torch.rand(slots, N_NUMBERS, dtype=torch.float64, device=device)
        return numbers, torch.ones(slots, dtype=torch.bool, device=device)

    def build(device: str) -> Iterator[tuple[str, Callable[[], Any]]]:
        inputs = given(device)
        for on, eager, graph in ((False, "eager", "graph"), (True, "fused", "fused graph")):
            with kernels(on):
                own = opened(device)
                yield eager, lambda own=own: own._advance(*inputs)
                yield graph, lambda own=own: own(*inputs)

    def errors(device: str) -> tuple[float, float]:
        """Of the hidden states of six tokens, which are the same tokens."""
        numbers, said, hidden = [given("cpu")[0] for _ in range(6)], [], []
        for place, dtype, on in (("cpu", torch.float64, False), (device, F32, False), (device, F32, True)):
            with kernels(on):
                own, active = opened(place, dtype), given(place)[1]
                frames = [[t.clone().cpu() for t in own(each.to(place), active)] for each in numbers]
            said.append([frame[0].tolist() for frame in frames])
            hidden.append(torch.stack([frame[2].double() for frame in frames]))
        if said[1] != said[0] or said[2] != said[0]:
            raise RuntimeError(f"tokens are not the same: {said}")
        return error(hidden[1], hidden[0]), error(hidden[2], hidden[0])

    def launch() -> Any:
        with pretended():
            empty("cpu")._advance(*given("cpu"))

    n = size(lambda: Transformer(transformer)) + config.width * 1128
    past = 2 * config.depth * config.n_kv_heads * (config.width // config.n_heads) * 500 * rows * slots
    name = f"token step, {config.name}, {slots} x {rows} rows, at 500"
    return Step(name, "fp32", build, errors, launch, 4 * (n + past), 2 * n * rows * slots, target)


def _ar(
    dtype: torch.dtype, width: int, depth: int, h: int, g: int, hidden: int, target: float | None, batch: int = 1
) -> Step:  # fmt: skip
    config = TransformerConfig(width=width, depth=depth, n_heads=h, n_kv_heads=g, hidden=hidden)

    def model() -> Transformer:
        return once(f"ar {width}", lambda: Transformer(config).eval().requires_grad_(False))

    def build(device: str) -> Iterator[tuple[str, Callable[[], Any]]]:
        ar = ARStep(model(), batch, dtype, device)
        ar.fill(1000)
        phone = torch.randn(batch, width, device=device).to(dtype)
        numbers = torch.rand(batch, 2, device=device)
        yield "eager", lambda: ar.eager(phone, numbers)
        own = CapturedStep(ar.eager, (phone, numbers), ar.state)
        yield "graph", lambda: own(phone, numbers)
        yield "fused", lambda: ar.step(phone, numbers)
        fused = CapturedStep(ar.step, (phone, numbers), ar.state)
        agree(ar.step, fused, (phone, numbers), ar.state)
        yield "fused graph", lambda: fused(phone, numbers)
        with overlapping():
            closer = CapturedStep(ar.step, (phone, numbers), ar.state)
        agree(ar.step, closer, (phone, numbers), ar.state)
        yield "fused graph, overlapping", lambda: closer(phone, numbers)

    def errors(device: str) -> tuple[float, float]:
        exact, own = deepcopy(model()).double(), deepcopy(model()).to(device, dtype)
        own.rotary.float()
        exact.rotary.float()
        fused = FusedTransformer(own, batch, dtype)
        x = torch.randn(batch, width, 12).to(dtype)
        state = exact.init_state(batch, x.double())
        its = own.init_state(batch, x.to(device))
        results: list[list[Tensor]] = [[], [], []]
        for t in range(12):
            y, state = exact.step(x[:, :, t : t + 1].double(), state)
            z, its = own.step(x[:, :, t : t + 1].to(device), its)
            results[0].append(y[:, :, 0])
            results[1].append(z[:, :, 0])
            results[2].append(fused.step(x[:, :, t].to(device)))
        truth, theirs, ours = (torch.stack(r) for r in results)
        return error(theirs, truth), error(ours, truth)

    def launch() -> Any:
        ar = ARStep(model(), batch, dtype, "cpu")
        phone, numbers = torch.zeros(batch, width, dtype=dtype), torch.zeros(batch, 2)
        ar.step(phone, numbers)
        with overlapping():
            ar.step(phone, numbers)

    n = size(lambda: Transformer(config)) + 1024 * width
    past = 2 * depth * g * (width // h) * 1000 * batch
    precision = "fp32" if dtype == F32 else "bf16"
    return Step(
        f"AR step, {depth} x {width}, B{batch}, at 1000", precision, build, errors, launch,
        (n + past) * dtype.itemsize, 2 * n * batch, target,
    )  # fmt: skip
