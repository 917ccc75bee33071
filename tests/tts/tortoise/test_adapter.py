"""Files as published, converted, and not as they should be."""

from __future__ import annotations

import hashlib
from dataclasses import replace

import published
import pytest
import torch
from myna.errors import InputError, MissingModelError, UsageError
from myna.tts.tortoise import registry
from myna.tts.tortoise.adapter import convert_folder, load_network
from myna.tts.tortoise.files import FILES, PublishedFile, find_network, tortoise_dir


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return published.write(tmp_path_factory.mktemp("published"))


@pytest.mark.parametrize("name", FILES)
def test_a_published_file_gives_the_network_that_it_was_written_from(name, folder):
    expected = published.network(name, list(published.CONFIGS).index(name))
    model = load_network(name, folder)
    assert model.config == expected.config
    for key, value in expected.state_dict().items():
        assert torch.allclose(model.state_dict()[key], value, atol=1e-6), key


def test_conversion_keeps_every_weight_and_needs_no_other_file(folder, tmp_path):
    written = convert_folder(folder, tmp_path / "ours")
    assert len(written) == len(FILES)
    for name in FILES:
        path = find_network(name, tmp_path / "ours")
        assert path is not None
        assert path.suffix == ".safetensors"
        a, b = load_network(name, tmp_path / "ours"), load_network(name, folder)
        assert a.config == b.config
        assert all(torch.equal(value, b.state_dict()[key]) for key, value in a.state_dict().items())
    with pytest.raises(UsageError, match="--force"):
        convert_folder(folder, tmp_path / "ours")


def test_a_missing_file_is_named_with_what_it_is_for(tmp_path):
    with pytest.raises(
        MissingModelError, match=r"clvp2.pth is not in .*choosing among.*models download tortoise"
    ):
        load_network("clvp", tmp_path)
    with pytest.raises(MissingModelError, match="no files of TorToise"):
        convert_folder(tmp_path, tmp_path / "ours")


def test_a_truncated_file(folder, tmp_path):
    whole = (folder / "rlg_auto.pth").read_bytes()
    (tmp_path / "rlg_auto.pth").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="not a whole checkpoint"):
        load_network("random-autoregressive", tmp_path)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        (lambda w: w.pop("final_norm.bias"), "missing final_norm.bias"),
        (lambda w: w.update(extra=torch.ones(1)), "unknown extra"),
        (lambda w: w.update({"final_norm.bias": torch.ones(3)}), "instead of"),
        (lambda w: w.pop("mel_embedding.weight"), "not laid out as autoregressive.pth"),
        (lambda w: w.update(note="text"), "does not hold named weights"),
    ],
)
def test_a_file_of_another_layout(change, says, tmp_path):
    weights = published.weights("autoregressive", published.network("autoregressive"))
    change(weights)
    torch.save(weights, tmp_path / "autoregressive.pth")
    with pytest.raises(InputError, match=says):
        load_network("autoregressive", tmp_path)


def test_a_file_that_would_run_code_is_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return (pytest.fail, ("it ran",))

    torch.save({"a": Evil()}, tmp_path / "clvp2.pth")
    with pytest.raises(InputError, match="not a whole checkpoint of plain weights"):
        load_network("clvp", tmp_path)


def test_files_in_the_cache_are_what_their_publisher_states(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("MYNA_CACHE", str(tmp_path))
    cached = tortoise_dir() / "rlg_auto.pth"
    cached.parent.mkdir()
    data = (folder / "rlg_auto.pth").read_bytes()
    cached.write_bytes(data)
    with pytest.raises(InputError, match=r"truncated: .* published are 25193729"):
        load_network("random-autoregressive")
    known = replace(
        FILES["random-autoregressive"], n_bytes=len(data), sha256=hashlib.sha256(data).hexdigest()
    )
    monkeypatch.setitem(FILES, "random-autoregressive", known)
    assert load_network("random-autoregressive").config.channels == 64
    monkeypatch.setitem(FILES, "random-autoregressive", replace(known, sha256="0" * 64))
    with pytest.raises(InputError, match="another version: its sha256"):
        load_network("random-autoregressive")


def test_all_files_are_fetched_and_checked_as_one_model(folder, tmp_path, monkeypatch):
    monkeypatch.setenv("MYNA_CACHE", str(tmp_path))
    for network, file in list(FILES.items()):
        data = (folder / file.name).read_bytes()
        local = _LocalFile(
            network, file.name, len(data), hashlib.sha256(data).hexdigest(), "", folder.as_uri()
        )
        monkeypatch.setitem(FILES, network, local)
    assert not registry.is_installed("tortoise")
    fetched = registry.download("tortoise")
    assert fetched == registry.model_path("tortoise")
    assert registry.is_installed("tortoise")
    assert sorted(path.name for path in fetched.iterdir()) == sorted(file.name for file in FILES.values())
    assert load_network("clvp").config == published.CONFIGS["clvp"]
    # One that is not what was published is not kept, and what was there before stays.
    monkeypatch.setitem(FILES, "clvp", replace(FILES["clvp"], sha256="0" * 64))
    before = (fetched / "clvp2.pth").read_bytes()
    with pytest.raises(MissingModelError, match="nothing was kept"):
        registry.download("tortoise", force=True)
    assert (fetched / "clvp2.pth").read_bytes() == before


class _LocalFile(PublishedFile):
    """Published in a folder of this machine."""

    @property
    def url(self) -> str:
        return f"{self.repository}/{self.name}"


def test_the_published_checksums_are_whole():
    assert all(len(file.sha256) == 64 for file in FILES.values())
    assert sum(file.n_bytes or 0 for file in FILES.values()) == pytest.approx(4.45e9, rel=0.01)
