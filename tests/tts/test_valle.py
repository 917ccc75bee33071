"""The models put together: the AR's codes go on in the decoders, and only a pair that belongs together speaks."""

from __future__ import annotations

import dataclasses
from itertools import islice

import numpy as np
import pytest
import torch
from myna.codec.mel_vocoder import MelVocoder, MelVocoderConfig
from myna.codec.myna import MynaCodec, MynaConfig
from myna.errors import MissingModelError, UsageError
from myna.evaluation.tts.systems import WatchedValle
from myna.layers.dit import DiTConfig
from myna.layers.lora import LoRAWeights
from myna.pretrained.ge2e import load_ge2e
from myna.tts.decoders.base import Latents, SpeechDecoder
from myna.tts.decoders.flow.decoder import FlowConfig, FlowDecoder
from myna.tts.decoders.flow.sound import FlowSpeechDecoder
from myna.tts.decoders.nar import NARConfig, NARModel
from myna.tts.decoders.nar_stream import NARDecoder, NARSound, fill
from myna.tts.lm.adapter import Adapter
from myna.tts.lm.ar import ARConfig, ARModel
from myna.tts.lm.batch import Prompt
from myna.tts.lm.sampling import SamplingOptions
from myna.tts.text.phones import Phones
from myna.tts.valle import Valle

K = 4
PHONES = Phones.from_ipa("hˈæloʊ wˈɜːld.")
SMALL = {
    "codebook_dim": 16,
    "width": 32,
    "depth": 1,
    "n_heads": 2,
    "n_kv_heads": 1,
    "hidden": 48,
    "text_depth": 1,
}


def tiny_flow() -> FlowSpeechDecoder:
    dit = DiTConfig(width=32, depth=1, n_heads=2, hidden=24, kernel=3, context=400)
    flow = FlowDecoder(FlowConfig(text_width=24, text_depth=1, condition=16, trunk=dit, head=dit))
    vocoder = MelVocoder(MelVocoderConfig(width=16, depth=1))
    for model in (flow, vocoder):  # what starts at zero would hide mistakes
        for parameter in model.parameters():
            if parameter.abs().sum() == 0:
                parameter.data.normal_(0, 0.1)
    return FlowSpeechDecoder(flow.eval(), vocoder.eval(), None, load_ge2e())


def models(n_coarse: int, n_given: int, kind: type[Valle] = Valle, flow: bool = False) -> Valle:
    torch.manual_seed(0)
    small = {"width": 32, "latent_width": 32, "encoder_depth": (1, 1), "decoder_depth": (1, 1), "n_paths": 1}
    codec = MynaCodec(MynaConfig(latent_dim=16, n_codebooks=K, **small)).eval()
    rows = codec.rows()
    groups = (tuple(range(n_given, K)),)
    ar = ARModel(ARConfig(n_codebooks=K, n_coarse=n_coarse, **SMALL), rows)
    nar = NARModel(NARConfig(n_codebooks=K, n_given=n_given, groups=groups, condition=8, **SMALL), rows)
    decoders: dict[str, SpeechDecoder] = {"nar": NARDecoder(nar.eval(), codec)}
    if flow:
        decoders = {"flow": tiny_flow(), **decoders}
    return kind(codec, ar.eval(), decoders)


def latents_of(valle: Valle, voice: Prompt | None) -> Latents:
    return Latents.of(list(valle.first_codes(PHONES, voice, SamplingOptions(seed=3))))


def prompt() -> Prompt:
    return Prompt(torch.randint(1024, (K, 30), generator=torch.Generator().manual_seed(1)))


@pytest.mark.parametrize("n", [1, 2, 3])
def test_what_the_ar_says_is_the_beginning_of_what_the_nar_fills(n):
    valle, voice = models(n, n), prompt()
    said, sound = latents_of(valle, voice), valle.sound(PHONES, voice)
    assert said.codes.shape == (n, len(said))
    assert isinstance(sound, NARSound)
    filler = sound.filler
    parts = [filler.push(part.codes, part.pointer) for part in (said[:5], said[5:])]
    codes = torch.cat([*parts, filler.flush()], dim=1)
    assert torch.equal(codes[:n], said.codes)
    assert torch.equal(codes, fill(filler.model, said.codes, said.pointer, PHONES, voice))


@pytest.mark.parametrize(("n_coarse", "n_given"), [(1, 2), (3, 2)])
def test_models_that_do_not_belong_together_are_refused(n_coarse, n_given):
    with pytest.raises(MissingModelError, match=f"says {n_coarse} codebooks.* goes on from {n_given}"):
        models(n_coarse, n_given).decoder()


@pytest.mark.parametrize("n", [1, 2])
def test_the_watch_of_an_evaluation_changes_nothing_and_sees_a_sound_that_is_stopped(n):
    voice, long = prompt(), SamplingOptions(max_sound_frames=500, max_pause_frames=500)
    watched = models(n, n, WatchedValle)
    assert isinstance(watched, WatchedValle)
    frames = list(watched.first_codes(PHONES, voice, long))
    unwatched = list(models(n, n).first_codes(PHONES, voice, long))
    torch.testing.assert_close(frames, unwatched, rtol=0, atol=0)
    assert not watched.stopped
    assert list(islice(watched.first_codes(PHONES, voice, SamplingOptions(max_sound_frames=1)), 20))
    assert watched.stopped


@pytest.mark.parametrize("decoder", ["flow", "nar"])
@pytest.mark.parametrize("with_prompt", [True, False])
def test_both_decoders_make_a_sample_for_every_frame(decoder, with_prompt):
    valle, voice = models(2, 2, flow=True), prompt() if with_prompt else None
    said = latents_of(valle, voice)
    heard = []
    for n in (5, len(said)):
        sound = valle.sound(PHONES, voice, decoder)
        parts = [sound.push(said[:n]), sound.push(said[n:]), sound.push(said[:0]), sound.flush()]
        heard.append(np.concatenate(parts))
    assert len(heard[0]) <= len(said) * valle.codec.frame_size
    assert len(heard[0]) >= len(said) * valle.codec.frame_size - valle.codec.delay
    np.testing.assert_allclose(heard[0], heard[1], atol=1e-2 * float(np.abs(heard[0]).max()))
    assert np.abs(heard[0]).max() > 0


def test_the_decoder_hears_the_prompts_voice():
    valle = models(2, 2, flow=True)
    one, other = prompt(), Prompt(torch.flip(prompt().codes, dims=(0,)))
    latents, said = latents_of(valle, one), []
    for voice in (one, other, one):
        sound = valle.sound(PHONES, voice)
        said.append(np.concatenate([sound.push(latents), sound.flush()]))
    np.testing.assert_array_equal(said[0], said[2])
    assert not np.allclose(said[0], said[1])


def test_adapters_of_a_decoder_that_is_gone_change_nothing():
    valle, voice = models(2, 2, flow=True), prompt()
    weights = LoRAWeights({"net": torch.ones(2, 3)}, {"net": torch.ones(4, 2)}, 1.0)
    old = dataclasses.replace(voice, adapters={"vocoder": Adapter(weights, "0123456789abcdef")})
    latents, said = latents_of(valle, voice), []
    torch.testing.assert_close(latents_of(valle, old).codes, latents.codes, rtol=0, atol=0)
    for one in (voice, old):
        sound = valle.sound(PHONES, one)
        said.append(np.concatenate([sound.push(latents), sound.flush()]))
    np.testing.assert_array_equal(*said)


def test_the_first_decoder_is_the_default_and_one_that_is_missing_is_named():
    assert models(2, 2, flow=True).decoder().name == "flow"
    valle = models(2, 2)
    assert valle.decoder() is valle.decoder("nar")
    assert valle.chunks(None) == valle.chunks("nar")
    with pytest.raises(MissingModelError, match="'flow' is not installed; there is nar; install myna again"):
        valle.sound(PHONES, None, "flow")
    alone = Valle(valle.codec, valle._original, {"flow": tiny_flow()})
    for name in ("nar", "codec"):
        with pytest.raises(
            MissingModelError, match=r"'nar' is .*myna train recipes/myna-nar-cpu\.yaml"
        ) as error:
            alone.decoder(name)
        assert "\n" not in str(error.value)
    with pytest.raises(UsageError, match="vocoder is gone: flow took its place"):
        alone.decoder("vocoder")
    with pytest.raises(MissingModelError, match="no decoder"):
        Valle(valle.codec, valle.ar, {})


def test_a_voice_is_read_once_by_each_decoder(monkeypatch):
    valle, voice, read = models(2, 2, flow=True), prompt(), []
    for decoder in valle.decoders.values():

        def watched(prompt, wav, decoder=decoder, reads=decoder.read_voice):
            read.append((decoder.name, tuple(wav.shape)))
            return reads(prompt, wav)

        monkeypatch.setattr(decoder, "read_voice", watched)
    valle.hear(voice)
    for name in (None, "nar", "nar"):
        valle.sound(PHONES, voice, name)
    n = voice.codes.shape[1] * valle.codec.frame_size - valle.codec.delay
    assert read == [("flow", (n,)), ("nar", (n,))]
