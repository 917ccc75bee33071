"""How the next tokens are chosen, against plain search over all sequences of a small language."""

from __future__ import annotations

import math

import pytest
import torch
from myna.asr.decoding.options import DecodingOptions
from myna.asr.decoding.search import BeamSearch, Candidate, Sampling, best, search_of, top_k

END = 3
CPU = torch.device("cpu")


def language(sequence: tuple[int, ...], seed: int = 0) -> torch.Tensor:
    """Logits (4,) of what follows a sequence; 3 ends it."""
    generator = torch.Generator().manual_seed(hash((seed, *sequence)) % 2**31)
    logits = 2 * torch.randn(4, generator=generator)
    logits[END] += len(sequence) - 2.0  # sooner or later
    return logits


def run(search, n_audios: int, steps: int) -> list[list[Candidate]]:
    """All audios at once, those that are done left out, each with a language of its own."""
    alive = list(range(n_audios))
    found: dict[int, list[Candidate]] = {}
    for _ in range(steps):
        group = len(search.sampled) // len(alive)
        rows = [language(tuple(row), seed=alive[i // group]) for i, row in enumerate(search.sampled.tolist())]
        search.update(torch.stack(rows))
        over = [i for i, done in enumerate(search.done) if done]
        found |= {alive[i]: search.candidates(i) for i in over}
        kept = [i for i in range(len(alive)) if i not in over]
        alive = [alive[i] for i in kept]
        if not kept:
            break
        if over:
            search.keep(kept)
    found |= {audio: search.candidates(i) for i, audio in enumerate(alive)}
    return [found[i] for i in range(n_audios)]


def plain_beams(seed: int, size: int, enough: int, steps: int) -> list[Candidate]:
    """Beam search as the paper says it, sequence by sequence."""
    beams: list[tuple[tuple[int, ...], float]] = [((), 0.0)]
    finished: list[Candidate] = []
    for _ in range(steps):
        scores = {}
        for sequence, total in beams:
            values, tokens = language(sequence, seed).log_softmax(0).topk(min(size + 1, 4))
            for value, token in zip(values.tolist(), tokens.tolist(), strict=True):
                scores[(*sequence, token)] = total + value
        beams = []
        for sequence in sorted(scores, key=lambda s: -scores[s]):
            if sequence[-1] == END:
                if len(finished) < enough:
                    finished.append(Candidate(list(sequence[:-1]), scores[sequence]))
            else:
                beams.append((sequence, scores[sequence]))
                if len(beams) == size:
                    break
        if len(finished) >= enough:
            break
    for sequence, score in beams:
        if len(finished) >= size:
            break
        finished.append(Candidate(list(sequence), score))
    return finished


@pytest.mark.parametrize(
    ("size", "patience"), [(1, 1.0), (1, 2.0), (2, 0.5), (2, 1.0), (2, 2.0), (3, 0.5), (3, 1.0), (3, 2.0)]
)
def test_beams_of_several_audios(size, patience):
    steps, n_audios = 6, 5
    enough = round(size * patience)
    found = run(BeamSearch(END, size, patience, n_audios, CPU), n_audios, steps)
    for seed in range(n_audios):
        expected = plain_beams(seed, size, enough, steps)
        assert [c.tokens for c in found[seed]] == [c.tokens for c in expected]
        assert [c.sum_logprob for c in found[seed]] == pytest.approx(
            [c.sum_logprob for c in expected], abs=1e-5
        )


def test_patience_waits_for_more():
    found = [run(BeamSearch(END, 2, patience, 3, CPU), 3, 12) for patience in (1.0, 2.0)]
    assert [len(candidates) for candidates in found[0]] == [2, 2, 2]
    assert [len(candidates) for candidates in found[1]] == [4, 4, 4]


def test_rows_say_which_beam_goes_on():
    search = BeamSearch(END, 2, 1.0, 1, CPU)
    assert search.update(torch.tensor([[5.0, 4.9, 0.0, -9.0]])) is None  # all beams have the same past
    assert search.sampled.tolist() == [[0], [1]]
    rows = search.update(torch.tensor([[0.0, 0.0, 0.0, 0.0], [9.0, 8.9, 0.0, -9.0]]))
    assert rows is not None
    assert rows.tolist() == [1, 1]
    assert search.sampled.tolist() == [[1, 0], [1, 1]]


def test_forbidden_ends_do_not_count():
    search = BeamSearch(END, 2, 1.0, 1, CPU)
    search.update(torch.tensor([[0.0, -math.inf, -math.inf, -math.inf]]))
    assert search.finished == [[]]
    assert search.done == [False]


def test_greedy_adds_up_to_the_end():
    found = run(Sampling(END, 0.0, 1, [0, 0, 0], CPU), 3, 12)
    for seed, (candidate,) in enumerate(found):
        sequence, total = (), 0.0
        while True:
            logprobs = language(sequence, seed).log_softmax(0)
            token = int(logprobs.argmax())
            total += float(logprobs[token])
            if token == END:
                break
            sequence = (*sequence, token)
        assert candidate.tokens == list(sequence)
        assert candidate.sum_logprob == pytest.approx(total, abs=1e-5)


def test_samples_depend_on_their_seed_only():
    many = run(Sampling(END, 1.0, 3, [4, 5, 4], CPU), 3, 12)
    alone = run(Sampling(END, 1.0, 3, [4], CPU), 1, 12)
    assert many[0] == alone[0]
    assert many[0] != many[1]
    assert len({tuple(c.tokens) for c in many[0]}) > 1


def test_samples_follow_the_distribution():
    """Of a coin of 0.7 to 0.3 at temperature 0.5: 0.49 to 0.09; the log-probability is that at temperature 1."""
    search = Sampling(END, 0.5, 20_000, [1], CPU)
    search.update(torch.tensor([[0.7, 0.3, 0.0, 0.0]]).log())
    heads = (search.sampled == 0).float().mean()
    assert float(heads) == pytest.approx(0.49 / 0.58, abs=0.01)
    assert set(search.sampled[:, 0].tolist()) == {0, 1}
    assert search.sums.exp().unique().tolist() == pytest.approx([0.3, 0.7])


def test_what_is_ranked_first():
    short, long = Candidate([1], -1.0), Candidate([1, 2, 3, 4], -3.0)
    assert best([short, long], None) is long  # -1 and -0.75 a token
    assert best([short, long], 0.0) is short  # by the sum alone
    assert best([short, long], 1.0) is short  # -1 and -2
    assert best([Candidate([], -2.0), Candidate([1], -1.9)], None).tokens == [1]
    assert best([short, Candidate([2], -1.0)], None) is short


@pytest.mark.parametrize("size", [4, 700, 1024, 51864])
@pytest.mark.parametrize("k", [1, 3])
def test_top_k_in_blocks(size, k):
    torch.manual_seed(size)
    x = torch.randn(5, size)
    x[0, -1], x[1, 0], x[2] = 9.0, 9.0, -math.inf
    x[2, 1:3] = torch.tensor([1.0, 2.0])
    values, index = top_k(x, k)
    expected = x.topk(k)
    assert torch.equal(values, expected.values)
    finite = values.isfinite()
    assert torch.equal(index[finite], expected.indices[finite])
    assert int(index.max()) < size


def test_equal_values_give_the_first():
    assert top_k(torch.zeros(1, 1000), 1)[1].tolist() == [[0]]


def test_search_of_the_options():
    assert isinstance(search_of(DecodingOptions(beam_size=2), END, [0], CPU), BeamSearch)
    sampling = search_of(DecodingOptions(temperature=0.4, best_of=3), END, [0], CPU)
    assert isinstance(sampling, Sampling)
    assert sampling.n_group == 3
