"""Voices as TorToise knows them: two latents, of one recording, of several, of nobody, or of a mixture.

    a recording, a folder of recordings    the clips of one person, 3 to 10 s each
    a saved voice, one of the package      as everywhere in the house
    NAME.pth                               latents that TorToise has saved, read without running anything in it
    random                                 a voice of nobody
    a&b                                    the mean of any of these

Shapes: N samples, M mel bands, F frames.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor

from ...data.audio import SUFFIXES, read_audio
from ...data.checkpoint import read_safetensors, safetensors_keys
from ...data.files import atomic_output
from ...errors import InputError, MissingModelError, UsageError
from ..voices.library import shipped_voices, unknown_voice, voice_path
from ..voices.voice import TORTOISE_FORMAT, check_consent, checksum, decode_prompt, load_voice
from .conditioning import CLIP_RATE, resample

FORMAT = f"{TORTOISE_FORMAT} 1"
RANDOM = "random"
_MIN_SECONDS, _MAX_SECONDS = 1.0, 30.0  # of a clip; what follows is not read
_SILENCE = 1e-3  # peak below which there is nothing


@dataclass(frozen=True, eq=False)
class TortoiseVoice:
    """autoregressive (1, 1024) and diffusion (1, 2048): the latents.   consent: the statement that the speaker agreed.
    networks: what made them, so that a file is not used with others."""

    name: str
    autoregressive: Tensor
    diffusion: Tensor
    source: str
    created: str
    consent: str
    networks: str = ""
    notes: tuple[str, ...] = ()

    @property
    def text(self) -> None:
        """TorToise needs no transcript."""

    def save(self, path: str | Path, force: bool = False) -> None:
        """Write a `.safetensors` file: no audio is needed again. Raises UsageError, OutputError."""
        if Path(path).suffix != ".safetensors":
            raise UsageError(f"a voice is kept as .safetensors, not as {path}; name it so")
        tensors = {
            "autoregressive": self.autoregressive.float().contiguous(),
            "diffusion": self.diffusion.float().contiguous(),
        }
        facts = json.dumps({field: getattr(self, field) for field in _FACTS}, ensure_ascii=False)
        metadata = {"format": FORMAT, "voice": facts, "sha256": checksum(facts, tensors)}
        with atomic_output(path, force) as file:
            file.write(save(tensors, metadata=metadata))


_FACTS = ("name", "source", "created", "consent", "networks", "notes")


class VoiceNetworks(Protocol):
    """What makes latents."""

    @property
    def latent_sizes(self) -> tuple[int, int]:
        """Of the two latents."""
        ...

    def voice_latents(self, clips: list[Tensor]) -> tuple[Tensor, Tensor]:
        """Of clips, each (N,) at 22.05 kHz."""
        ...

    def random_latents(self, seed: int) -> tuple[Tensor, Tensor]: ...

    def voice_fingerprint(self) -> str:
        """Stands for the weights that make latents."""
        ...


@dataclass(frozen=True)
class _Clips:
    """Recordings (N,) at 22.05 kHz of one person."""

    name: str
    wavs: list[Tensor]
    source: str
    consent: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class VoiceReader:
    """Finds voices and makes latents of them."""

    networks: VoiceNetworks

    def read(
        self, source: str | Path | Sequence[str | Path], consent: str | None = None, seed: int = 0
    ) -> TortoiseVoice:
        """A voice by what the module's head lists, or a mixture as a list of them.   seed: of a random one.

        Raises UsageError for a name that nobody has and for recordings without consent, InputError for what cannot be a
        voice.
        """
        if not isinstance(source, str | Path):
            names = [str(part) for part in source]
        else:  # a file may have the sign in its name
            whole = Path(source).exists()
            names = [str(source)] if whole else [part.strip() for part in str(source).split("&")]
        if not names or not all(names):
            raise UsageError(f"{source!r} mixes a voice without a name; give it as a&b")
        parts = [self._part(name, consent, seed + index) for index, name in enumerate(names)]
        clips = [part for part in parts if isinstance(part, _Clips)]
        if len(clips) == len(parts):  # as published: the clips of all as if they were one person's
            voices = [self._of_clips([wav for part in clips for wav in part.wavs], clips)]
        else:
            voices = [self._of_clips(p.wavs, [p]) if isinstance(p, _Clips) else p for p in parts]
        if len(voices) == 1 and len(names) == 1:
            return voices[0]
        consents = dict.fromkeys(voice.consent for voice in voices if voice.consent)
        return TortoiseVoice(
            " & ".join(Path(name).stem for name in names),
            torch.stack([voice.autoregressive for voice in voices]).mean(0),
            torch.stack([voice.diffusion for voice in voices]).mean(0),
            ", ".join(voice.source for voice in voices),
            _now(),
            "; ".join(consents),
            self.networks.voice_fingerprint(),
            tuple(note for voice in voices for note in voice.notes),
        )

    def known(self, name: str, seed: int = 0) -> TortoiseVoice:
        """A voice of the library or of the package, or "random", by its name alone: for names of strangers, who have no
        say over which files are opened. Raises UsageError for a name that nobody has, InputError as `read`."""
        part = self._random(seed) if name == RANDOM else self._known(name)
        return self._of_clips(part.wavs, [part]) if isinstance(part, _Clips) else part

    def _random(self, seed: int) -> TortoiseVoice:
        latents = self.networks.random_latents(seed)
        made_by = self.networks.voice_fingerprint()
        return TortoiseVoice(RANDOM, *latents, f"seed {seed}", _now(), "", made_by)

    def _part(self, name: str, consent: str | None, seed: int) -> TortoiseVoice | _Clips:
        path = Path(name)
        if name == RANDOM:
            return self._random(seed)
        if path.suffix == ".pth":
            return self._of_pth(path, check_consent(consent))
        if path.suffix == ".safetensors":
            return self._of_file(path)
        if path.is_dir():
            return _folder(path, check_consent(consent))
        if path.is_file():
            return _Clips(path.stem, [read_clip(path)], path.name, check_consent(consent))
        if len(path.parts) > 1 or path.suffix in SUFFIXES:
            raise InputError(f"cannot read {name}: no such file or folder")
        return self._known(name)

    def _known(self, name: str) -> TortoiseVoice | _Clips:
        """A voice of the user's library, or of the package."""
        kept = voice_path(name)
        if kept.exists():
            return self._of_file(kept)
        shipped = shipped_voices().get(name)
        if shipped is not None:
            return _Clips(name, [read_clip(shipped.path)], shipped.path.name, shipped.consent)
        raise unknown_voice(name)

    def _of_clips(self, wavs: list[Tensor], clips: list[_Clips]) -> TortoiseVoice:
        autoregressive, diffusion = self.networks.voice_latents(wavs)
        return TortoiseVoice(
            " & ".join(one.name for one in clips),
            autoregressive,
            diffusion,
            ", ".join(one.source for one in clips),
            _now(),
            "; ".join(dict.fromkeys(one.consent for one in clips)),
            self.networks.voice_fingerprint(),
            tuple(note for one in clips for note in one.notes),
        )

    def _of_file(self, path: Path) -> TortoiseVoice | _Clips:
        if not path.is_file():
            raise MissingModelError(f"no voice at {path}; `myna voices list` shows those that are kept")
        _, metadata = safetensors_keys(path)
        if metadata.get("format") != FORMAT:  # a voice of the house: its prompt as the codec keeps it
            from ...codec.registry import VOICE_CODEC, load_codec

            voice = load_voice(path)
            wav = resample(decode_prompt(load_codec(VOICE_CODEC), voice), 24_000, CLIP_RATE)
            return _Clips(voice.name, [wav], voice.source, voice.consent)
        file = read_safetensors(path)
        try:
            if file.metadata["sha256"] != checksum(file.metadata["voice"], file.weights):
                raise ValueError
            facts = json.loads(file.metadata["voice"])
            facts["notes"] = tuple(facts["notes"])
            voice = TortoiseVoice(
                autoregressive=file.weights["autoregressive"], diffusion=file.weights["diffusion"], **facts
            )
        except (ValueError, KeyError, TypeError):
            raise InputError(f"{path} is a damaged voice; make it again from its recording") from None
        self._check(voice, path)
        return voice

    def _of_pth(self, path: Path, consent: str) -> TortoiseVoice:
        if not path.is_file():
            raise InputError(f"cannot read {path}: no such file")
        try:
            latents = torch.load(path, map_location="cpu", weights_only=True)
            autoregressive, diffusion = (latent.float().reshape(1, -1) for latent in latents)
        except Exception:  # the restricted unpickler fails on other files in whichever way it stumbles
            raise InputError(
                f"{path} does not hold TorToise's two latents; make it again with its get_conditioning_latents, "
                "or give recordings"
            ) from None
        voice = TortoiseVoice(path.stem, autoregressive, diffusion, path.name, _now(), consent, "")
        self._check(voice, path)
        return voice

    def _check(self, voice: TortoiseVoice, path: Path) -> None:
        found = voice.autoregressive.shape[-1], voice.diffusion.shape[-1]
        if found != self.networks.latent_sizes:
            raise InputError(
                f"{path} holds latents of {found[0]} and {found[1]} numbers, expected "
                "{} and {}; make it again with these networks".format(*self.networks.latent_sizes)
            )
        if not bool(torch.isfinite(voice.autoregressive).all() and torch.isfinite(voice.diffusion).all()):
            raise InputError(f"{path} holds NaN or infinity; make it again from its recording")
        made = self.networks.voice_fingerprint()
        if voice.networks and voice.networks != made:
            raise InputError(
                f"{path} was made by other networks of TorToise ({voice.networks}) than these ({made}); "
                "make it again from its recording"
            )


def saved_facts(path: str | Path) -> dict[str, Any] | None:
    """What a file of `TortoiseVoice.save` says of itself, unchecked; None for any other file.
    Raises InputError, MissingModelError."""
    _, metadata = safetensors_keys(Path(path))
    if metadata.get("format") != FORMAT:
        return None
    try:
        return dict(json.loads(metadata["voice"]))
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{path} is a damaged voice; make it again from its recording") from None


def read_clip(path: Path) -> Tensor:
    """A recording as the networks were given it: its first channel at 22.05 kHz, (N,). Raises InputError."""
    audio = read_audio(path, most=int(_MAX_SECONDS * 192_000))
    rate = audio.sample_rate
    samples = np.ascontiguousarray(audio.samples[0, : int(_MAX_SECONDS * rate)])
    if len(samples) < _MIN_SECONDS * rate:
        raise InputError(
            f"{path} is {len(samples) / rate:.2f} s long; TorToise needs a clip of {_MIN_SECONDS:g} s at least, "
            "better several of 6 s"
        )
    if float(np.abs(samples).max()) < _SILENCE:
        raise InputError(f"{path} is silent; give a recording of one person speaking")
    return resample(torch.from_numpy(samples).clamp(-1, 1), rate, CLIP_RATE).clamp(-1, 1)


def _folder(folder: Path, consent: str) -> _Clips:
    paths = sorted(path for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
    if not paths:
        raise InputError(
            f"there are no recordings in {folder}; give WAV, FLAC, MP3, OGG or Opus files of one person"
        )
    wavs, notes = [], []
    for path in paths:
        try:
            wavs.append(read_clip(path))
        except InputError as error:  # one that is too short costs no voice
            notes.append(f"left out: {error}")
    if not wavs:
        raise InputError(notes[0].removeprefix("left out: "))
    return _Clips(folder.name, wavs, f"{folder.name} ({len(wavs)} clips)", consent, tuple(notes))


def _now() -> str:
    return datetime.now(timezone.utc).isoformat(timespec="seconds")
