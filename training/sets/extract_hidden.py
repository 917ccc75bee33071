"""What an AR would say in the place of real speech, and what it knows while it does: what a vocoder is trained on.

    python -m myna.training.sets.extract_hidden AR SPEECH_SET CORPUS_FOLDER OUT [--hours 3] [--codec myna-24k]

AR is a checkpoint or "shipped". Every utterance follows a prompt of its voice. At each frame the codes are drawn as
synthesis draws them, guidance included, but what went before is the recording's; in some utterances a part of that
is drawn, too, so that the vocoder meets an AR that reads its own mistakes. Some the AR says alone, as it does when it
is used, and has only the rhythm of the recording. The recording stays what should be heard: that of the voice it was
asked for, phone by phone, whatever has become of the voice on the way.

Shapes: N coarse codebooks, K codebooks, T frames, W the AR's width.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor

from ...codec import Codes
from ...codec.checkpoint import weights_hash
from ...codec.registry import load_codec
from ...data.corpus import open_corpus
from ...data.files import atomic_output, check_output
from ...errors import InputError, MissingModelError, MynaError
from ...layers.harmonic import HIGHEST, LOWEST
from ...tts.decoders.base import Latents
from ...tts.decoders.vocoder import VocoderConfig, prompt_mel
from ...tts.lm.ar import ARModel
from ...tts.lm.batch import Prompt, SpeechBatch
from ...tts.lm.generate import ARGenerator
from ...tts.lm.quantize import for_inference
from ...tts.presets import PRESETS
from ...tts.registry import SHIPPED_AR, load_ar
from ...tts.text.phones import Phones
from .extract_speech import Extractor
from .hidden_set import HiddenItem, hidden_set_bytes
from .lm_data import ExampleOptions, Planner, collate, select
from .speech_set import SpeechSet

HOP_SECONDS = 0.01  # between two pitches
_LEAST_PROMPT = 50  # frames
_LEAST_VOICED = 0.1  # share of an utterance: with less, its pitch was not found


@dataclass(frozen=True)
class HiddenOptions:
    """hours: of speech, and the share of it that each source has, as far as it is there.   splits: of the speech set.
    text_guidance, voice_guidances: by the text, and by the voice one of these.   own_share: of the utterances that read
    codes of their own, in up to the share `most_own` of their frames.   alone: of the utterances that the AR says
    without the recording's frames, as the preset "standard" does.   exchanged: of these, those that it says
    after the prompt of another voice, so that the vocoder must hear in its own prompt whose the voice is."""

    hours: float = 3.0
    sources: dict[str, float] = field(
        default_factory=lambda: {"synth": 0.5, "speechocean": 0.32, "lj": 0.12, "joe": 0.06}
    )
    splits: tuple[str, ...] = ("train",)
    max_frames: int = 600
    temperature: float = 0.8
    text_guidance: float = 2.0
    voice_guidances: tuple[float, ...] = (1.0, 2.0)
    own_share: float = 0.4
    most_own: float = 0.6
    alone: float = 0.3
    exchanged: float = 0.5
    seed: int = 0


def track_pitch(wav: np.ndarray, sample_rate: int, n: int) -> np.ndarray:
    """The pitch of (N,) samples at the ends of n hops of 10 ms, (n,) in Hz, 0 where unvoiced.

    Praat's autocorrelation (Boersma 1993). Raises MissingModelError without the package that has it.
    """
    try:
        import parselmouth
    except ImportError:
        raise MissingModelError(
            "a vocoder's training needs Praat's pitch tracker: pip install praat-parselmouth"
        ) from None
    sound: Any = parselmouth.Sound(wav.astype(np.float64), sample_rate)
    found = sound.to_pitch_ac(time_step=HOP_SECONDS, pitch_floor=LOWEST, pitch_ceiling=HIGHEST)
    hz, first = found.selected_array["frequency"], float(found.xs()[0])
    nearest = np.round(((np.arange(n) + 1) * HOP_SECONDS - first) / HOP_SECONDS).astype(int)
    return hz[nearest.clip(0, len(hz) - 1)].astype(np.float32)


@torch.inference_mode()
def overheard(
    ar: ARModel, batch: SpeechBatch, options: HiddenOptions, voice_guidance: float
) -> tuple[Tensor, Tensor]:
    """What one utterance (a batch of one) would say after the true frames: codes (N, T) drawn independently of each
    other's frames, and hidden states (T, W)."""
    n, t = int(batch.n_prompt[0]), int(batch.n_frames[0])
    yes = torch.tensor([True])
    rows = [batch, replace(batch, drop_text=yes)]
    weights = [options.text_guidance - 1]
    if voice_guidance != 1:
        rows.append(replace(batch, drop_voice=yes))
        weights.append(voice_guidance - 1)
    states = []
    for row in rows:
        row = row.without_hidden_prompts()
        encoded = ar.encode_text(row.phones, row.n_phones, row.drop_text)
        x = ar.transformer(ar.frame_inputs(row, encoded).transpose(1, 2)).transpose(1, 2)
        states.append(x[0, -(t - n) :])

    def drawn(logits: list[Tensor]) -> Tensor:
        guided = logits[0] + sum(
            w * (logits[0] - other) for w, other in zip(weights, logits[1:], strict=True)
        )
        return torch.multinomial(torch.softmax(guided / options.temperature, dim=-1), 1)[:, 0]

    codes = [drawn([ar.code_head(h) for h in states])]
    for head in ar.depth_heads:
        known = torch.stack(codes, dim=1)
        codes.append(drawn([head(h, known) for h in states]))
    return torch.stack(codes), states[0]


def said_alone(ar: ARModel, batch: SpeechBatch, seed: int) -> tuple[Tensor, Tensor]:
    """What the AR says of one utterance (a batch of one, its prompt without text) in the rhythm of the recording: codes
    (N, T), and hidden states (T, W). ar: may be what `for_inference` makes of one."""
    n = int(batch.n_prompt[0])
    said = ARGenerator(
        ar,
        Phones(batch.phones[0]),
        Prompt(batch.codes[0, :, :n]),
        replace(PRESETS["standard"].sampling, seed=seed),
        rhythm=batch.pointer[0, n : int(batch.n_frames[0])].tolist(),
    )
    latents = Latents.of(list(said))
    return latents.codes, latents.hidden


class Overhearing:
    """An AR, and the recordings of a speech set."""

    def __init__(self, ar: ARModel, speech: SpeechSet, extractor: Extractor, options: HiddenOptions):
        self.ar, self.speech, self.extractor, self.options = ar, speech, extractor, options
        self.quick = cast(ARModel, for_inference(ar))
        self.mel = prompt_mel(VocoderConfig(sample_rate=extractor.codec.sample_rate))
        self.rng = np.random.default_rng(options.seed)

    def utterance(self, planner: Planner, index: int) -> HiddenItem | None:
        """One utterance; None where it has no prompt, or no pitch was found."""
        options, rng, codec = self.options, self.rng, self.extractor.codec
        plan, alone = planner.plan(index, rng), bool(rng.random() < options.alone)
        batch = collate([planner.read(replace(plan, prompt_text=plan.prompt_text and not alone))])
        n = int(batch.n_prompt[0])
        frames = int(batch.n_frames[0]) - n
        if n < _LEAST_PROMPT:
            return None
        prompt = batch.codes[:, :, :n]
        if alone and rng.random() < options.exchanged:
            plan = replace(plan, prompt=planner.plan(planner.of_another(index, rng), rng).prompt)
            batch = collate([planner.read(replace(plan, prompt_text=False))])
        item = self.speech.items[index]
        wav = self.extractor.read(item).numpy()[: frames * codec.frame_size]
        pitch = track_pitch(wav, codec.sample_rate, 2 * frames)
        if (pitch > 0).mean() < _LEAST_VOICED:
            return None
        guidance, seed = float(rng.choice(options.voice_guidances)), int(rng.integers(2**62))
        torch.manual_seed(seed)
        if alone:
            codes, hidden = said_alone(self.quick, batch, seed)
        else:
            codes, hidden = overheard(self.ar, batch, options, guidance)
        if not alone and rng.random() < options.own_share:
            own = torch.from_numpy(rng.random(frames) < rng.uniform(0, options.most_own))
            mixed, coarse = batch.codes.clone(), len(codes)
            mixed[0, :coarse, n:] = torch.where(own, codes, mixed[0, :coarse, n:])
            codes, hidden = overheard(self.ar, replace(batch, codes=mixed), options, guidance)
        with torch.inference_mode():
            wav = codec.decode(Codes(prompt, n * codec.frame_size))
            heard = self.mel(wav[:, 0], n)[0].t().half().numpy()
        said = codes.numpy().astype(np.int16), hidden.half().numpy()
        return HiddenItem(item, *said, pitch, prompt[0].numpy(), heard, alone)

    def all(self, progress: Callable[[float], None] | None = None) -> list[HiddenItem]:
        """Utterances until every source has its hours. progress: called with the hours so far."""
        options = self.options
        examples = ExampleOptions(
            prompt_frames=(75, 200), prompt_text=0.3, join=0.0, drop_text=0.0, drop_voice=0.0
        )
        there = {item.source for item in self.speech.items if item.split in options.splits}
        sources = {name: share for name, share in options.sources.items() if name in there}
        if not sources:
            raise InputError(
                f"the speech set has nothing of {', '.join(options.sources)} for splits {', '.join(options.splits)}"
            )
        total = sum(sources.values())
        rate, found, hours = self.extractor.codec.frame_rate, [], 0.0
        for source, share in sources.items():
            chosen = select(self.speech, options.splits, [source], None, options.max_frames, 0.02)
            planner = Planner(self.speech, chosen, examples)
            wanted, have = options.hours * share / total, 0.0
            for index in self.rng.permutation(chosen).tolist():
                if have >= wanted:
                    break
                one = self.utterance(planner, index)
                if one is not None:
                    found.append(one)
                    have += one.codes.shape[1] / float(rate) / 3600
                    if progress:
                        progress(hours + have)
            hours += have
        return found


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m myna.training.sets.extract_hidden", description=__doc__)
    parser.add_argument("ar", help='checkpoint, or "shipped"')
    parser.add_argument("speech_set", type=Path, help="file of `python -m myna.training.sets.extract_speech`")
    parser.add_argument("corpus", type=Path, help="folder of WebDataset shards")
    parser.add_argument("out", type=Path, help="file to write (.safetensors)")
    parser.add_argument("--codec", default="myna-24k", help="whose codes these are: name or checkpoint")
    parser.add_argument("--hours", type=float, default=HiddenOptions.hours, help="of speech")
    share = f"of the utterances that the AR says alone (default: {HiddenOptions.alone})"
    parser.add_argument("--alone", type=float, default=HiddenOptions.alone, metavar="SHARE", help=share)
    share = f"of these, those it says after another voice's prompt (default: {HiddenOptions.exchanged})"
    parser.add_argument(
        "--exchanged", type=float, default=HiddenOptions.exchanged, metavar="SHARE", help=share
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--force", action="store_true", help="replace an output that exists")
    asked = parser.parse_args(arguments)

    def progress(hours: float) -> None:
        print(f"\r{hours:.3f} of {asked.hours:g} h", end="", file=sys.stderr, flush=True)

    try:
        check_output(asked.out, asked.force)
        torch.set_num_threads(asked.threads)
        codec = load_codec(asked.codec)
        codec_hash = weights_hash(codec)[:16]
        speech = SpeechSet(asked.speech_set)
        if speech.codec_hash != codec_hash:
            raise InputError(f"{asked.speech_set} has codes of another codec than {asked.codec}")
        ar = load_ar(SHIPPED_AR if asked.ar == "shipped" else asked.ar, codec_hash=codec_hash)
        extractor = Extractor(codec, open_corpus(asked.corpus, codec.sample_rate))
        options = HiddenOptions(
            hours=asked.hours, alone=asked.alone, exchanged=asked.exchanged, seed=asked.seed
        )
        found = Overhearing(ar, speech, extractor, options).all(progress)
        with atomic_output(asked.out, asked.force) as file:
            file.write(hidden_set_bytes(found, codec.name, codec_hash, weights_hash(ar)[:16]))
    except MynaError as error:
        print(f"\n{error}", file=sys.stderr)
        return error.exit_code
    print(f"\n{len(found)} utterances -> {asked.out}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
