"""Names, files, downloads: what is found, what is refused, and what the refusal says."""

from __future__ import annotations

import contextlib
import hashlib
import json
import pickle
import urllib.error

import pytest
import torch
from myna.codec import checkpoint, registry
from myna.codec.checkpoint import load_checkpoint, save_checkpoint, weights_hash
from myna.codec.dac import DAC, DACConfig
from myna.codec.encodec import EncodecConfig, build_encodec
from myna.codec.encodec_lm import EncodecLM, EncodecLMConfig
from myna.codec.myna import MynaCodec, MynaConfig
from myna.codec.seanet import SEANetConfig
from myna.data import download
from myna.errors import InputError, MissingModelError, UsageError
from safetensors.torch import save_file

SMALL = {"n_codebooks": 2, "codebook_size": 16}
MODELS = {
    "encodec": lambda: build_encodec(EncodecConfig(seanet=SEANetConfig(n_filters=2, dimension=4), **SMALL)),
    "dac": lambda: DAC(DACConfig(encoder_dim=2, latent_dim=4, decoder_dim=16, **SMALL)),
    "myna": lambda: MynaCodec(
        MynaConfig(width=8, latent_width=8, encoder_depth=(1, 1), decoder_depth=(1, 1), latent_dim=4, **SMALL)
    ),
    "encodec-lm": lambda: EncodecLM(EncodecLMConfig(width=8, n_layers=1, hidden=8, **SMALL)),
}


@pytest.mark.parametrize("family", MODELS)
def test_a_checkpoint_rebuilds_the_model_with_no_other_file(family: str, tmp_path):
    model = MODELS[family]().eval()
    path = tmp_path / "model.safetensors"
    save_checkpoint(model, path, notes={"step": "7"})
    again = load_checkpoint(path)
    assert again.config == model.config
    assert not again.training
    assert weights_hash(again) == weights_hash(model)
    for key, value in model.state_dict().items():
        assert torch.equal(again.state_dict()[key], value)


def test_the_hash_follows_the_weights():
    model = MODELS["dac"]()
    before = weights_hash(model)
    assert len(before) == 64
    with torch.no_grad():
        next(model.parameters()).view(-1)[0] += 1
    assert weights_hash(model) != before


def test_the_hash_is_made_once_for_a_model(monkeypatch):
    model, made = registry.load_codec("myna-24k"), []
    make = checkpoint._hash
    monkeypatch.setattr(checkpoint, "_hash", lambda weights: made.append(1) or make(weights))
    before = weights_hash(model)
    assert weights_hash(model) == before
    assert len(made) == 1
    weights = {key: value.clone() for key, value in model.state_dict().items()}
    with torch.inference_mode():
        next(model.parameters()).mul_(2)
    assert weights_hash(model) != before
    model.load_state_dict(weights)
    assert weights_hash(model) == before
    assert len(made) == 3
    with torch.inference_mode():
        assert weights_hash(registry.load_codec("myna-24k")) == before


def test_load_codec_reads_our_checkpoints_and_says_no_to_other_models(tmp_path):
    save_checkpoint(MODELS["dac"](), tmp_path / "a.safetensors")
    save_checkpoint(MODELS["encodec-lm"](), tmp_path / "b.safetensors")
    assert registry.load_codec(tmp_path / "a.safetensors").name == "dac-44k"
    assert isinstance(registry.load_encodec_lm(tmp_path / "b.safetensors"), EncodecLM)
    with pytest.raises(InputError, match="not a codec"):
        registry.load_codec(tmp_path / "b.safetensors")
    with pytest.raises(InputError, match="not a language model"):
        registry.load_encodec_lm(tmp_path / "a.safetensors")


def test_a_checkpoint_cut_or_flipped_anywhere_gives_one_line(tmp_path):
    path = tmp_path / "model.safetensors"
    save_checkpoint(MODELS["encodec-lm"](), path)
    whole = path.read_bytes()
    header = int.from_bytes(whole[:8], "little") + 8
    cuts = [*range(0, 64), header // 2, header, header + 1, len(whole) - 1]
    for n in cuts:
        path.write_bytes(whole[:n])
        with pytest.raises(InputError) as error:
            registry.load_model(path)
        assert "\n" not in str(error.value)
    for n in range(0, header, 23):  # a flipped byte may fall where it does no harm
        path.write_bytes(whole[:n] + b"\xff" + whole[n + 1 :])
        with contextlib.suppress(InputError):
            registry.load_model(path)


def change(path, **changes):
    model = MODELS["dac"]()
    save_checkpoint(model, path)
    config = {"family": "dac", **dict(vars(model.config).items()), **changes}
    config = {key: value for key, value in config.items() if value is not None}
    save_file(model.state_dict(), path, metadata={"config": json.dumps(config)})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"colour": "red"}, "unknown key 'colour'"),
        ({"family": "mp3"}, "not one of"),
        ({"encoder_dim": "wide"}, "encoder_dim = 'wide'"),
        ({"n_codebooks": True}, "n_codebooks = True"),
        ({"n_codebooks": 3}, "missing quantizer"),
        ({"encoder_rates": [0, 4, 8, 8]}, "configuration"),
    ],
)
def test_configurations_that_are_refused(changes: dict, message: str, tmp_path):
    path = tmp_path / "model.safetensors"
    change(path, **changes)
    with pytest.raises(InputError, match=message) as error:
        load_checkpoint(path)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("device", ["nonsense", "cuda:99"])
def test_a_device_that_is_not_there_is_one_line(device: str, tmp_path):
    save_checkpoint(MODELS["dac"](), tmp_path / "a.safetensors")
    with pytest.raises(UsageError, match=f"device {device} cannot be used") as error:
        registry.load_codec(tmp_path / "a.safetensors", device)
    assert "\n" not in str(error.value)


class Payload:
    def __reduce__(self):
        return (open, ("should-not-exist", "w"))


@pytest.mark.parametrize("suffix", [".th", ".pth", ".safetensors", ".bin"])
def test_foreign_files_are_refused_and_nothing_in_them_runs(suffix: str, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / f"model{suffix}"
    torch.save({"x": Payload()}, tmp_path / "zip")
    contents = [b"", b"hello", b"RIFF" + bytes(100), pickle.dumps(Payload()), (tmp_path / "zip").read_bytes()]
    torch.save({"x": torch.zeros(3)}, tmp_path / "other")
    torch.save([1, 2], tmp_path / "list")
    contents += [(tmp_path / "other").read_bytes(), (tmp_path / "list").read_bytes()]
    for content in contents:
        path.write_bytes(content)
        with pytest.raises(InputError) as error:
            registry.load_codec(path)
        assert "\n" not in str(error.value)
    assert not (tmp_path / "should-not-exist").exists()


def test_missing_things_say_what_to_do(tmp_path, monkeypatch):
    monkeypatch.setenv("MYNA_CACHE", str(tmp_path))
    with pytest.raises(MissingModelError, match="myna models download dac-24k"):
        registry.load_codec("dac-24k")
    with pytest.raises(MissingModelError, match="no model file"):
        registry.load_codec(tmp_path / "nothing.th")
    for look_up in (registry.load_codec, registry.find_model):
        with pytest.raises(
            UsageError, match="'mp3': choose one of myna-24k-v2, myna-24k, myna-mel, encodec-24k"
        ):
            look_up("mp3")
        with pytest.raises(UsageError, match=r"'encodec_24K': did you mean encodec-24k\? choose one of myna"):
            look_up("encodec_24K")
    with pytest.raises(MissingModelError, match=r"model\.safetensors"):
        registry.load_codec(tmp_path)


def test_convert_writes_a_checkpoint_of_ours(tmp_path):
    model = MODELS["dac"]()
    save_checkpoint(model, tmp_path / "a.safetensors")
    registry.convert(tmp_path / "a.safetensors", tmp_path / "b.safetensors")
    assert weights_hash(load_checkpoint(tmp_path / "b.safetensors")) == weights_hash(model)
    with pytest.raises(UsageError, match="exists"):
        registry.convert(tmp_path / "a.safetensors", tmp_path / "b.safetensors")


def test_every_entry_can_be_cached_side_by_side():
    entries = registry.list_models()
    assert entries[0].name == registry.DEFAULT_CODEC == "myna-24k-v2"
    assert len({e.file for e in entries}) == len({e.name for e in entries}) == len(entries)
    assert all(e.url is None or e.url.startswith("https://") for e in entries)


class Answer:
    """What urlopen gives back: a body, and how long it says it is."""

    def __init__(self, body: bytes, length: int | None = None):
        self.body, self.headers = body, {"Content-Length": str(len(body) if length is None else length)}

    def __enter__(self):
        return self

    def __exit__(self, *_):
        return False

    def read(self, n: int) -> bytes:
        block, self.body = self.body[:n], self.body[n:]
        return block


def test_downloads_are_checked_and_whole(tmp_path, monkeypatch):
    monkeypatch.setenv("MYNA_CACHE", str(tmp_path / "cache"))
    body = bytes(range(256)) * 10_000
    entry = registry.find_model("encodec-48k")
    good = registry.ModelEntry(entry.name, entry.url, "m.th", hashlib.sha256(body).hexdigest()[:8], "", "MIT")
    monkeypatch.setattr(registry, "_MODELS", (good,))

    monkeypatch.setattr(download.urllib.request, "urlopen", lambda *a, **k: Answer(body + b"!"))
    with pytest.raises(MissingModelError, match="sha256"):
        registry.download("encodec-48k")
    monkeypatch.setattr(download.urllib.request, "urlopen", lambda *a, **k: Answer(body, len(body) + 5))
    with pytest.raises(MissingModelError, match="cannot download"):
        registry.download("encodec-48k")

    def unreachable(*args, **kwargs):
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(download.urllib.request, "urlopen", unreachable)
    with pytest.raises(MissingModelError, match="another machine") as error:
        registry.download("encodec-48k")
    assert "\n" not in str(error.value)
    assert list((tmp_path / "cache").iterdir()) == []

    seen = []
    monkeypatch.setattr(download.urllib.request, "urlopen", lambda *a, **k: Answer(body))
    path = registry.download("encodec-48k", progress=lambda done, total: seen.append((done, total)))
    assert path.read_bytes() == body
    assert path == registry.model_path("encodec-48k")
    assert seen[-1] == (len(body), len(body))
    assert len(seen) > 1
    monkeypatch.setattr(download.urllib.request, "urlopen", unreachable)
    assert registry.download("encodec-48k") == path  # already there
