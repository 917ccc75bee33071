"""A codec that grows goes on from the smaller one: the same sound, later; its codebooks first."""

from dataclasses import replace

import pytest
import torch
from myna.codec.checkpoint import codes_hash, load_checkpoint, save_checkpoint
from myna.codec.dac import DAC, DACConfig
from myna.codec.myna import MynaCodec, MynaConfig
from myna.training.engine import distributed
from myna.training.engine.recipe import load_recipe
from myna.training.models.codec_recipe import CodecRecipe
from myna.training.models.codec_trainer import CodecTrainer, train
from myna.training.models.grow_codec import grown
from myna.training.models.release_codec import main

SMALL = MynaConfig(
    hop=24, width=32, latent_width=24, encoder_depth=(1, 1), decoder_depth=(1, 1), expansion=2,
    latent_dim=8, codebook_size=16, n_codebooks=2, rate_weight=0.0,
)  # fmt: skip


@pytest.fixture
def codec() -> MynaCodec:
    torch.manual_seed(0)
    codec = MynaCodec(SMALL).eval()
    codec.init_from_data(0.1 * torch.randn(1, 1, 4800))
    return codec


def test_later_it_makes_the_same_sound(codec):
    waiting = grown(codec, replace(SMALL, look_ahead=2)).eval()
    assert waiting.delay == codec.delay + 2 * codec.frame_size
    wav = 0.1 * torch.randn(1, 1, 1000)
    torch.testing.assert_close(
        waiting.decode(waiting.encode(wav)), codec.decode(codec.encode(wav)), atol=1e-5, rtol=0
    )


def test_codes_of_before_come_first_and_new_codebooks_start_where_they_leave_off(codec):
    wav = 0.1 * torch.randn(1, 1, 4800)
    more = grown(codec, replace(SMALL, n_codebooks=4)).eval()
    assert more.quantizer.unplaced == 2
    more.quantizer.init_rest_from(more.latents(wav))
    assert more.quantizer.unplaced == 0
    codes = more.encode(wav).codes
    assert torch.equal(codes[:, :2], codec.encode(wav).codes)
    latents = more.latents(wav).detach()
    errors = [float((more.quantizer.decode(codes[:, :k]) - latents).square().mean()) for k in (2, 3, 4)]
    assert errors[0] > 1.1 * errors[1] > 1.1 * errors[2]


def test_new_latents_change_little_and_can_learn(codec):
    wide = grown(codec, replace(SMALL, latent_dim=12))
    wav = 0.1 * torch.randn(1, 1, 1000)
    before = codec.decode(codec.encode(wav))
    after = wide.eval().decode(wide.encode(wav))
    assert 0 <= float((after - before).norm() / before.norm()) < 0.3
    wide.train()(wav, unquantized=torch.ones(1, dtype=torch.bool)).wav.square().sum().backward()
    rows = list(wide.encoder.layers)[-1].linear.weight.grad
    assert bool((rows[8:].abs().sum(1) > 0).all())


@pytest.mark.parametrize("smaller", [{"n_codebooks": 1}, {"n_codebooks": 3, "latent_dim": 4}, {}])
def test_what_does_not_grow_is_left_to_the_check_of_dimensions(codec, smaller):
    assert grown(codec, replace(SMALL, **smaller)) is codec


def test_a_run_begins_with_a_smaller_codec(tiny, tmp_path):
    train("myna-24k-tiny", [*tiny], quiet=True)
    start = [
        *tiny,
        f"init_from={tmp_path / 'run' / 'last.safetensors'}",
        f"output={tmp_path / 'next'}",
        "max_steps=2",
    ]
    more = ["model.n_codebooks=5", "model.look_ahead=1"]
    run = CodecTrainer(
        load_recipe("myna-24k-tiny", CodecRecipe, [*start, *more]), distributed.setup("cpu"), quiet=True
    )
    assert run.codec.quantizer.unplaced > 0
    run.train_step(run.batch(0))
    assert run.codec.quantizer.unplaced == 0
    save_checkpoint(run.codec, tmp_path / "grown.safetensors")
    loaded = load_checkpoint(tmp_path / "grown.safetensors")
    assert (loaded.config.n_codebooks, loaded.config.look_ahead) == (5, 1)


def test_release_names_a_codec_and_keeps_its_codes(codec, tmp_path, capsys):
    save_checkpoint(codec, tmp_path / "run.safetensors")
    made = [str(tmp_path / "run.safetensors"), str(tmp_path / "out.safetensors")]
    assert main([*made, "--name", "new", "--paths", "3"]) == 0
    assert "new, 2 codebooks" in capsys.readouterr().out
    released = load_checkpoint(tmp_path / "out.safetensors")
    assert (released.config.name, released.config.n_paths, released.quantizer.n_paths) == ("new", 3, 3)
    assert codes_hash(released) != ""
    torch.testing.assert_close(released.quantizer.rows(), codec.quantizer.rows(), atol=1e-3, rtol=1e-3)
    dac = DAC(DACConfig(encoder_dim=4, decoder_dim=8, latent_dim=8, encoder_rates=(2,), decoder_rates=(2,)))
    save_checkpoint(dac, tmp_path / "dac.safetensors")
    assert main([str(tmp_path / "dac.safetensors"), made[1], "--name", "new"]) == 2
    assert "not of myna-24k's kind" in capsys.readouterr().err


def test_release_takes_the_mean_of_decoders_of_the_same_codes(codec, tmp_path, capsys):
    codec.codes_of = "ab" * 32
    save_checkpoint(codec, tmp_path / "a.safetensors")
    with torch.no_grad():
        for parameter in codec.decoder.parameters():
            parameter.add_(0.5)
    save_checkpoint(codec, tmp_path / "b.safetensors")
    codec.codes_of = "cd" * 32
    save_checkpoint(codec, tmp_path / "other.safetensors")
    a, b, out, other = (str(tmp_path / f"{name}.safetensors") for name in ("a", "b", "out", "other"))
    assert main([a, b, out, "--name", "new"]) == 0
    first, second, released = (load_checkpoint(path).decoder.state_dict() for path in (a, b, out))
    for key, value in released.items():
        torch.testing.assert_close(value, (first[key] + second[key]) / 2, atol=0.02, rtol=0.02)
    assert codes_hash(load_checkpoint(out)) == "ab" * 32
    assert main([a, other, out, "--name", "new"]) == 2
    assert "no mean" in capsys.readouterr().err
