"""Residual quantisation: both kinds of codebook, dropout, layering, start from data, replacement, reports."""

from typing import cast

import pytest
import torch
from myna.codec import quantizer
from myna.codec.quantizer import (
    EMACodebook,
    FactorizedCodebook,
    ResidualVQ,
    dropout_codebooks,
    kmeans,
)
from myna.evaluation.measures.codebooks import codebook_use

DIM, SIZE, FRAMES = 6, 16, 40


def ema(k: int = 4) -> ResidualVQ:
    return ResidualVQ([EMACodebook(DIM, SIZE) for _ in range(k)])


def factorized(k: int = 4, threshold: float = 0.0) -> ResidualVQ:
    return ResidualVQ([FactorizedCodebook(DIM, SIZE, 4, threshold) for _ in range(k)])


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


@pytest.mark.parametrize("make", [ema, factorized])
def test_forward_encode_and_decode_agree(make):
    rvq = make().eval()
    x = torch.randn(3, DIM, FRAMES)
    result = rvq(x)
    assert torch.equal(result.codes, rvq.encode(x))
    torch.testing.assert_close(result.quantized, rvq.decode(result.codes))


@pytest.mark.parametrize("make", [ema, factorized])
def test_fewer_codebooks_are_a_prefix_of_more(make):
    rvq = make().eval()
    x = torch.randn(2, DIM, FRAMES)
    full = rvq.encode(x)
    for k in range(1, 5):
        assert torch.equal(rvq.encode(x, k), full[:, :k])
    part = rvq(x, torch.tensor([1, 3]))
    torch.testing.assert_close(part.quantized[0], rvq.decode(full[:1, :1])[0])
    torch.testing.assert_close(part.quantized[1], rvq.decode(full[1:, :3])[0])


@pytest.mark.parametrize("make", [ema, factorized])
def test_gradient_reaches_the_latents(make):
    rvq = make().train()
    x = torch.randn(2, DIM, FRAMES, requires_grad=True)
    rvq(x).quantized.square().sum().backward()
    assert x.grad is not None
    assert x.grad.abs().sum() > 0


def test_ema_straight_through_passes_the_gradient_unchanged():
    x = torch.randn(2, DIM, FRAMES, requires_grad=True)
    weight = torch.randn(2, DIM, FRAMES)
    (ema().train()(x).quantized * weight).sum().backward()
    torch.testing.assert_close(x.grad, weight)


def test_nearest_code_is_nearest():
    book = EMACodebook(DIM, SIZE).eval()
    x = torch.randn(2, DIM, FRAMES)
    distance = torch.cdist(x.transpose(1, 2), book.embed.expand(2, -1, -1))
    assert torch.equal(book.encode(x), distance.argmin(-1))
    fact = FactorizedCodebook(DIM, SIZE, 4).eval()
    z = torch.nn.functional.normalize(fact.in_proj(x), dim=1)
    cosine = z.transpose(1, 2) @ torch.nn.functional.normalize(fact.codebook.weight).t()
    assert torch.equal(fact.encode(x), cosine.argmax(-1))


def test_each_codebook_lowers_the_error_after_starting_from_data():
    x = torch.randn(8, DIM, 200)
    rvq = ema(4).train()
    rvq(x)
    errors = [float((rvq.eval().decode(rvq.encode(x, k)) - x).square().mean()) for k in range(1, 5)]
    assert errors == sorted(errors, reverse=True)
    assert errors[-1] < 0.25 * float(x.square().mean())


@pytest.mark.parametrize("start", ["ema", "factorized"])
def test_start_from_data_uses_most_codes(start):
    """Latents far from the origin and narrow collapse a random codebook; a start from the data does not."""
    x = 5 + 0.01 * torch.randn(8, DIM, 200)
    book = EMACodebook(DIM, SIZE) if start == "ema" else FactorizedCodebook(DIM, SIZE, 4, threshold=0.1)
    book.train()(x)
    assert codebook_use(book.encode(x)[:, None], SIZE).used[0] > 0.8


def test_dead_codes_are_replaced():
    book = EMACodebook(DIM, SIZE, decay=0.5).train()
    book(torch.randn(4, DIM, 100))
    book.embed[3] = 1e3  # nothing is near
    book.embed_avg[3] = 1e3 * book.cluster_size[3]
    for _ in range(6):
        book(torch.randn(4, DIM, 100))
    assert book.embed[3].abs().max() < 100


def test_dropout_draws_every_depth_and_keeps_the_full_one_half_the_time():
    drawn = dropout_codebooks(20_000, 8, p=0.5)
    assert drawn.min() == 1
    assert drawn.max() == 8
    assert 0.54 < float((drawn == 8).float().mean()) < 0.585  # 1/2 + 1/2 * 1/8


def test_averages_forget_a_batch_that_was_not_finite():
    book = EMACodebook(DIM, SIZE).train()
    book(torch.randn(4, DIM, 100))
    bad = torch.randn(4, DIM, 100)
    bad[0, :, 3] = float("nan")
    bad[1, 2, 5] = float("inf")
    book(bad)
    assert torch.isfinite(book.embed).all()
    assert torch.isfinite(book.embed_avg).all()


def test_kmeans_finds_separate_clusters():
    centres = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    points = centres.repeat(50, 1) + 0.1 * torch.randn(150, 2)
    found = kmeans(points, 3, iterations=20)
    if torch.cdist(centres, found).min(1).values.max() > 1:  # Lloyd may put two starts into one cluster
        found = kmeans(points, 8, iterations=20)
    assert torch.cdist(centres, found).min(1).values.max() < 0.5


@pytest.mark.parametrize("make", [ema, factorized])
def test_autocast_does_not_change_the_codes(make):
    rvq = make().eval()
    x = 3 + torch.randn(2, DIM, 400)
    with torch.autocast("cpu", torch.bfloat16):
        mixed = rvq(x).codes
    assert torch.equal(mixed, rvq(x).codes)


def squared_error(rvq: ResidualVQ, x: torch.Tensor, codes: torch.Tensor) -> torch.Tensor:
    return (x - rvq.decode(codes)).square().sum(1)  # (B, T)


def test_a_search_of_all_paths_finds_the_nearest_sum():
    rvq = ResidualVQ([EMACodebook(DIM, 5) for _ in range(3)], n_paths=25)
    x = torch.randn(2, DIM, 7)
    every = torch.cartesian_prod(*[torch.arange(5)] * 3).t()[None]  # (1, 3, 125)
    sums = rvq.decode(every)[0].t()  # (125, D)
    nearest = torch.cdist(x.transpose(1, 2), sums[None]).square().amin(-1)
    torch.testing.assert_close(squared_error(rvq, x, rvq.encode(x, search=True)), nearest)


def test_more_paths_come_nearer_and_one_is_greedy():
    rvq = ema().eval()
    x = torch.randn(4, DIM, 200)
    errors = []
    for rvq.n_paths in (1, 2, 8):
        errors.append(squared_error(rvq, x, rvq.encode(x, search=True)).mean())
    assert errors[0] > errors[1] > errors[2]
    rvq.n_paths = 2
    one = rvq.search(x, 1)
    rvq.n_paths = 1
    assert torch.equal(one, rvq.encode(x, 1, search=True))


def plain_search(rvq: ResidualVQ, x: torch.Tensor) -> torch.Tensor:
    """The search as it is described: every path with every row, all of them sorted."""
    vectors = x.transpose(1, 2).reshape(-1, x.shape[1])
    paths = [[((), vector, 0.0)] for vector in vectors]
    for k, (book, cost) in enumerate(zip(rvq.codebooks, rvq._costs(priced=False), strict=True)):
        rows, kept = cast("EMACodebook", book).embed, 1 if k == len(rvq.codebooks) - 1 else rvq.n_paths
        for i, known in enumerate(paths):
            found = [
                ((*codes, v), residual - rows[v], error + float(cost[v] - 2 * residual @ rows[v]))
                for codes, residual, error in known
                for v in range(len(rows))
            ]
            paths[i] = sorted(found, key=lambda path: path[2])[:kept]
    best = torch.tensor([known[0][0] for known in paths])
    return best.view(len(x), -1, len(rvq.codebooks)).transpose(1, 2)


@pytest.mark.parametrize(("size", "n_paths"), [(64, 8), (64, 3), (40, 4), (32, 40)])
def test_the_search_looks_through_groups_of_rows_and_finds_what_sorting_finds(size, n_paths):
    torch.manual_seed(3)
    rvq = ResidualVQ([EMACodebook(6, size) for _ in range(3)], n_paths, rate_weight=0.04).eval()
    for book in rvq.codebooks:
        cast("EMACodebook", book).cluster_size.uniform_(1, 9)
    x = torch.randn(2, 6, 9)
    assert torch.equal(rvq.encode(x, search=True), plain_search(rvq, x))


@pytest.mark.parametrize(
    ("paths", "rows", "kept"), [(8, 1024, 8), (8, 1024, 1), (1, 1024, 8), (2, 50, 7), (1, 3, 8)]
)
def test_the_least_sums(paths, rows, kept):
    torch.manual_seed(0)
    gain, error = torch.randn(11, paths, rows), torch.randn(11, paths)
    sums, path, row = quantizer._least(gain, error, kept)
    every = (error[..., None] + gain).flatten(1)
    expected, pick = every.topk(min(kept, every.shape[1]), largest=False)
    assert torch.equal(sums, expected)
    assert torch.equal(path * rows + row, pick)


def test_the_search_decides_frame_by_frame():
    rvq = ResidualVQ([EMACodebook(DIM, SIZE) for _ in range(4)], n_paths=4)
    x = torch.randn(1, DIM, 3000)  # more than a block
    codes = rvq.encode(x, search=True)
    assert torch.equal(torch.cat([rvq.encode(part, search=True) for part in x.split(7, dim=-1)], -1), codes)
    assert codes.shape == (1, 4, 3000)


def test_training_uses_what_the_search_finds():
    rvq = ResidualVQ([EMACodebook(DIM, SIZE) for _ in range(4)], n_paths=4)
    x = torch.randn(2, DIM, FRAMES)
    rvq.init_from(x)
    rvq.eval()
    assert torch.equal(rvq(x).codes, rvq.encode(x, search=True))
    greedy = ResidualVQ(list(rvq.codebooks)).encode(x, search=True)  # over one path
    assert torch.equal(greedy, rvq.encode(x))
    assert not torch.equal(greedy, rvq.encode(x, search=True))


def test_factorized_codebooks_are_not_searched():
    with pytest.raises(ValueError, match="EMA"):
        ResidualVQ([FactorizedCodebook(DIM, SIZE, 4)], n_paths=2)


def test_a_rate_weight_buys_frequent_codes_with_error():
    rvq = ResidualVQ([EMACodebook(DIM, SIZE) for _ in range(4)], n_paths=4).eval()
    use = torch.arange(1.0, SIZE + 1)
    for book in rvq.codebooks:
        book.cluster_size.copy_(use)
    bits = -(use / use.sum()).log2()
    x = torch.randn(2, DIM, 300)
    error, rate = [], []
    for rvq.rate_weight in (0.0, 0.1, 1.0):
        codes = rvq.encode(x, search=True)
        error.append(squared_error(rvq, x, codes).mean())
        rate.append(bits[codes].mean())
    assert error[0] < error[1] < error[2]
    assert rate[0] > rate[1] > rate[2]
    rvq.train()  # where codes that are rare must not become rarer
    rvq.rate_weight = 1.0
    torch.testing.assert_close(bits[rvq.encode(x, search=True)].mean(), rate[0])
