"""A codec's decoder learns a real reader: codes stay, distances fall, a file of the voice decodes by it alone."""

from __future__ import annotations

import shutil
from dataclasses import replace

import pytest
import torch
from myna.apps.cli import run
from myna.codec.encodec import Encodec, EncodecConfig
from myna.codec.registry import DEFAULT_CODEC, load_codec
from myna.data.audio import read_audio
from myna.errors import InputError, UsageError
from myna.training.adapt.adapt_codec import AdaptingCodec
from myna.training.adapt.codec_part import CodecPart
from myna.training.engine.interrupt import Interrupt
from myna.tts.voices.codec_decoder import codec_of_voice
from myna.tts.voices.library import voice_path
from myna.tts.voices.voice import load_voice

from .conftest import MINUTE, tiny_models, tiny_recipe

QUICK = {"batch_size": 2, "seconds": 0.6, "max_steps": 2, "measure_every": 1, "warmup_steps": 1}


@pytest.fixture
def learning(minute, begun, tmp_path):
    """A function: an `AdaptingCodec` of a tiny codec on the minute."""
    shutil.copytree(begun / "decoded", tmp_path / "work" / "decoded")
    shutil.copy(begun / "vectors.safetensors", tmp_path / "work")

    def make(**section) -> AdaptingCodec:
        recipe = tiny_recipe(codec={**QUICK, **section})
        return AdaptingCodec(tiny_models().codec, minute, tmp_path / "work", recipe)

    return make


def test_what_it_learns_brings_recordings_nearer_and_keeps_the_codes(learning):
    run_ = learning()
    part = CodecPart(run_.codec, run_.material, run_.recipe)
    optimizer = torch.optim.Adam([p for layer in part.layers.values() for p in (layer.up, layer.down)], 0.02)
    before = part.measure().likeness
    for step in range(12):
        optimizer.zero_grad()
        part.loss(step).backward()
        optimizer.step()
    assert part.measure().likeness > before + 0.01
    wav = part._held[:1]
    assert torch.equal(part.codec.encode(wav).codes, run_.codec.encode(wav).codes)
    assert all(not p.requires_grad for name, p in part.codec.named_parameters() if ".base." in name)


def test_a_step_is_a_function_of_the_seed_and_its_number(learning):
    run_ = learning()
    first, second = (CodecPart(run_.codec, run_.material, run_.recipe) for _ in range(2))
    torch.manual_seed(3)
    a = float(first.loss(4).detach())
    torch.manual_seed(3)
    assert float(second.loss(4).detach()) == a


def test_a_run_that_is_done_is_not_begun_anew(learning):
    found = learning().run(5.0, Interrupt())
    assert found.before is not None
    assert found.now is not None
    assert found.now.likeness >= found.before.likeness
    again = learning().run(5.0, Interrupt())
    assert again.now == found.now


def test_only_codecs_that_myna_trains_learn(learning):
    run_ = learning()
    other = Encodec(EncodecConfig("encodec-48k", 48_000, n_codebooks=1))
    with pytest.raises(UsageError, match="encodec-48k cannot be adapted"):
        CodecPart(other, run_.material, run_.recipe)
    with pytest.raises(UsageError, match="lora of the recipe"):
        CodecPart(run_.codec, run_.material, tiny_recipe(codec={**QUICK, "lora": {"targets": ["nothing.*"]}}))


def test_the_command_and_a_file_decoded_by_the_voice(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MYNA_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("MYNA_CACHE", str(tmp_path / "cache"))
    recipe = tmp_path / "quick.yaml"
    settings = "".join(f", {name}: {value}" for name, value in QUICK.items())
    recipe.write_text(f"kind: adapt\nthreads: 1\ncodec: {{lr: 0.002{settings}}}\n")
    words = ["voices", "adapt", "me", str(MINUTE), "--consent", "I am the speaker", "--codec"]
    words += ["--recipe", str(recipe), "-j", "1"]
    for more in (["--texts", str(MINUTE)], ["--model", "none"], ["--others", str(MINUTE)]):
        assert run([*words, *more]) == 2
        assert "needs no texts" in capsys.readouterr().err
    assert run(words) == 0, capsys.readouterr().err
    assert "myna decompress FILE --voice me" in capsys.readouterr().out
    voice = load_voice(voice_path("me"))
    assert set(voice.adapters) == {"codec"}

    source, file = MINUTE / "01.ogg", tmp_path / "said.myna"
    assert run(["compress", str(source), str(file), "-q"]) == 0
    plain, mine = tmp_path / "plain.wav", tmp_path / "mine.wav"
    assert run(["decompress", str(file), str(plain), "-q"]) == 0
    assert run(["decompress", str(file), str(mine), "-q", "--voice", "me"]) == 0
    a, b = read_audio(plain).samples, read_audio(mine).samples
    assert a.shape == b.shape
    assert not (a == b).all()
    # In streams, too, and without the voice the codec is what it was.
    codec = load_codec(DEFAULT_CODEC)
    with_voice = codec_of_voice(codec, voice)
    codes = torch.randint(codec.codebook_size, (1, codec.n_codebooks, 12))
    stream = with_voice.decoder_stream()
    parts = [stream.push(codes[..., :5]), stream.push(codes[..., 5:]), stream.flush()]
    whole = with_voice.decode(_codes(codes, codec))
    assert torch.allclose(torch.cat(parts, -1)[..., : whole.shape[-1]], whole, atol=1e-4)
    assert not torch.equal(whole, codec.decode(_codes(codes, codec)))

    kept = mine.read_bytes()
    assert run(["decompress", str(file), str(mine), "-qf", "--voice", "nobody"]) == 2
    assert "no voice of yours is named 'nobody'" in capsys.readouterr().err
    assert mine.read_bytes() == kept
    others = replace(voice, adapters={"codec": replace(voice.adapters["codec"], base="0" * 16)})
    with pytest.raises(InputError, match="with weights 0000"):
        codec_of_voice(codec, others)
    with pytest.raises(UsageError, match="has not learned a codec"):
        codec_of_voice(codec, replace(voice, adapters={}))


def _codes(codes: torch.Tensor, codec):
    from myna.codec import Codes

    return Codes(codes, codes.shape[-1] * codec.frame_size - codec.delay)
