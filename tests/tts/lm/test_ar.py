"""The AR: what a frame and its codes may depend on, the losses, hidden texts and voices, and that it learns."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
import torch.nn.functional as F
from myna.tts.lm.ar import ARConfig, ARModel
from myna.tts.lm.batch import Prompt, SpeechBatch
from myna.tts.lm.code_embedding import CodeEmbedding, CodeHead, CodeSumEmbedding, corrupt, nearest_rows
from torch import Tensor

K, V, D, P, T, PROMPT = 4, 16, 6, 7, 24, 8
every_n = pytest.mark.parametrize("n", [1, 3], ids=["one coarse", "three coarse"])


def config(**more) -> ARConfig:
    small = {
        "n_codebooks": K,
        "codebook_size": V,
        "codebook_dim": D,
        "n_symbols": 20,
        "width": 32,
        "depth": 2,
        "n_heads": 2,
        "n_kv_heads": 1,
        "hidden": 48,
        "text_depth": 1,
        "context": 256,
        "extra": 4,
    }
    return ARConfig(**{**small, **more})


def model(**more) -> ARModel:
    torch.manual_seed(0)
    return ARModel(config(**more), torch.randn(K, V, D)).eval()


def batch(rows: int = 2, n_prompt: int = PROMPT, transcript: bool = True) -> SpeechBatch:
    torch.manual_seed(1)
    phones = torch.stack(
        [torch.randint(2, 20, (rows, P)), torch.randint(3, (rows, P)), torch.randint(2, (rows, P))], 1
    )
    pointer = (torch.arange(T) * P // T).expand(rows, T).clone()
    if not transcript:
        pointer[:, :n_prompt] = -1
    no = torch.zeros(rows, dtype=torch.bool)
    return SpeechBatch(
        phones=phones,
        n_phones=torch.full((rows,), P),
        codes=torch.randint(V, (rows, K, T)),
        pointer=pointer,
        n_prompt=torch.full((rows,), n_prompt),
        n_frames=torch.full((rows,), T),
        drop_text=no,
        drop_voice=no,
    )


def hidden(net: ARModel, b: SpeechBatch) -> Tensor:
    with torch.no_grad():
        encoded = net.encode_text(b.phones, b.n_phones, b.drop_text)
        return net.transformer(net.frame_inputs(b, encoded).transpose(1, 2)).transpose(1, 2)


def changed(net: ARModel, one: SpeechBatch, two: SpeechBatch) -> list[int]:
    """Frames of the first row in which the hidden state differs."""
    difference = (hidden(net, one) - hidden(net, two))[0].abs().amax(dim=-1)
    return (difference > 1e-6).nonzero()[:, 0].tolist()


def with_code(b: SpeechBatch, book: int, frame: int) -> SpeechBatch:
    codes = b.codes.clone()
    codes[0, book, frame] = (codes[0, book, frame] + 1) % V
    return dataclasses.replace(b, codes=codes)


def logits_of(net: ARModel, b: SpeechBatch) -> Tensor:
    """Logits of the coarse codes of one row's target (N, T, V), from the forward of training."""
    kept: list[Tensor] = []
    heads = [net.code_head, *net.depth_heads]
    hooks = [head.register_forward_hook(lambda _m, _i, y: kept.append(y)) for head in heads]
    with torch.no_grad():
        net(b)
    for hook in hooks:
        hook.remove()
    return torch.stack(kept)


@every_n
def test_a_frame_sees_the_codes_before_it_and_of_the_target_only_the_coarse_codebooks(n):
    net, b = model(n_coarse=n), batch()
    for book in range(K):
        assert changed(net, b, with_code(b, book, 12)) == (list(range(13, T)) if book < n else [])
    assert changed(net, b, with_code(b, K - 1, 4)) == list(range(5, T))
    assert changed(net, b, with_code(b, K - 1, PROMPT - 1)) == list(range(PROMPT, T))


@every_n
def test_a_code_sees_the_lower_codes_of_its_frame_alone(n):
    net, b, frame = model(n_coarse=n, prompt_weight=0.0), batch(1), 12
    before = logits_of(net, b)
    assert before.shape == (n, T - PROMPT, V)
    for book in range(K):
        differs = (logits_of(net, with_code(b, book, frame)) != before).any(dim=2)
        assert not differs[:, : frame - PROMPT].any()
        assert differs[:, frame - PROMPT].tolist() == [book < k for k in range(n)]


def test_a_frame_sees_its_own_phone_but_not_where_the_pointer_goes_next():
    net, b = model(), batch()
    moved = b.pointer.clone()
    moved[0, 15:] += 1
    assert changed(net, b, dataclasses.replace(b, pointer=moved.clamp(max=P - 1)))[0] == 15


@every_n
def test_padding_changes_nothing(n):
    net, b = model(n_coarse=n), batch(2)
    longer = dataclasses.replace(
        b,
        phones=F.pad(b.phones, (0, 3)),
        codes=F.pad(b.codes, (0, 5)),
        pointer=F.pad(b.pointer, (0, 5), value=-1),
    )
    torch.testing.assert_close(hidden(net, longer)[:, :T], hidden(net, b), rtol=1e-4, atol=1e-5)
    with torch.no_grad():
        torch.testing.assert_close(net(longer).loss, net(b).loss)


def test_hidden_voices_are_as_if_there_were_no_prompt():
    net, b = model(), batch(2)
    dropped = dataclasses.replace(b, drop_voice=torch.tensor([True, False]))
    cut = dropped.without_hidden_prompts()
    assert cut.n_frames.tolist() == [T - PROMPT, T]
    assert cut.n_prompt.tolist() == [0, PROMPT]
    assert torch.equal(cut.codes[0, :, : T - PROMPT], b.codes[0, :, PROMPT:])
    assert torch.equal(cut.pointer[0, : T - PROMPT], b.pointer[0, PROMPT:])
    assert (cut.pointer[0, T - PROMPT :] == -1).all()
    assert torch.equal(cut.codes[1], b.codes[1])
    other = with_code(dropped, 1, 3)  # in the hidden prompt
    with torch.no_grad():
        assert net(dropped).loss == net(other).loss
        assert net(b).loss != net(with_code(b, 1, 3)).loss


def test_hidden_texts_say_nothing_but_the_durations():
    net, b = model(), batch()
    dropped = dataclasses.replace(b, drop_text=torch.tensor([True, True]))
    other = dataclasses.replace(dropped, phones=dropped.phones.flip(2))
    assert changed(net, dropped, other) == []
    assert changed(net, b, dropped) != []


def depth_losses(net: ARModel, h: Tensor, codes: Tensor) -> list[Tensor]:
    """Hidden states (B, T, W) and codes (B, K, T) of the target -> the losses after the first codebook."""
    h, codes = h.flatten(0, 1), codes.transpose(1, 2).flatten(0, 1)
    return [F.cross_entropy(head(h, codes[:, :k]), codes[:, k]) for k, head in enumerate(net.depth_heads, 1)]


@every_n
def test_losses_are_means_over_the_target_and_the_codebooks(n):
    net, b = model(n_coarse=n, prompt_weight=0.0), batch()
    with torch.no_grad():
        result = net(b)
        h = hidden(net, b)[:, PROMPT:]
        codes = b.codes[:, 0, PROMPT:]
        first = F.cross_entropy(net.code_head(h).flatten(0, 1), codes.flatten())
        each = torch.stack([first, *depth_losses(net, h, b.codes[:, :, PROMPT:])])
        after = F.pad(b.pointer, (0, 1), value=P)
        moves = (after[:, 1:] - after[:, :-1])[:, PROMPT:]
        logits = net.advance_head(h, codes)
        advance_loss = F.cross_entropy(logits.flatten(0, 1), moves.flatten())
    assert len(each) == n
    torch.testing.assert_close(result.code_losses, each)
    torch.testing.assert_close(result.code_loss, each.mean())
    torch.testing.assert_close(result.advance_loss, advance_loss)
    torch.testing.assert_close(result.loss, each.mean() + advance_loss)


@every_n
def test_the_prompt_counts_as_its_weight_says(n):
    b = batch()
    losses = [model(n_coarse=n, prompt_weight=w)(b).code_loss.item() for w in (0.0, 0.25, 0.5)]
    n_prompt, n_target = PROMPT, T - PROMPT
    prompt = (losses[1] * (0.25 * n_prompt + n_target) - losses[0] * n_target) / (0.25 * n_prompt)
    expected = (0.5 * n_prompt * prompt + n_target * losses[0]) / (0.5 * n_prompt + n_target)
    assert losses[2] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize("transcript", [True, False])
def test_prompts_with_and_without_transcript_are_trained(transcript):
    net, b = model().train(), batch(transcript=transcript)
    result = net(b)
    result.loss.backward()
    unknown = net.no_phone.grad
    assert unknown is not None
    assert (unknown.abs().sum() > 0) == (not transcript)


@every_n
def test_it_learns_a_few_utterances_by_heart(n):
    net, b = model(n_coarse=n).train(), batch(4)
    optimizer = torch.optim.AdamW(net.parameters(), 1e-2)
    first = last = net(b)
    for _ in range(45):
        last = net(b)
        optimizer.zero_grad()
        last.loss.backward()
        optimizer.step()
    assert first.code_loss < 1.3 * math.log(V)  # it starts about undecided
    assert last.loss < 0.2 * first.loss
    assert (last.code_losses < 0.3 * first.code_losses).all()
    assert last.code_accuracy > 0.9
    assert last.top10_accuracy >= last.code_accuracy
    assert last.advance_loss < 0.2


@every_n
def test_every_weight_of_the_default_model_learns(n):
    net = model(n_coarse=n, code_noise=0.1).train()
    b = batch(transcript=False)
    b = dataclasses.replace(b, drop_text=torch.tensor([True, False]))
    net(b).loss.backward()
    still = [name for name, p in net.named_parameters() if p.grad is None or not p.grad.any()]
    assert still == []


def test_the_default_model_is_small():
    net = ARModel(ARConfig())
    assert 7e6 < sum(p.numel() for p in net.parameters()) < 10e6


def test_codes_of_another_codec_are_refused():
    with pytest.raises(ValueError, match="shape"):
        ARModel(config(), torch.randn(K, V + 1, D))


@pytest.mark.parametrize("n", [-1, 0, K + 1])
def test_it_says_one_codebook_at_least_and_no_more_than_there_are(n):
    with pytest.raises(ValueError, match=f"1 to {K}"):
        config(n_coarse=n)
    assert logits_of(model(n_coarse=K, prompt_weight=0.0), batch(1)).shape == (K, T - PROMPT, V)


@every_n
def test_noise_replaces_coarse_codes_by_neighbours_in_training_alone(n, monkeypatch):
    net, b = model(n_coarse=n, code_noise=0.5), batch(20)
    read: list[Tensor] = []
    embed = net.embed_response
    monkeypatch.setattr(net, "embed_response", lambda codes: read.append(codes) or embed(codes))
    net(b)
    net.train()(b)
    true, (heard, noisy) = b.codes[:, :n, :-1], read
    assert torch.equal(heard, true)
    torch.manual_seed(0)
    for k, rows in enumerate(torch.randn(K, V, D)[:n]):  # those of `model`
        wrong = noisy[:, k] != true[:, k]
        assert 0.4 < wrong.float().mean() < 0.6
        near = nearest_rows(rows)[true[:, k][wrong]]
        assert (near == noisy[:, k][wrong][:, None]).any(dim=1).all()


# ---- codes in and out


def test_embeddings_start_from_the_codec_s_vectors():
    torch.manual_seed(0)
    rows = torch.randn(K, V, D) * torch.tensor([4.0, 2.0, 1.0, 0.5])[:, None, None] + 3
    codes = torch.randint(V, (2, K, 5))
    embedding = CodeSumEmbedding(rows, 8)
    # Up to what all codes share: a projection of the latent that the codec would decode.
    latent = sum(rows[k][codes[:, k]] for k in range(K))
    centred = latent - rows.mean(dim=1).sum(dim=0)  # pyright: ignore
    size = (rows[0] - rows[0].mean(dim=0)).square().mean().sqrt()
    gain = (rows[0].var(unbiased=False)).sqrt()
    expected = centred @ embedding.proj[0, :D] / size
    ratio = (
        rows.var(dim=(1, 2), unbiased=False).sqrt()
        / (rows - rows.mean(dim=1, keepdim=True)).square().mean(dim=(1, 2)).sqrt()
    )
    torch.testing.assert_close(ratio, torch.ones_like(ratio), rtol=0.2, atol=0)
    assert gain > 0
    similarity = F.cosine_similarity(embedding(codes).flatten(), expected.flatten(), dim=0)
    assert similarity > 0.999


def test_sums_of_embeddings_count_the_codebooks_that_are_known():
    torch.manual_seed(0)
    embedding = CodeSumEmbedding(torch.randn(K, V, D), 8, extra=2)
    torch.nn.init.normal_(embedding.extra)
    codes = torch.randint(V, (2, K, 5))
    table = embedding.table()
    alone = [table[k][codes[:, k]] for k in range(K)]
    torch.testing.assert_close(embedding(codes), sum(alone))
    torch.testing.assert_close(embedding(codes[:, :2]), alone[0] + alone[1])
    got = embedding(codes, torch.tensor([1, K]))
    torch.testing.assert_close(got[0], alone[0][0])
    torch.testing.assert_close(got[1], sum(alone)[1])  # pyright: ignore
    torch.testing.assert_close(embedding.few(codes), embedding(codes))
    one = CodeEmbedding(torch.randn(V, D), 8)
    torch.testing.assert_close(one(codes), one.table()[codes])


def test_a_head_is_its_matrix():
    torch.manual_seed(0)
    head = CodeHead(torch.randn(V, D), 8, extra=2)
    torch.nn.init.normal_(head.extra)
    h = torch.randn(5, 8)
    torch.testing.assert_close(head(h), h @ head.matrix().t() + head.bias)


def test_corrupted_codes_are_neighbours():
    torch.manual_seed(0)
    rows = torch.randn(V, D)
    near = nearest_rows(rows, 3)
    order = torch.cdist(rows, rows).argsort(dim=1)
    assert torch.equal(near, order[:, 1:4])
    codes = torch.randint(V, (50, 40))
    noisy = corrupt(codes, near, 0.25)
    differs = noisy != codes
    assert 0.2 < differs.float().mean() < 0.3
    assert (near[codes[differs]] == noisy[differs][:, None]).any(dim=1).all()
    assert torch.equal(corrupt(codes, near, 0.0), codes)


def test_a_prompt_has_both_transcript_and_pointer_or_neither():
    with pytest.raises(ValueError, match="or neither"):
        Prompt(torch.zeros(K, 5, dtype=torch.long), pointer=torch.zeros(5, dtype=torch.long))
