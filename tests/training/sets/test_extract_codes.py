"""Codes of a corpus: those that files hold, if asked for."""

from __future__ import annotations

import io

import pytest
import torch
from myna.codec.api import compress
from myna.codec.formats.container import MynaFile
from myna.codec.registry import load_codec
from myna.data.audio import Audio
from myna.data.corpus import open_corpus
from myna.training.sets.code_set import CodeSet
from myna.training.sets.extract_codes import main


@pytest.fixture(scope="module")
def recordings(corpus):
    """wav (N,) of each recording of the dev split."""
    data = open_corpus(corpus, 24_000).select(("dev",), None)
    return [data.read(item, 0, item.length) for item in data.items]


def held(codes: CodeSet) -> list[list[list[int]]]:
    return sorted(utterance.tolist() for utterance in codes.utterances())


def test_codes_are_those_of_the_search(corpus, recordings, tmp_path):
    out = tmp_path / "near.codes"
    assert main(["myna-24k-v2", str(corpus), str(out), "--split", "dev"]) == 0
    codec = load_codec("myna-24k-v2")
    expected = [codec.encode(torch.from_numpy(wav)[None, None], search=True).codes[0] for wav in recordings]
    assert held(CodeSet.load(out)) == sorted(codes.tolist() for codes in expected)


def test_codes_are_those_of_files_where_packets_are_asked_for(corpus, recordings, tmp_path):
    out = tmp_path / "cheap.codes"
    assert main(["myna-24k-v2", str(corpus), str(out), "--split", "dev", "--packets", "5"]) == 0
    files = [compress(Audio(wav[None], 24_000), model="myna-24k-v2") for wav in recordings]
    packets = [list(MynaFile(io.BytesIO(data)).packets()) for data in files]
    expected = [torch.cat([packet.codes for packet in found], dim=-1)[0] for found in packets]
    assert held(CodeSet.load(out)) == sorted(codes.tolist() for codes in expected)


def test_a_codec_whose_codes_have_no_price(corpus, lm_codec, tmp_path, capsys):
    assert main([str(lm_codec), str(corpus), str(tmp_path / "x"), "--packets", "5"]) != 0
    assert "--packets needs seconds above 0, and an entropy model of" in capsys.readouterr().err
    assert not (tmp_path / "x").exists()
