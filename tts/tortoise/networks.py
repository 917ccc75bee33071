"""TorToise's networks, each loaded when it is first needed, and what the pipeline asks of them.

Shapes: N samples, S latents, W channels, T mel frames.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar, cast

import torch
from torch import Tensor, nn

from ...diffusion import SampleOptions, sample
from .adapter import load_network, mapped_weights
from .conditioning import autoregressive_mel, denormalise, diffusion_mel
from .generate import CodeOptions, CodeStep, calm_from, code_steps, generate, settle
from .model.autoregressive import Autoregressive
from .model.clvp import CLVP
from .model.diffusion_decoder import DiffusionDecoder
from .model.hifigan import HiFiGAN
from .model.random_latents import RandomLatents
from .model.univnet import UnivNet
from .precision import Precision, for_inference

M = TypeVar("M", bound=nn.Module)


@dataclass(frozen=True)
class Candidate:
    """One way of saying a text.   codes: (S,), its end left out.   score: CLVP's, the higher the better; None where
    nothing had to be chosen.   number: in the order in which they were drawn."""

    codes: Tensor
    score: float | None
    number: int


class Networks:
    """folder: of the files, None for the cache.   precision: of the autoregressive network (`precision.PRECISIONS`);
    the others, which run once or a few dozen times, stay as published on a CPU and follow it on a GPU.

    Weights that are read from a file in float32 stay in it until they are used, and need no memory of the process's
    own.
    """

    def __init__(
        self,
        folder: Path | None = None,
        device: str | torch.device = "cpu",
        precision: Precision = "half",
    ):
        self.folder, self.device = folder, torch.device(device)
        self.precision: Precision = precision
        self._loaded: dict[str, nn.Module] = {}
        self._hashes: dict[str, str] = {}
        self._lock = threading.Lock()

    def get(self, network: str, kind: type[M]) -> M:
        """A network by its name in `adapter.FILES`. Raises MissingModelError, InputError."""
        with self._lock:
            if network not in self._loaded:
                model = load_network(network, self.folder)
                self._hashes[network] = _digest(model)
                reread = partial(mapped_weights, network, self.folder)
                self._loaded[network] = for_inference(model, self._precision(network), self.device, reread)
            return cast("M", self._loaded[network])

    def _precision(self, network: str) -> Precision:
        # The vocoders and CLVP cost little, and of the vocoders it would be heard.
        on_gpu = self.device.type != "cpu"
        narrow = network == "diffusion" and (self.precision == "bfloat16" or on_gpu)
        return self.precision if network == "autoregressive" or narrow else "float32"

    # ---- voices

    @property
    def latent_sizes(self) -> tuple[int, int]:
        diffusion = self.get("diffusion", DiffusionDecoder).config.channels * 2
        return self.get("autoregressive", Autoregressive).config.width, diffusion

    @torch.no_grad()
    def voice_latents(self, clips: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Clips (N,) at 22.05 kHz -> (1, W), (1, 2W)."""
        ar, diffusion = self.get("autoregressive", Autoregressive), self.get("diffusion", DiffusionDecoder)
        heard = torch.stack([autoregressive_mel(clip) for clip in clips]).to(self.device, _dtype(ar))
        seen = [diffusion_mel(clip).to(self.device, _dtype(diffusion)) for clip in clips]
        return ar.voice_encoder(heard).float().cpu(), diffusion.voice(seen).float().cpu()

    @torch.no_grad()
    def random_latents(self, seed: int) -> tuple[Tensor, Tensor]:
        generator = torch.Generator().manual_seed(seed % 2**63)
        latents = []
        for network in ("random-autoregressive", "random-diffusion"):
            model = self.get(network, RandomLatents)
            noise = torch.randn(1, model.config.channels, generator=generator)
            latents.append(model(noise.to(self.device)).cpu())
        return latents[0], latents[1]

    def voice_fingerprint(self) -> str:
        return self.fingerprint(("autoregressive", "diffusion"))

    def fingerprint(self, networks: Sequence[str]) -> str:
        """Stands for the weights of some."""
        for network in networks:
            self.get(network, nn.Module)
        return "-".join(self._hashes[network] for network in networks)

    # ---- speech

    def draw(
        self,
        voice: Tensor,
        text: Sequence[int],
        options: CodeOptions,
        seeds: Sequence[int],
        batch: int,
        done: Callable[[int], None] = lambda n: None,
        each: Callable[[int], None] = lambda n: None,
    ) -> list[Candidate]:
        """A candidate for every seed, in batches; scored if there are several.   done: called with the number drawn.
        each: as for `generate`."""
        ar = self.get("autoregressive", Autoregressive)
        codes: list[Tensor] = []
        for start in range(0, len(seeds), batch):
            part = seeds[start : start + batch]
            codes += generate(ar, *self._asked(ar, voice, text), options, part, each)
            done(len(codes))
        if len(codes) == 1:
            return [Candidate(codes[0], None, 0)]
        clvp = self.get("clvp", CLVP)
        ids = torch.tensor([[*text, 0]], device=self.device)
        # CLVP was trained on what the decoder sees, its padding included.
        length = min(options.max_codes, ar.config.max_codes)
        said = torch.stack([settle(one, length) for one in codes]).to(self.device)
        with torch.no_grad():
            scores = [float(score) for part in said.split(16) for score in clvp(ids, part)]
        drawn = zip(codes, scores, strict=True)
        return [Candidate(one, score, number) for number, (one, score) in enumerate(drawn)]

    def steps(
        self, voice: Tensor, text: Sequence[int], options: CodeOptions, seed: int
    ) -> Iterator[CodeStep]:
        """One candidate, position by position."""
        ar = self.get("autoregressive", Autoregressive)
        return code_steps(ar, *self._asked(ar, voice, text), options, [seed])

    @torch.no_grad()
    def latents(self, voice: Tensor, text: Sequence[int], codes: Tensor, max_codes: int) -> Tensor:
        """What the decoders read of a candidate's codes, up to where only silence follows: (1, S, W)."""
        ar = self.get("autoregressive", Autoregressive)
        settled = settle(codes, min(max_codes, ar.config.max_codes))
        said = ar.latents(*self._asked(ar, voice, text), settled[None].to(self.device))
        return said[:, : max(1, calm_from(settled))]

    def mel(
        self,
        latents: Tensor,
        voice: Tensor,
        options: SampleOptions,
        generator: torch.Generator,
        progress: Callable[[int, int], None] | None = None,
    ) -> Tensor:
        """latents (1, S, W) -> mel (1, 100, T) in natural logarithms."""
        decoder = self.get("diffusion", DiffusionDecoder)
        with torch.no_grad():
            condition = decoder.align(latents.to(_dtype(decoder)), voice.to(self.device))
        shape = (1, decoder.config.n_mels, condition.shape[-1])
        # Drawn on the CPU, so that a seed means the same everywhere; what is added on the way is drawn where it is.
        noise = torch.randn(shape, generator=generator).to(self.device)
        on_device = torch.Generator(self.device).manual_seed(generator.initial_seed())
        mel = sample(
            lambda x, t, c: decoder(x, t, c).float(),
            noise,
            condition,
            options,
            without=decoder.without(condition.shape[-1]),
            generator=generator if self.device.type == "cpu" else on_device,
            progress=progress,
        )
        return denormalise(mel)

    def wav(self, mel: Tensor, generator: torch.Generator) -> Tensor:
        """(1, 100, T) -> (N,) on the CPU."""
        return self.get("univnet", UnivNet).decode(mel, generator).float().cpu()

    @property
    def hifigan(self) -> HiFiGAN:
        return self.get("hifigan", HiFiGAN)

    def _asked(self, ar: Autoregressive, voice: Tensor, text: Sequence[int]) -> tuple[Tensor, Tensor]:
        """The text has a stop of its own, as published, before that which the network adds."""
        return voice.to(self.device, _dtype(ar)), torch.tensor([[*text, 0]], device=self.device)


def _digest(model: nn.Module) -> str:
    """16 hex digits that stand for a network: its names, shapes and some numbers of every weight, which other weights
    do not share. All of them would be four gigabytes to read."""
    digest = hashlib.sha256()
    for name, value in sorted(model.state_dict().items()):
        # As it lies in the file: what is not asked for is not read.
        laid = value.T if value.ndim == 2 and value.stride(0) < value.stride(1) else value
        some = laid.detach().flatten(1)[0] if laid.ndim > 1 else laid.detach().reshape(-1)
        some = some[:256].float().contiguous()
        digest.update(f"{name} {tuple(value.shape)}".encode() + some.numpy().tobytes())
    return digest.hexdigest()[:16]


def _dtype(model: nn.Module) -> torch.dtype:
    return next(parameter.dtype for parameter in model.parameters() if parameter.is_floating_point())
