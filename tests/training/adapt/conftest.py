"""Models of a few thousand weights that speak noise, and a prepared minute of a real reader."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import cast

import pytest
import torch
from myna.apps.console import Console
from myna.apps.voices_adapt import audio_files, prepared
from myna.codec.mel.speech_tokens import SpeechTokenizer, SpeechTokensConfig
from myna.codec.mel_vocoder import MelVocoder, MelVocoderConfig
from myna.codec.myna import MynaCodec, MynaConfig
from myna.layers.dit import DiTConfig
from myna.pretrained.ge2e import load_ge2e
from myna.training.adapt.adapt import Adapting
from myna.training.adapt.recipe import AdaptRecipe
from myna.tts.aligner import load_aligner
from myna.tts.decoders.flow.decoder import FlowConfig, FlowDecoder
from myna.tts.decoders.flow.sound import FlowSpeechDecoder
from myna.tts.flow_speech import FlowSpeech
from myna.tts.lm.ar import ARConfig, ARModel
from myna.tts.lm.token_ar import TokenAR, TokenARConfig
from myna.tts.valle import Valle

MINUTE = Path(__file__).resolve().parents[2] / "assets" / "minute"
CODES = {"n_codebooks": 4, "n_coarse": 2, "codebook_size": 32, "codebook_dim": 8}


def tiny_models(seed: int = 0) -> Valle:
    torch.manual_seed(seed)
    codec = MynaCodec(
        MynaConfig(
            width=16,
            latent_width=16,
            encoder_depth=(1, 1),
            decoder_depth=(1, 1),
            latent_dim=8,
            n_codebooks=4,
            codebook_size=32,
        )
    ).eval()
    rows = torch.randn(4, 32, 8)
    ar = ARModel(
        ARConfig(**CODES, width=16, depth=1, n_heads=2, n_kv_heads=1, hidden=16, text_depth=1, extra=4), rows
    ).eval()
    torch.manual_seed(seed + 1)
    small = DiTConfig(width=16, depth=1, n_heads=2, hidden=16, context=4096)
    flow = FlowDecoder(FlowConfig(text_width=24, text_depth=1, condition=16, trunk=small, head=small)).eval()
    vocoder = MelVocoder(MelVocoderConfig(width=16, depth=1)).eval()
    decoder = FlowSpeechDecoder(flow, vocoder, None, load_ge2e())
    return Valle(codec, ar, {"flow": decoder}, load_aligner())


def tiny_flow_models() -> FlowSpeech:
    """The same after an AR over speech tokens."""
    codes = tiny_models()
    torch.manual_seed(2)
    tokenizer = SpeechTokenizer(SpeechTokensConfig(width=16, depth_before=1, depth=1)).eval()
    small = {
        "width": 16,
        "depth": 1,
        "n_heads": 2,
        "n_kv_heads": 1,
        "hidden": 16,
        "text_depth": 1,
        "extra": 4,
    }
    other = cast(FlowSpeechDecoder, codes.decoder("flow"))
    decoder = FlowSpeechDecoder(other._original, other.vocoder, tokenizer, load_ge2e())
    return FlowSpeech(codes.codec, TokenAR(TokenARConfig(**small)).eval(), decoder, codes.aligner)


def tiny_recipe(**changes) -> AdaptRecipe:
    quick = {"max_steps": 4, "measure_every": 2, "warmup_steps": 1}
    return AdaptRecipe.model_validate(
        {
            "threads": 1,
            "sentences": 1,
            "last_sentences": 1,
            "ar": {**quick, "batch_frames": 1200},
            "flow": {**quick, "batch_frames": 800},
            **changes,
        }
    )


@pytest.fixture(scope="session")
def minute(tmp_path_factory) -> Path:
    """The corpus that `myna prepare`'s stages make of the recordings."""
    place = tmp_path_factory.mktemp("minute")
    return prepared(audio_files([str(MINUTE)]), None, place, "none", "en", 1, Console(quiet=True))


@pytest.fixture(scope="session")
def models() -> Valle:
    return tiny_models()


@pytest.fixture(scope="session")
def begun(models, minute, tmp_path_factory) -> Path:
    """A work folder in which everything is gathered."""
    work = tmp_path_factory.mktemp("begun")
    Adapting(models, "flow", models.aligner, minute, work, tiny_recipe(), True)
    return work


@pytest.fixture
def adapting(models, minute, begun, tmp_path):
    """A function: an `Adapting` on the minute, in this test's own folder or another."""

    def make(recipe: AdaptRecipe | None = None, work: Path | None = None, **others) -> Adapting:
        decoder = others.pop("decoder", "flow")
        speaking = others.pop("models", models)
        work = work or tmp_path / "work"
        if not work.exists():
            shutil.copytree(begun, work)
        return Adapting(
            speaking, decoder, speaking.aligner, minute, work, recipe or tiny_recipe(), True, **others
        )

    return make
