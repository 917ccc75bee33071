import pytest
import torch
from myna.kernels.gpu import rvq
from myna.kernels.gpu.sampling import sample, sample_reference
from myna.tts.lm.sampling import SamplingOptions, draw_apart_rows, draw_rows, remembered

from .conftest import doubled


@pytest.mark.parametrize(("n", "d", "v"), [(1, 16, 32), (19, 24, 70)])
def test_euclidean_codes(n, d, v, guard):
    torch.manual_seed(0)
    x, books = guard(torch.randn(n, d)), rvq.pack_euclidean(guard(torch.randn(3, v, d)))
    codes = rvq.rvq_encode(x, books)
    assert torch.equal(codes, rvq.rvq_encode_reference(x.double(), doubled(books)))
    truth = rvq.rvq_decode_reference(codes, books.table)
    torch.testing.assert_close(rvq.rvq_decode(codes, books.table), truth)


def test_factorized_codes(guard):
    """8 compared channels, fewer than a matrix instruction takes."""
    torch.manual_seed(1)
    parts = [torch.randn(3, 70, 8), torch.randn(3, 8, 24), torch.randn(3, 8), torch.randn(3, 24, 8) / 8]
    books = rvq.pack_factorized(*map(guard, parts), guard(torch.randn(3, 24) / 9))
    x = guard(torch.randn(19, 24))
    assert torch.equal(rvq.rvq_encode(x, books), rvq.rvq_encode_reference(x.double(), doubled(books)))


def test_draws_are_those_of_the_reference(guard):
    """Four streams with options of their own, 12 times: guided, from the top 5, drawn anew, the likeliest."""
    torch.manual_seed(2)
    options = torch.tensor([[0.9, 0, 0.9, 0.5], [1, 5, 1, 0.2], [0.7, 10, 0.8, 0.0], [0, 0, 1, 0.5]])
    options = guard(options)
    anew = 0
    for _ in range(12):
        logits, weights = guard(torch.randn(4, 2, 65) * 3), guard(torch.rand(4, 1))
        numbers = guard(torch.rand(4, 2))
        top = (logits[:, 0] + weights * (logits[:, 0] - logits[:, 1])).argmax(-1)
        recent = torch.stack([top, top, top, torch.full_like(top, -1)], 1)
        ours, theirs = recent.clone(), recent.clone()
        code = sample(logits, weights, options, numbers, ours)
        truth = sample_reference(logits.double(), weights, options, numbers, theirs)
        assert torch.equal(code, truth)
        assert torch.equal(ours, theirs)
        anew += int((code != top)[:3].sum())
    assert anew > 0


def test_the_end_never_counts_as_repeated(guard):
    logits = guard(torch.tensor([[[0.0, 0.0, 50.0, 0.0]]]))
    recent = torch.full((1, 4), 2, device=guard.device)
    options, numbers = guard(torch.tensor([[1.0, 0, 1.0, 0.1]])), guard(torch.tensor([[0.5, 0.999999]]))
    code = sample(logits, guard(torch.zeros(1, 0)), options, numbers, recent.clone(), end=2)
    assert code.tolist() == [2]


@pytest.mark.parametrize("rows", [1, 3])
@pytest.mark.parametrize(
    "more", [{}, {"top_k": 7, "top_p": 1.0}, {"top_k": 9, "top_p": 0.6}, {"temperature": 0.0}]
)
def test_draws_are_those_of_pytorch_with_the_same_numbers(rows, more, guard):
    """What slots draw (`tts.lm.slots_base`): numbers in float64 out of a wider table, a window that moves on where a
    stream goes on, and codes that come too often."""
    torch.manual_seed(3)
    o = SamplingOptions(repetition_window=4, repetition_threshold=0.3, **more)
    own = torch.tensor([[o.temperature, o.top_k, o.top_p, o.repetition_threshold]] * 5)
    anew = 0
    for step in range(6):
        logits, weights = guard(torch.randn(5, rows, 40)), guard(torch.rand(5, rows - 1) / 2)
        numbers = guard(torch.rand(5, 6, dtype=torch.float64))
        active = torch.arange(5, device=guard.device) != step % 5
        told = logits[:, 0] + (weights[:, None] @ (logits[:, :1] - logits[:, 1:]))[:, 0]
        first = draw_rows(told, numbers[:, 2], o.temperature, o.top_k, o.top_p)
        recent = guard(torch.stack([first, first - 1, first, first - 1], dim=1))
        truth = draw_apart_rows(told, recent, numbers[:, 2:4], o)
        after = torch.where(active[:, None], remembered(recent, truth[:, None], o), recent)
        anew += int((truth != first).sum())
        assert torch.equal(sample(logits, weights, guard(own), numbers[:, 2:4], recent, active), truth)
        assert torch.equal(recent, after)
        further = draw_rows(told, numbers[:, 5], o.temperature, o.top_k, o.top_p)
        assert torch.equal(sample(logits, weights, guard(own), numbers[:, 5:], recent[:, :0]), further)
    assert (anew > 0) == (o.temperature > 0)
