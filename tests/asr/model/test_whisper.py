"""The model's invariants, on tiny random ones: steps equal the whole, beams share an audio, rows differ in length."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from myna.asr.model.features import log_mel, pad_or_trim
from myna.asr.model.inference import for_inference
from myna.asr.model.whisper import DecoderState, Whisper, WhisperDims
from myna.errors import UsageError
from myna.kernels.int8 import Int8Linear, int8_engine

DIMS = WhisperDims(
    n_mels=80, n_audio_ctx=50, n_audio_state=32, n_audio_head=2, n_audio_layer=2,
    n_vocab=120, n_text_ctx=100, n_text_state=32, n_text_head=2, n_text_layer=3,
)  # fmt: skip


@pytest.fixture(scope="module")
def model() -> Whisper:
    torch.manual_seed(0)
    return Whisper(DIMS).eval()


@pytest.fixture(scope="module")
def features(model) -> torch.Tensor:
    with torch.inference_mode():
        return model.encode(torch.randn(3, 80, 100, generator=torch.Generator().manual_seed(1)))


def tokens(rows: int, n: int, seed: int = 2) -> torch.Tensor:
    return torch.randint(DIMS.n_vocab, (rows, n), generator=torch.Generator().manual_seed(seed))


@torch.inference_mode()
def test_any_cut_of_the_tokens_gives_the_logits_of_the_whole(model, features):
    said = tokens(3, 90)
    whole = model.all_logits(said, model.init_state(features))
    for cuts in ([90], [1] * 90, [7, 1, 60, 1, 21], [65, 25]):
        state, at = model.init_state(features), 0
        for n in cuts:
            logits, state = model.step(said[:, at : at + n], state)
            at += n
            torch.testing.assert_close(logits, whole[:, at - 1], atol=2e-5, rtol=1e-4)
        assert state.position.tolist() == [90] * 3


@torch.inference_mode()
def test_later_tokens_do_not_change_what_came_before(model, features):
    said = tokens(3, 20)
    changed = torch.cat([said[:, :12], tokens(3, 8, seed=9)], dim=1)
    one, other = (model.all_logits(t, model.init_state(features)) for t in (said, changed))
    assert torch.equal(one[:, :12], other[:, :12])
    assert not torch.equal(one[:, 12:], other[:, 12:])


@torch.inference_mode()
def test_rows_with_prompts_of_different_lengths_go_on_as_if_alone(model, features):
    said, lengths = tokens(3, 9), torch.tensor([9, 2, 5])
    logits, state = model.step(said, model.init_state(features), lengths)
    for n in (1, 1, 3, 1):
        new = tokens(3, n, seed=30 + n)
        more, state = model.step(new, state)
        said = [
            torch.cat([row[:length], new[i]])
            for i, (row, length) in enumerate(zip(said, lengths, strict=True))
        ]
        lengths = lengths + n
        for i in range(3):
            alone, _ = model.step(said[i][None], model.init_state(features[i : i + 1]))
            torch.testing.assert_close(more[i], alone[0], atol=2e-5, rtol=1e-4)
    assert state.position.tolist() == lengths.tolist()
    assert logits.shape == (3, DIMS.n_vocab)


@torch.inference_mode()
def test_beams_share_their_audio_and_can_be_reordered(model, features):
    prompt = tokens(3, 4)
    _, state = model.step(prompt, model.init_state(features))
    state = state.spread(2)
    first = tokens(6, 1, seed=5)
    _, state = model.step(first, state)
    rows = torch.tensor([1, 1, 2, 3, 5, 4])
    logits, after = model.step(tokens(6, 1, seed=6), state.select(rows))
    for row in range(6):
        said = torch.cat([prompt[row // 2], first[rows[row]], tokens(6, 1, seed=6)[row]])
        alone, _ = model.step(said[None], model.init_state(features[row // 2][None]))
        torch.testing.assert_close(logits[row], alone[0], atol=2e-5, rtol=1e-4)
    kept, _ = model.step(tokens(6, 1, seed=7)[2:4], after.keep(torch.tensor([1])))
    every, _ = model.step(tokens(6, 1, seed=7), after)
    torch.testing.assert_close(kept, every[2:4], atol=2e-5, rtol=1e-4)


@torch.inference_mode()
def test_a_state_that_was_selected_from_is_left_as_it_was(model, features):
    _, state = model.step(tokens(3, 4), model.init_state(features))
    before = state.keys.clone()
    fork = state.select(torch.tensor([0, 1, 2]))
    model.step(tokens(3, 1), fork)
    assert torch.equal(state.keys[:, :, :, :4], before[:, :, :, :4])
    assert isinstance(fork, DecoderState)


@torch.inference_mode()
def test_the_context_has_an_end(model, features):
    state = model.init_state(features)
    _, state = model.step(tokens(3, 100), state)
    with pytest.raises(ValueError, match="101 tokens do not fit in the context of 100"):
        model.step(tokens(3, 1), state)


@torch.inference_mode()
def test_the_alignment_heads_products_are_those_of_the_attention(model, features):
    model.alignment_heads = ((1, 0), (2, 1))
    said = tokens(3, 6)
    logits, products = model.align(said, features)
    assert products.shape == (3, 2, 6, 50)
    torch.testing.assert_close(logits, model.all_logits(said, model.init_state(features)))
    # By hand, layer 1: its input is what comes out of layer 0.
    inputs = {}
    block = model.decoder.blocks[1]
    hook = block.cross_attn_ln.register_forward_hook(lambda m, i, out: inputs.update(x=out))
    model.all_logits(said, model.init_state(features))
    hook.remove()
    query = block.cross_attn.query(inputs["x"])[:, :, :16]
    key = block.cross_attn.key(features)[:, :, :16]
    torch.testing.assert_close(products[:, 0], query @ key.mT / 4, atol=1e-5, rtol=1e-4)


def test_features_of_a_recording_do_not_depend_on_its_length_in_memory():
    wav = torch.randn(16_000 * 65, generator=torch.Generator().manual_seed(0)) * 0.1
    whole = log_mel(wav, 80)
    assert whole.shape == (80, 6500)
    window = torch.hann_window(400)
    spectrum = (
        torch.stft(wav, 400, 160, window=window, center=True, return_complex=True)[:, :-1].abs().square()
    )
    from librosa.filters import mel

    filters = torch.from_numpy(mel(sr=16_000, n_fft=400, n_mels=80))
    expected = (filters @ spectrum).clamp(min=1e-10).log10()
    expected = (expected.clamp(min=expected.max() - 8) + 4) / 4
    torch.testing.assert_close(whole, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("n", [0, 1, 2, 159, 160, 161, 400, 16_000])
def test_recordings_of_any_length_have_features(n):
    mel = log_mel(np.zeros(n, np.float32), 128)
    assert mel.shape == (128, n // 160)
    assert torch.isfinite(mel).all()
    assert pad_or_trim(mel, 3000).shape == (128, 3000)
    assert log_mel(np.zeros(n, np.float32), 80, padding=480_000).shape == (80, 3000 + n // 160)


@torch.inference_mode()
def test_the_copy_for_inference_gives_the_same_logits_and_shares_the_tables(model, features):
    ready = for_inference(model)
    mel = torch.randn(3, 80, 100, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(ready.encode(mel), features, atol=1e-5, rtol=1e-4)
    for rows in (1, 3):
        said = tokens(rows, 5)
        expected, _ = model.step(said, model.init_state(features[:rows]))
        logits, _ = ready.step(said, ready.init_state(features[:rows]))
        torch.testing.assert_close(logits, expected, atol=1e-5, rtol=1e-4)
    assert ready.decoder.token_embedding.weight is model.decoder.token_embedding.weight
    assert hasattr(model.encoder.blocks[0].attn, "query")  # the model itself is as it was


@torch.inference_mode()
@pytest.mark.skipif(int8_engine() is None, reason="no 8-bit products here")
def test_eight_bits_are_close_and_a_loud_row_does_not_coarsen_the_others(model, features):
    ready, said = for_inference(model, "int8"), tokens(3, 5)
    expected = model.all_logits(said, model.init_state(features))
    logits = ready.all_logits(said, ready.init_state(features))
    assert (logits - expected).abs().max() < 0.05 * expected.abs().max()
    linear = Int8Linear(torch.randn(64, 32), torch.randn(64), int8_engine(), by_row=True)
    quiet = torch.randn(1, 32)
    alone = linear(quiet)
    torch.testing.assert_close(
        linear(torch.cat([quiet, 1000 * torch.randn(3, 32)]))[:1], alone, atol=0.3, rtol=0.05
    )


def test_eight_bits_are_for_float32_models():
    with pytest.raises(UsageError, match="float32 model on a CPU"):
        for_inference(Whisper(DIMS).half(), "int8")
