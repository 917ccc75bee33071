"""VALL-E's second stage over the mel codec, on tiny random models: streams, what may depend on what, and what does not
fit."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch
from myna.codec.checkpoint import load_checkpoint as load_codec_checkpoint
from myna.codec.checkpoint import save_checkpoint as save_codec
from myna.codec.checkpoint import weights_hash
from myna.codec.mel.codec import MelCodec, MelCodecConfig
from myna.codec.mel.speech_tokens import SpeechTokenizer, SpeechTokensConfig
from myna.codec.mel_vocoder import MelVocoder, MelVocoderConfig
from myna.codec.myna import MynaCodec, MynaConfig
from myna.data.checkpoint import load_checkpoint
from myna.errors import InputError, MissingModelError
from myna.tts import registry
from myna.tts.decoders.base import Latents
from myna.tts.decoders.mel_nar import MelNARDecoder, frames_of
from myna.tts.decoders.nar import NARConfig, NARModel, NAROptions
from myna.tts.decoders.nar_stream import NARStream, fill
from myna.tts.flow_speech import FlowSpeech, load_flow_speech
from myna.tts.lm.ar import ARConfig, ARModel
from myna.tts.lm.batch import Prompt, SpeechBatch
from myna.tts.lm.sampling import SamplingOptions
from myna.tts.presets import TOKEN_PRESETS, SpeechOptions
from myna.tts.registry import FLOW_FILES, MEL_CODEC_FILE, MEL_NAR_FILE, save_model
from myna.tts.text.phones import Phones

PHONES = Phones(torch.tensor([[2, 20, 31, 2, 25, 40, 6], [0] * 7, [0] * 7]))
NAR = NARConfig(
    name="myna-mel-nar", n_codebooks=3, codebook_size=1000, codebook_dim=4, groups=((1,), (2,)), chunks=(3, 5),
    places=2, mel=320, width=32, depth=2, n_heads=2, n_kv_heads=1, hidden=48, text_depth=1, condition=8, context=256,
    extra=4,
)  # fmt: skip


def awake(model: torch.nn.Module) -> None:
    """What starts at zero would hide mistakes."""
    for name, parameter in model.named_parameters():
        if parameter.abs().sum() == 0 or "adapt" in name or "extra" in name:
            parameter.data.normal_(0, 0.3)


def save_pair(folder: Path, codec_hash: str | None = None) -> None:
    """A mel codec around the tokenizer and the vocoder of a folder, and a NAR over it."""
    tokenizer = load_checkpoint(SpeechTokenizer, SpeechTokensConfig, folder / FLOW_FILES["tokens"], "tokens")
    vocoder = load_checkpoint(MelVocoder, MelVocoderConfig, folder / FLOW_FILES["vocoder"], "mel-vocoder")
    torch.manual_seed(3)
    config = MelCodecConfig(
        tokens=tokenizer.config, vocoder=vocoder.config, width=16, fine_width=80, encoder_depth=1,
        decoder_depth=(1, 1), latent_dim=8, n_codebooks=3, codebook_dim=4,
    )  # fmt: skip
    codec = MelCodec(config)
    nar = NARModel(NAR, codec.rows())
    awake(codec)
    awake(nar)
    codec.tokenizer.load_state_dict(tokenizer.state_dict())
    codec.vocoder.load_state_dict(vocoder.state_dict())
    save_codec(codec, folder / MEL_CODEC_FILE)
    save_model(nar, folder / MEL_NAR_FILE, codec_hash or weights_hash(codec)[:16], {})


@pytest.fixture(scope="module")
def folder(save_tiny_flow, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("flow")
    save_tiny_flow(folder)
    save_pair(folder)
    return folder


@pytest.fixture(scope="module")
def codec() -> MynaCodec:
    torch.manual_seed(0)
    small = {"width": 32, "latent_width": 32, "encoder_depth": (1, 1), "decoder_depth": (1, 1)}
    return MynaCodec(MynaConfig(**small, latent_dim=16, n_codebooks=2)).eval()


@pytest.fixture(scope="module")
def speech(folder, codec) -> FlowSpeech:
    return load_flow_speech(codec, folder=folder)


@pytest.fixture(scope="module")
def decoder(speech) -> MelNARDecoder:
    found = speech.decoder("nar")
    assert isinstance(found, MelNARDecoder)
    return found


def recorded(seed: int, n: int = 200) -> Prompt:
    mel = -5 + 2 * torch.randn(80, n, generator=torch.Generator().manual_seed(seed))
    return Prompt(torch.zeros(2, n // 2, dtype=torch.long), mel=mel, speaker=torch.eye(256)[0])


def said(speech: FlowSpeech, prompt: Prompt | None, cuts: int) -> np.ndarray:
    frames = list(speech.first_codes(PHONES, prompt, SamplingOptions(seed=3)))[:40]
    sound = speech.sound(PHONES, prompt, "nar", seed=3)
    parts = [sound.push(Latents.of(frames[i : i + cuts])) for i in range(0, len(frames), cuts)]
    samples = np.concatenate([*parts, sound.flush()])
    assert len(samples) == len(frames) * 960
    return samples


def test_samples_are_the_same_however_they_are_asked_for(speech, decoder):
    assert list(speech.decoders) == ["flow", "nar"]
    assert decoder.chunks == NAR.chunks
    prompt = recorded(0)
    whole = said(speech, prompt, 1000)
    assert np.abs(whole).max() > 1e-4
    for cuts in (1, 7):
        assert np.allclose(said(speech, prompt, cuts), whole, atol=2e-2 * np.abs(whole).max())
    assert np.array_equal(said(speech, prompt, 1000), whole)
    assert np.isfinite(said(speech, None, 1000)).all()


def drawn(t: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    first = torch.randint(1000, (1, t), generator=generator)
    return first, torch.sort(torch.randint(7, (2 * t,), generator=generator)).values


def test_the_voice_counts_by_its_codes_and_by_its_mel(decoder):
    first, pointer = drawn(20)
    wav = torch.zeros(24_000)
    said = {}
    for name, prompt in (("none", None), ("one", recorded(0)), ("other", recorded(1))):
        voice = None if prompt is None else decoder.read_voice(prompt, wav)
        stream = decoder.stream(PHONES, voice, 0).filler
        said[name] = torch.cat([stream.push(first, pointer), stream.flush()], dim=1)
    assert not torch.equal(said["none"], said["one"])
    assert not torch.equal(said["one"], said["other"])
    voice = decoder.read_voice(recorded(0), wav)
    deaf = decoder.nar.init_state(voice.prompt)
    assert not torch.equal(deaf.transformer[1][0][0], voice.state.transformer[1][0][0])
    from_codes = decoder.read_voice(Prompt(torch.zeros(2, 50, dtype=torch.long)), 0.1 * torch.randn(24_000))
    assert from_codes.prompt.codes.shape == (3, 25)


def test_training_and_generation_agree(folder, decoder):
    """The codes that generation takes are those that the forward of training finds likeliest."""
    model, mel_codec = registry.load_nar(folder / MEL_NAR_FILE), decoder.codec
    first, pointer = drawn(23)
    mel = recorded(0, 48).mel
    assert mel is not None
    prompt = Prompt(mel_codec.encode_mel(mel[None])[0])
    frames = frames_of(mel_codec, mel[None])
    state = model.init_state(prompt, frames[0])
    stream = NARStream(model, PHONES, prompt, NAROptions(choice="likeliest"), state)
    codes = torch.cat([stream.push(first, pointer), stream.flush()], dim=1)
    batch = SpeechBatch(
        phones=PHONES.tokens[None],
        n_phones=torch.tensor([7]),
        codes=torch.cat([prompt.codes, codes], dim=1)[None],
        pointer=torch.cat([torch.full((24,), -1), pointer])[None],
        n_prompt=torch.tensor([12]),
        n_frames=torch.tensor([35]),
        drop_text=torch.tensor([False]),
        drop_voice=torch.tensor([False]),
        mel=frames,
    )
    for group in (0, 1):
        with torch.no_grad():
            assert float(model(batch, torch.tensor([group])).accuracy[group]) == 1.0
            unheard = dataclasses.replace(batch, mel=torch.zeros_like(frames))
            hidden = dataclasses.replace(batch, drop_voice=torch.tensor([True]))
            losses = [float(model(b, torch.tensor([group])).loss) for b in (batch, unheard, hidden)]
        assert len(set(losses)) == 3


def test_a_chunk_never_sees_what_follows(folder):
    model = registry.load_nar(folder / MEL_NAR_FILE)
    first, pointer = drawn(20)
    other = first.clone()
    other[:, 13:] = (other[:, 13:] + 1) % 1000
    one, two = (fill(model, codes, pointer, PHONES) for codes in (first, other))
    assert torch.equal(one[:, :13], two[:, :13])
    assert not torch.equal(one[1:, 13:], two[1:, 13:])
    moved = pointer.clone()
    moved[26:] = 6
    assert torch.equal(fill(model, first, moved, PHONES)[:, :13], one[:, :13])
    moved[1] = 6 - moved[1]  # the second half of the first frame
    assert not torch.equal(fill(model, first, moved, PHONES)[:, :3], one[:, :3])
    with pytest.raises(ValueError, match=r"pointer \(2 T,\)"):
        fill(model, first, pointer[:-1], PHONES)


def test_models_that_do_not_belong_together_are_refused(folder, codec, decoder, save_tiny_flow, tmp_path):
    save_tiny_flow(tmp_path)
    save_pair(tmp_path, codec_hash="0123456789abcdef")
    with pytest.raises(MissingModelError, match="0123456789abcdef"):
        load_flow_speech(codec, folder=tmp_path).decoder("nar")
    save_pair(tmp_path)
    mel_codec = load_codec_checkpoint(tmp_path / MEL_CODEC_FILE)
    assert isinstance(mel_codec, MelCodec)
    with torch.no_grad():
        mel_codec.tokenizer.net.layers[0].bias.add_(1)
    save_codec(mel_codec, tmp_path / MEL_CODEC_FILE)
    with pytest.raises(MissingModelError, match="no mel codec around the tokenizer"):
        load_flow_speech(codec, folder=tmp_path).decoder("nar")
    (tmp_path / MEL_NAR_FILE).unlink()
    with pytest.raises(MissingModelError, match="'nar' is not installed; there is flow"):
        load_flow_speech(codec, folder=tmp_path).decoder("nar")
    small = {
        "width": 32,
        "depth": 1,
        "n_heads": 2,
        "n_kv_heads": 1,
        "hidden": 64,
        "text_depth": 1,
        "extra": 4,
    }
    ar = ARModel(ARConfig(**small, n_codebooks=2, codebook_size=1024, codebook_dim=16, n_coarse=1))
    with pytest.raises(MissingModelError, match="reads speech tokens") as caught:
        decoder.check(ar)
    assert "\n" not in str(caught.value)
    with pytest.raises(MissingModelError, match="does not fill the codebooks"):
        MelNARDecoder(NARModel(dataclasses.replace(NAR, mel=0)), decoder.codec)
    with pytest.raises(InputError, match="shorter than 40 ms"):
        decoder.read_voice(recorded(0, 3), torch.zeros(24_000))


def test_the_old_name_stays_the_old_decoder(folder, monkeypatch):
    assert SpeechOptions(decoder="codec").decoder == "nar" or registry.has_mel_nar()
    monkeypatch.setattr(registry, "WEIGHTS", folder)
    assert SpeechOptions(decoder="codec").decoder == "codec"
    assert SpeechOptions(decoder="nar").resolved().sampling == TOKEN_PRESETS["standard"].sampling
    assert SpeechOptions(decoder="codec").resolved().sampling != TOKEN_PRESETS["standard"].sampling
    assert [registry.after_tokens(name) for name in ("flow", "nar", "codec", None)] == [
        True, True, False, True,
    ]  # fmt: skip
    (tmp := folder / MEL_NAR_FILE).rename(folder / "away")
    try:
        assert not registry.after_tokens("nar")
        assert SpeechOptions(decoder="codec").decoder == "nar"
    finally:
        (folder / "away").rename(tmp)
