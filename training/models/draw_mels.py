"""Mel spectrograms of a corpus as the flow decoder draws them, for the mel vocoder to learn from (a DrawnSet).

    python -m myna.training.models.draw_mels CORPUS_FOLDER OUT --mels FILE --aligned FILE --flow FILE --tokens FILE

A vocoder that has only heard recordings takes what a decoder draws at its word, haze and all. Here every utterance is
drawn with its own phones at their own times, its own tokens, and a prompt of the same voice, so that the recording is
what it should have been (as HiFi-GAN is fine-tuned on the mels of an acoustic model, Kong et al. 2020, section 4.4). Of
an utterance above 12 s a part is drawn; where a voice has no other, its beginning is the prompt.

Shapes: B batch, T frames of 50 Hz, M mel bands.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

from ...codec.mel.speech_tokens import SpeechTokenizer, SpeechTokensConfig
from ...codec.mel.trained_on import check_trained_on
from ...data.checkpoint import load_checkpoint
from ...data.corpus import open_corpus
from ...data.files import atomic_output
from ...errors import InputError, MynaError
from ...tts.decoders.flow.decoder import FlowConfig, FlowDecoder
from ..sets.drawn_set import drawn_set_bytes
from ..sets.examples import ALL_SHOWN, Planner, Plans
from ..sets.extract_mels import SAMPLE_RATE, utterances
from ..sets.mel_set import MelSet
from ..sets.speech_set import AlignedSet
from .flow import FlowNoise, FlowTraining
from .flow_batch import FlowBatch, Reader

_BLOCK = 24  # frames of a block, about as in speaking
AS_SPOKEN = replace(ALL_SHOWN, hide_clarity=1.0)
_MEL_HOPS = 2  # of a frame


class Drawer:
    """Draws the utterances of a mel set in two steps of the head. temperature: of the noise, as in speaking."""

    def __init__(
        self,
        decoder: FlowDecoder,
        tokenizer: SpeechTokenizer,
        speech: MelSet,
        temperature: float = 0.4,
        bf16: bool = False,
    ):
        self.net = FlowTraining(decoder, tokenizer).eval()
        self.speech, self.reader = speech, Reader(speech, decoder.config)
        self.temperature, self.bf16 = temperature, bf16

    @torch.inference_mode()
    def draw(self, plans: Plans, generator: torch.Generator) -> list[np.ndarray]:
        """Mels (2 T, M) of the targets, float16."""
        batch = self.reader.batch(plans, _BLOCK, 0)
        with torch.autocast("cpu", torch.bfloat16, enabled=self.bf16):
            _, drawn = self.net(batch, self._noise(batch, generator), True)
        mel = self.net.decoder.mel(drawn.head.float()).transpose(1, 2).numpy()
        ends = (plans.prompt_frames + plans.frames).tolist()
        return [
            m[_MEL_HOPS * n : _MEL_HOPS * end].astype(np.float16)  # a copy: the batch is not kept
            for m, n, end in zip(mel, plans.prompt_frames.tolist(), ends, strict=True)
        ]

    def _noise(self, batch: FlowBatch, generator: torch.Generator) -> FlowNoise:
        b, t = batch.pointer.shape
        config = self.net.decoder.config
        return FlowNoise(
            time=torch.full((b,), 0.5),
            sample=self.temperature * torch.randn(b, t, config.frame, generator=generator),
            unrounded=torch.zeros(b, dtype=torch.bool),
            wrong=torch.zeros(b, t // 2, dtype=torch.bool),
            levels=torch.zeros(b, t // 2, config.token_dims),
            speaker=torch.zeros(b, config.speaker),
            spoken=torch.ones(b, dtype=torch.bool),
            second=torch.ones(b, dtype=torch.bool),
            weight_cap=1.0,
        )


def batches(
    planner: Planner, chosen: Sequence[int], frames: int, rng: np.random.Generator
) -> Iterator[Plans]:
    """Every utterance once, those of like length together, about `frames` frames at a time with padding."""
    plans = planner.each(chosen, rng)
    lengths = (plans.prompt_frames + plans.frames).numpy()
    rows: list[int] = []
    for row in np.argsort(lengths, kind="stable").tolist():
        if rows and lengths[row] * (len(rows) + 1) > frames:
            yield plans.rows(rows)
            rows = []
        rows.append(row)
    yield plans.rows(rows)


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m myna.training.models.draw_mels", description=__doc__)
    parser.add_argument("corpus", type=Path, help="folder of WebDataset shards")
    parser.add_argument("out", type=Path, help="file to write (.safetensors)")
    parser.add_argument("--mels", type=Path, required=True, help="file of training.sets.extract_mels")
    parser.add_argument("--aligned", type=Path, required=True, help="file of training.sets.align_corpus")
    parser.add_argument("--flow", type=Path, required=True, help="weights of the flow decoder")
    parser.add_argument("--tokens", type=Path, required=True, help="weights of its tokenizer")
    parser.add_argument("--batch-frames", type=int, default=2560)
    parser.add_argument("--bf16", action="store_true", help="products in bf16, where the processor has them")
    parser.add_argument("--force", action="store_true", help="replace an output that exists")
    options = parser.parse_args(arguments)
    try:
        speech = MelSet([options.mels])
        corpus = open_corpus(options.corpus, SAMPLE_RATE)
        first = {u.item.key: u.first for u in utterances(corpus, AlignedSet(options.aligned))}
        chosen = [
            i
            for i, item in enumerate(speech.items)
            if item.key in first and item.scale == 1 and item.tempo == 1
        ]
        if not chosen:
            raise InputError(
                f"{options.mels} has no utterance of {options.corpus}; give the mels that were made of this corpus"
            )
        decoder = load_checkpoint(FlowDecoder, FlowConfig, options.flow, "flow")
        tokenizer = load_checkpoint(SpeechTokenizer, SpeechTokensConfig, options.tokens, "tokens")
        check_trained_on(options.flow, tokenizer)
        drawer = Drawer(decoder, tokenizer, speech, bf16=options.bf16)
        generator, rng = torch.Generator().manual_seed(0), np.random.default_rng(0)
        made: list[tuple[str, int, np.ndarray]] = []
        for plans in batches(Planner(speech, chosen, AS_SPOKEN), chosen, options.batch_frames, rng):
            for i, start, mel in zip(
                plans.utterance.tolist(), plans.start.tolist(), drawer.draw(plans, generator), strict=True
            ):
                skipped = start - int(speech.starts[i])
                hop = _MEL_HOPS * (first[speech.items[i].key] + skipped)
                made.append((speech.items[i].key, hop, mel))
        with atomic_output(options.out, options.force) as file:
            file.write(drawn_set_bytes(made))
    except MynaError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    hours = sum(len(mel) for _, _, mel in made) / 100 / 3600
    print(f"{len(made)} utterances, {hours:.2f} h -> {options.out}", file=sys.stderr)
    return 0


if __name__ == "__main__":
    sys.exit(main())
