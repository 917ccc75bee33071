"""The transformer: what each frame may see, the cache against the whole, rows of different lengths.
(`test_streaming.py` has it too, among all layers that stream.)"""

from __future__ import annotations

import pytest
import torch
from myna.layers import Stream
from myna.layers.streaming import tree_map
from myna.layers.transformer import RMSNorm, SwiGLU, Transformer, TransformerConfig
from torch import Tensor

W = 16


def transformer(**more) -> Transformer:
    torch.manual_seed(0)
    config = {"width": W, "depth": 2, "n_heads": 4, "n_kv_heads": 2, "hidden": 24, "context": 32}
    model = Transformer(TransformerConfig(**{**config, **more})).eval()
    with torch.no_grad():
        for p in model.parameters():
            if p.ndim == 2:
                p.normal_(0, 0.4)  # loud enough for the faintest attention to be seen
    return model


def close(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def reach(model: Transformer, blocks: Tensor | None, at: int, n: int = 8) -> list[int]:
    """Frames of the output that change with frame `at` of the input."""
    x = torch.randn(1, W, n)
    other = x.clone()
    other[..., at] += 1
    with torch.no_grad():
        moved = (model(x, blocks) - model(other, blocks)).abs().amax(dim=1)[0]
    return (moved > 1e-6).nonzero()[:, 0].tolist()


def test_rms_norm_and_swiglu_are_their_formulas():
    torch.manual_seed(0)
    x = torch.randn(2, 3, W) * 5
    norm = RMSNorm(W)
    with torch.no_grad():
        norm.weight.normal_()
    close(norm(x), x / x.square().mean(dim=-1, keepdim=True).sqrt() * norm.weight)
    ff = SwiGLU(W, 6)
    gate, up = (x @ ff.gate_up.weight.t()).split(6, dim=-1)
    close(ff(x), (gate * torch.sigmoid(gate) * up) @ ff.out.weight.t())


def test_adaptive_norm_starts_plain_and_then_follows_the_condition():
    torch.manual_seed(0)
    x, condition = torch.randn(2, 3, W), torch.randn(2, 5)
    norm = RMSNorm(W, condition=5)
    close(norm(x, condition), RMSNorm(W)(x))
    assert norm.adapt is not None
    with torch.no_grad():
        norm.adapt.weight.normal_()
    gain, shift = norm.adapt(condition)[:, None].chunk(2, dim=-1)
    close(norm(x, condition), RMSNorm(W)(x) * (1 + gain) + shift)


def test_what_a_frame_reaches():
    model = transformer()
    assert reach(model, None, 3) == [3, 4, 5, 6, 7]
    blocks = torch.tensor([[0, 0, 0, 1, 1, 2, 2, 3]])
    assert reach(model, blocks, 3) == [3, 4, 5, 6, 7]
    assert reach(model, blocks, 4) == [3, 4, 5, 6, 7]
    assert reach(model, blocks, 1) == list(range(8))
    assert reach(model, blocks, 7) == [7]
    # A window of 3 frames in each of 2 layers: 4 frames further at most.
    assert reach(transformer(context=3), None, 1) == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("context", [32, 5])
@pytest.mark.parametrize("cuts", [[1] * 20, [7, 1, 1, 11], [20], [3, 0, 17]])
def test_steps_are_the_whole(cuts, context):
    model = transformer(context=context)
    x = torch.randn(2, W, 20)
    stream = Stream(model, 2)
    with torch.no_grad():
        close(torch.cat([stream.push(part) for part in x.split(cuts, dim=-1)], dim=-1), model(x))


@pytest.mark.parametrize("bounded", [False, True])
def test_full_blocks_are_block_causal_attention(bounded):
    model = transformer(condition=3)
    x, condition = torch.randn(2, W, 12), torch.randn(2, 3)
    sizes = [4, 1, 5, 2]
    blocks = torch.repeat_interleave(torch.arange(4), torch.tensor(sizes)).expand(2, -1)
    state, parts, seen = model.init_state(2, x), [], 0
    with torch.no_grad():
        for part in x.split(sizes, dim=-1):
            seen += part.shape[-1]
            y, state = model.step(
                part, state, full=True, condition=condition, reach=seen if bounded else None
            )
            parts.append(y)
        close(torch.cat(parts, dim=-1), model(x, blocks, condition))


def test_rows_of_different_lengths_go_on_where_each_ended():
    model = transformer()
    x = torch.randn(3, W, 9)
    lengths = torch.tensor([6, 0, 4])
    start = x[..., :6].clone()
    for row, n in enumerate(lengths):
        start[row, :, n:] = 100.0  # padding, whatever it is
    with torch.no_grad():
        y, state = model.step(start, model.init_state(3, x), lengths=lengths, reach=6)
        for row, n in enumerate(lengths):
            close(y[row, :, :n], model(x[row : row + 1, :, :n])[0])
        after = []
        for t in range(3):
            y, state = model.step(x[..., 6 + t : 7 + t], state, reach=7 + t)
            after.append(y)
        for row, n in enumerate(lengths):
            whole = torch.cat([x[row : row + 1, :, :n], x[row : row + 1, :, 6:]], dim=-1)
            close(torch.cat(after, dim=-1)[row], model(whole)[0, :, n:])


def test_the_shapes_of_the_state_never_change():
    model = transformer()
    state = model.init_state(2, torch.zeros(()))
    shapes: list[list] = []
    with torch.no_grad():
        for t in (1, 5, 1, 30):
            _, state = model.step(torch.randn(2, W, t), state)
            shapes.append([])
            tree_map(lambda s: shapes[-1].append((s.shape, s.dtype)) or s, state)
    assert all(one == shapes[0] for one in shapes)
    assert state[0].tolist() == [37, 37]


def test_gradients_flow_through_both_and_agree():
    """Training (one pass) and a loop of steps are one function, so their gradients agree too."""
    model = transformer()
    x = torch.randn(1, W, 6)
    weight = model.blocks[0].feed_forward.out.weight  # pyright: ignore
    whole = torch.autograd.grad(model(x).square().sum(), weight)[0]
    blocks = torch.arange(6)[None]
    masked = torch.autograd.grad(model(x, blocks).square().sum(), weight)[0]
    torch.testing.assert_close(whole, masked, rtol=1e-3, atol=1e-4)


def test_a_block_larger_than_the_context_is_refused():
    model = transformer(context=4)
    with pytest.raises(ValueError, match="does not fit"):
        model.step(torch.randn(1, W, 5), model.init_state(1, torch.zeros(())), full=True)


def test_streams_with_states_of_their_own_step_in_one_pass():
    """As many rows each as they have, at positions of their own, past the end of the ring, too."""
    model = transformer(context=8)
    counts, begun = (1, 3, 2), (0, 5, 11)
    with torch.no_grad():
        states = []
        for rows, n in zip(counts, begun, strict=True):
            state = model.init_state(rows, torch.zeros(()))
            states.append(model.step(torch.randn(rows, W, n), state)[1] if n else state)
        alone = [tree_map(torch.clone, state) for state in states]
        for at in range(4):
            x = torch.randn(sum(counts), W)
            y, states = model.step_many(x, states, [n + at + 1 for n in begun])
            for i, (own, part) in enumerate(zip(x.split(counts), y.split(counts), strict=True)):
                expected, alone[i] = model.step(own[:, :, None], alone[i], reach=begun[i] + at + 1)
                close(part, expected[:, :, 0])
                assert states[i][0].equal(alone[i][0])
