"""Codecs in files of 8 bits: the same codes mean the same, the sound is the same but for rounding."""

import pytest
import torch
from myna.codec.checkpoint import codes_hash, load_checkpoint, save_checkpoint
from myna.codec.encodec import EncodecConfig, build_encodec
from myna.codec.myna import MynaCodec, MynaConfig
from myna.codec.seanet import SEANetConfig
from myna.data.checkpoint import in_8_bits, read_safetensors
from myna.errors import InputError, UsageError
from safetensors.torch import save_file

SMALL = MynaConfig(
    hop=24, width=48, latent_width=48, encoder_depth=(1, 1), decoder_depth=(1, 1), latent_dim=8, codebook_size=16,
    n_codebooks=3, rate_weight=0.0,
)  # fmt: skip


@pytest.fixture
def codec() -> MynaCodec:
    torch.manual_seed(0)
    codec = MynaCodec(SMALL).eval()
    codec.init_from_data(0.1 * torch.randn(1, 1, 4800))
    for parameter in codec.parameters():
        parameter.requires_grad_(False).copy_(parameter.half().float())  # as files have it
    for name, buffer in codec.named_buffers():
        if "embed" in name:
            buffer.copy_(buffer.half().float())
    return codec


def test_rows_come_back_to_half_a_step(tmp_path):
    torch.manual_seed(0)
    weights = {"rows": torch.randn(5, 4, 3) * torch.tensor([1e-4, 1.0, 30.0, 0.0, 1.0])[:, None, None]}
    weights |= {"exact": torch.randn(7, 7).half(), "counts": torch.arange(3)}
    save_file(in_8_bits(weights, lambda name: name == "rows"), tmp_path / "small.safetensors")
    back = read_safetensors(tmp_path / "small.safetensors").weights
    assert sorted(back) == sorted(weights)
    step = weights["rows"].abs().amax((1, 2), keepdim=True) / 127
    assert bool(((back["rows"] - weights["rows"]).abs() <= 0.501 * step + 1e-12).all())
    assert torch.equal(back["exact"], weights["exact"])
    assert torch.equal(back["counts"], weights["counts"])


def test_a_scale_without_its_rows_is_a_damaged_file(tmp_path):
    save_file({"a.int8_scale": torch.ones(3), "a": torch.ones(3, 2)}, tmp_path / "bad.safetensors")
    with pytest.raises(InputError, match=r"bad\.safetensors is not a whole safetensors file \(a\.int8_scale"):
        read_safetensors(tmp_path / "bad.safetensors")


def test_codes_of_before_sound_as_before(codec, tmp_path):
    save_checkpoint(codec.half(), tmp_path / "half.safetensors")
    codec.float()
    save_checkpoint(codec, tmp_path / "small.safetensors", int8=True)
    assert (tmp_path / "small.safetensors").stat().st_size < 0.8 * (
        tmp_path / "half.safetensors"
    ).stat().st_size
    small = load_checkpoint(tmp_path / "small.safetensors")
    assert codes_hash(small) == codes_hash(codec)
    wav = 0.1 * torch.randn(1, 1, 2000)
    codes = codec.encode(wav)
    heard, before = small.decode(codes), codec.decode(codes)
    assert float((heard - before).norm()) < 0.03 * float(before.norm())
    assert float((small.encode(wav).codes == codes.codes).float().mean()) > 0.8
    # Written again, it still reads the codes of the first.
    save_checkpoint(small, tmp_path / "again.safetensors", int8=True)
    again = load_checkpoint(tmp_path / "again.safetensors")
    assert codes_hash(again) == codes_hash(codec)
    torch.testing.assert_close(again.decode(codes), heard, atol=1e-6, rtol=0)


def test_other_codecs_are_refused(tmp_path):
    codec = build_encodec(EncodecConfig(seanet=SEANetConfig(n_filters=4, dimension=16)))
    with pytest.raises(UsageError, match="no weights that bear 8 bits"):
        save_checkpoint(codec, tmp_path / "small.safetensors", int8=True)
    assert not (tmp_path / "small.safetensors").exists()
