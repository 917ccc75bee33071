"""The recognisers that are compared: ours, and the peers that are installed, all with the same weights.

A system is loaded by its `load`, which takes a `Setup` and returns a function from samples (N,) at 16 kHz to a text.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from ...errors import MissingModelError, UsageError

SAMPLE_RATE = 16_000
TEMPERATURES = (
    0.0,
    0.2,
    0.4,
    0.6,
    0.8,
    1.0,
)  # of openai-whisper, one after the other while a result looks wrong

Listen = Callable[[np.ndarray], str]


@dataclass(frozen=True)
class Setup:
    """model: the weights' name or path.   beam_size: 1 is greedy.   language: its code.   fallback: higher temperatures
    where a result looks wrong, with random numbers of the seed; without, temperature 0 only."""

    model: str = "tiny.en"
    beam_size: int = 1
    language: str = "en"
    threads: int = 1
    fallback: bool = False
    seed: int = 0

    @property
    def temperature(self) -> float | tuple[float, ...]:
        return TEMPERATURES if self.fallback else 0.0


@dataclass(frozen=True)
class System:
    """packages: what must be importable.   remedy: how to install them.   find: turns the model's name into what `load`
    takes, in the process that measures: looking for it may need more memory than the system itself."""

    name: str
    load: Callable[[Setup], Listen]
    packages: tuple[str, ...] = ()
    remedy: str = ""
    find: Callable[[str], str] = str

    def missing(self) -> str | None:
        """The first package that is not installed."""
        return next((package for package in self.packages if importlib.util.find_spec(package) is None), None)


def choose_systems(names: Sequence[str] | None = None) -> tuple[list[System], list[str]]:
    """Those of these names, and no notes; or for None all that are installed, and a line for each that is not.

    Raises UsageError for an unknown name, MissingModelError for a system that was asked for and is not installed.
    """
    for name in names or ():
        if name not in SYSTEMS:
            raise UsageError(f"unknown system {name!r}; expected {', '.join(SYSTEMS)}")
    usable, notes = [], []
    for system in (SYSTEMS[name] for name in dict.fromkeys(names or SYSTEMS)):
        if (package := system.missing()) is None:
            usable.append(system)
        elif names:
            raise MissingModelError(f"{system.name} cannot be measured: it needs {package} ({system.remedy})")
        else:
            notes.append(f"{system.name} is left out: it needs {package} ({system.remedy})")
    return usable, notes


def load_myna(setup: Setup, precision: str) -> Listen:
    """Our own, in float32 or int8."""
    import torch

    from ...asr.transcriber import Transcriber

    torch.set_num_threads(setup.threads)
    transcriber = Transcriber(setup.model, precision=precision)
    options = transcriber.options(
        language=setup.language,
        temperature=setup.temperature,
        **_search(setup),
        seed=setup.seed,
    )
    return lambda wav: transcriber.transcribe(wav, options).text


def load_openai(setup: Setup) -> Listen:
    """openai-whisper (Radford et al. 2022), in float32, on the weights that our own loader reads."""
    import torch
    from whisper.model import ModelDimensions, Whisper  # pyright: ignore[reportMissingImports]

    from ...asr.model.registry import load_whisper

    torch.set_num_threads(setup.threads)
    own = load_whisper(setup.model)
    model = Whisper(ModelDimensions(**asdict(own.dims)))
    model.load_state_dict(own.state_dict(), assign=True)  # shared: no memory is counted twice
    torch.manual_seed(setup.seed)
    options = {"language": setup.language, "temperature": setup.temperature, "fp16": False, **_search(setup)}
    return lambda wav: str(model.transcribe(wav, **options)["text"])


def load_faster(setup: Setup, compute_type: str) -> Listen:
    """faster-whisper; the setup's model is a CTranslate2 folder."""
    import ctranslate2  # pyright: ignore[reportMissingImports]
    from faster_whisper import WhisperModel  # pyright: ignore[reportMissingImports]

    model = WhisperModel(setup.model, device="cpu", compute_type=compute_type, cpu_threads=setup.threads)
    ctranslate2.set_random_seed(setup.seed)
    options: dict[str, Any] = {
        "language": setup.language,
        "temperature": setup.temperature,
        "beam_size": setup.beam_size,
        "best_of": setup.beam_size,
    }

    return lambda wav: "".join(segment.text for segment in model.transcribe(wav, **options)[0])


def _search(setup: Setup) -> dict[str, Any]:
    """Beams at temperature 0; as many samples above it, where that may come."""
    beam_size = None if setup.beam_size == 1 else setup.beam_size
    return {"beam_size": beam_size, "best_of": setup.beam_size if setup.fallback else None}


def ctranslate2_folder(model: str) -> str:
    """Where weights are in CTranslate2's format; a name's may be there in several. Raises MissingModelError."""
    from ...asr.model.registry import find_weights, is_known

    names = (model, f"faster-whisper-{model}") if is_known(model) else ()
    known = [name for name in names if is_known(name)]
    found = [path for name in known if (path := find_weights(name))] if known else [Path(model)]
    folders = [path.parent if path.name == "model.bin" else path for path in found]
    for folder in folders:
        if (folder / "model.bin").is_file():
            return str(folder)
    remedy = f"`myna models download {known[-1]}`" if known else "give --model such a folder"
    raise MissingModelError(
        f"faster-whisper needs {model} in CTranslate2's format; {remedy}, or leave it out"
    )


SYSTEMS = {
    system.name: system
    for system in (
        System("myna", partial(load_myna, precision="float32")),
        System("myna-int8", partial(load_myna, precision="int8")),
        System("openai-whisper", load_openai, ("whisper",), "pip install openai-whisper"),
        System(
            "faster-whisper",
            partial(load_faster, compute_type="float32"),
            ("faster_whisper",),
            "pip install faster-whisper",
            ctranslate2_folder,
        ),
        System(
            "faster-whisper-int8",
            partial(load_faster, compute_type="int8"),
            ("faster_whisper",),
            "pip install faster-whisper",
            ctranslate2_folder,
        ),
    )
}
