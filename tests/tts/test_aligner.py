"""The aligner: its search against brute force, batches against single recordings, the weights that ship."""

import itertools
import math
from pathlib import Path

import pytest
import torch
from myna.codec.myna import MynaCodec, MynaConfig
from myna.data.audio import read_audio
from myna.errors import InputError, MissingModelError
from myna.tts.aligner import (
    MAX_ADVANCE,
    SKIP_COST,
    Aligner,
    AlignerConfig,
    Alignment,
    align,
    fits,
    load_aligner,
    save_aligner,
    viterbi,
)
from myna.tts.text.phones import Phones

ASSETS = Path(__file__).parents[1] / "assets"
LJ = "ðə bˈɛst, mˈoʊstli fɹˈɛntʃ ɔːɹ lˈoʊkˈʌntɹi, wʌz nˈiːt ænd klˈɪɹ, bˌʌt wɪðˌaʊt ˌɛni dɪstˈɪŋkʃən;"
SPEECHOCEAN = "hiː θˈɔːt ɐbˌaʊt sˈʌmθɪŋ ænd ðˈɛn hiː ˈæskt"


def tiny() -> Aligner:
    torch.manual_seed(0)
    return Aligner(AlignerConfig(n_mels=8, width=16, dilations=(1, 2))).eval()


def shipped_case(file: str) -> torch.Tensor:
    return torch.from_numpy(read_audio(ASSETS / file, 24_000, mono=True).samples[0])


def path_score(emitted, optional, pointer) -> float | None:
    """What the search maximises, None for a path that is not allowed; written down anew."""
    p = emitted.shape[1]
    if pointer[0] != 0 or pointer[-1] != p - 1:
        return None
    total = sum(float(emitted[t, j]) for t, j in enumerate(pointer))
    for a, b in itertools.pairwise(pointer):
        if not 0 <= b - a <= MAX_ADVANCE:
            return None
        total -= sum(0.0 if optional[j] else SKIP_COST for j in range(a + 1, b))
    return total


@pytest.mark.parametrize(("t", "p"), [(6, 4), (5, 5), (4, 6), (3, 7), (1, 1)])
def test_viterbi_finds_the_best_of_all_paths(t, p):
    torch.manual_seed(t * 10 + p)
    emitted = torch.randn(t, p) * 3 - 4
    optional = torch.arange(p) % 3 == 1
    scores = {path: path_score(emitted, optional, path) for path in itertools.product(range(p), repeat=t)}
    best = max((s, path) for path, s in scores.items() if s is not None)
    found = viterbi([emitted], [optional], 50)[0]
    assert path_score(emitted, optional, found.tolist()) == pytest.approx(best[0], abs=1e-4)


def test_viterbi_of_a_batch_is_that_of_each():
    torch.manual_seed(1)
    emitted = [torch.randn(t, p).log_softmax(-1) for t, p in ((30, 12), (9, 9), (17, 5), (4, 8))]
    optional = [torch.rand(e.shape[1]) < 0.3 for e in emitted]
    together = viterbi(emitted, optional, 50)
    for row, e, o in zip(together, emitted, optional, strict=True):
        assert torch.equal(row, viterbi([e], [o], 50)[0])


def test_every_sound_has_a_frame_where_there_is_room():
    torch.manual_seed(2)
    phones = Phones.from_ipa("ɪt wʌz nˈiːt")
    n = phones.n_sounds + 2
    pointer = (
        tiny()
        .align_log_probs([torch.randn(n, len(tiny().config.symbols)).log_softmax(-1)], [phones])[0]
        .pointer
    )
    said = set(pointer.tolist())
    assert all(j in said for j in range(len(phones)) if phones.tokens[0, j] != phones.tokens[0, 0])


def test_as_many_frames_as_the_codec_makes():
    torch.manual_seed(0)
    config = MynaConfig(
        width=240, latent_width=8, encoder_depth=(0, 0), decoder_depth=(0, 0), latent_dim=4, n_codebooks=1
    )
    codec, aligner = MynaCodec(config).eval(), tiny()
    for n in (1, 239, 240, 241, 480, 4800, 5039, 5041, 12_000):
        wav = torch.randn(n) * 0.1
        assert len(aligner.log_probs([wav])[0]) == codec.encode(wav[None, None]).codes.shape[-1], n


def test_a_batch_changes_nothing():
    aligner = tiny()
    torch.manual_seed(3)
    wavs = [torch.randn(n) * 0.1 for n in (5000, 12_345, 700)]
    for row, wav in zip(aligner.log_probs(wavs), wavs, strict=True):
        torch.testing.assert_close(row, aligner.log_probs([wav])[0], atol=1e-5, rtol=1e-5)


def test_frames_lie_where_the_codec_has_them():
    """A click in the middle of frame 10 sounds in no other frame."""
    aligner = tiny()
    wav = torch.zeros(20 * 480)
    wav[10 * 480 + 230 : 10 * 480 + 250] = 1
    power = aligner.mel.power(wav).sum(0)
    assert power.view(-1, 2).sum(1).argmax() == 10
    assert power[20:22].sum() > 0.9 * power.sum()


def test_the_level_of_a_recording_does_not_matter():
    aligner = tiny()
    torch.manual_seed(4)
    wav = torch.randn(24_000) * torch.linspace(0, 0.5, 24_000)
    torch.testing.assert_close(
        aligner.log_probs([wav])[0], aligner.log_probs([wav * 0.1])[0], atol=1e-2, rtol=1e-2
    )


def test_too_many_phones_is_one_line():
    phones = Phones.from_ipa("lˈoʊkˈʌntɹi " * 10)
    assert not fits(20, phones)
    with pytest.raises(InputError, match=r"too many for 0\.40 s.*no transcript") as error:
        align(tiny(), torch.zeros(19 * 480), phones)
    assert "\n" not in str(error.value)


def test_unsure_frames_go_to_what_is_rare():
    """Half pause, half vowel: the vowel, of which there is less, says more."""
    aligner, phones = tiny(), Phones.from_ipa("a")
    vowel, pause = int(aligner.symbol_classes(phones)[1]), aligner.pause
    probs = torch.full((9, len(aligner.config.symbols)), 1e-4)
    probs[:, pause] = 0.99
    probs[2:7, pause], probs[2:7, vowel] = 0.52, 0.48
    found = []
    for share in (0.5, 0.02):
        aligner.log_prior[vowel], aligner.log_prior[pause] = math.log(share), math.log(1 - share)
        pointer = aligner.align_log_probs([probs.log()], [phones])[0].pointer
        found.append(int((pointer == 1).sum()))
    assert found == [1, 5]


def test_starts_of_phones():
    alignment = Alignment(torch.tensor([0, 0, 1, 3, 3, 4]), 0.0, 0.0)
    assert alignment.starts(5).tolist() == [0, 2, 3, 3, 5]


def test_saved_and_loaded(tmp_path):
    aligner, path = tiny(), tmp_path / "aligner.safetensors"
    save_aligner(aligner, path, {"step": "3"})
    wav = torch.randn(4000) * 0.1
    loaded = load_aligner(path)
    assert loaded.config == aligner.config
    torch.testing.assert_close(loaded.log_probs([wav])[0], aligner.log_probs([wav])[0])
    path.write_bytes(path.read_bytes()[:-50])
    with pytest.raises(InputError, match="not a whole safetensors file"):
        load_aligner(path)
    with pytest.raises(MissingModelError):
        load_aligner(tmp_path / "other.safetensors")
    with pytest.raises(InputError, match="not an aligner"):
        load_aligner(ASSETS.parents[1] / "weights" / "myna-24k.safetensors")


@pytest.mark.parametrize(
    ("file", "said", "other"),
    [("lj.flac", LJ, SPEECHOCEAN), ("speechocean.flac", SPEECHOCEAN, LJ)],
    ids=["lj", "speechocean"],
)
def test_shipped_weights_know_what_is_said(file, said, other):
    aligner, wav = load_aligner(), shipped_case(file)
    phones = Phones.from_ipa(said)
    found = align(aligner, wav, phones)
    assert found.plausible
    assert found.score <= 0
    steps = found.pointer.diff()
    assert found.pointer[0] == 0
    assert found.pointer[-1] == len(phones) - 1
    assert steps.min() >= 0
    assert steps.max() <= MAX_ADVANCE
    with pytest.raises(InputError, match="does not match the recording"):
        align(aligner, wav, Phones.from_ipa(other))


def test_shipped_weights_hear_silence_as_a_pause():
    """A second of silence before and after the speech goes to the space and the full stop."""
    wav = torch.nn.functional.pad(shipped_case("lj.flac"), (24_000, 24_000))
    phones = Phones.from_ipa(LJ)
    pointer = align(load_aligner(), wav, phones).pointer
    assert (pointer[:40] == 0).all()
    assert (pointer[-40:] == len(phones) - 1).all()
