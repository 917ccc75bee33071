import pytest
import torch
import torch.nn.functional as F
from myna.kernels.gpu import causal_conv, conv_transpose

from .conftest import doubled


@pytest.mark.parametrize(
    ("b", "t", "c", "o", "k", "d", "activation"),
    [
        (1, 1, 16, 24, 3, 1, "none"),
        (2, 3, 40, 24, 3, 2, "snake"),  # channels that no block divides
        (3, 5, 8, 5, 7, 3, "elu"),
        (1, 2, 72, 33, 7, 1, "expand"),  # split over the products
    ],
)
def test_steps_are_the_convolution_of_the_whole(b, t, c, o, k, d, activation, guard, dtype, close):
    """The ring wraps around twice, and what it held before the stream began is not read."""
    torch.manual_seed(1)
    weight, bias = guard((torch.randn(k, o, c) * (k * c) ** -0.5).to(dtype)), guard(torch.randn(o))
    scale = guard(torch.rand(o) + 0.3)
    ring = guard.empty((b, causal_conv.slots(k, d, t), c), dtype)
    n = 2 * ring.shape[1] // t + 1
    xs, position = torch.randn(b, n * t, c).to(dtype).to(ring.device), torch.zeros(b, dtype=torch.int64)
    position, ys = position.to(ring.device), []
    for x in xs.split(t, dim=1):
        y = causal_conv.causal_conv(
            guard(x), ring, position, weight, bias, d, activation=activation, scale=scale
        )
        ys.append(y)
        position += t
    past = xs.new_zeros(b, (k - 1) * d, c).double()
    args = doubled(xs), doubled(weight), doubled(bias)
    close(
        torch.cat(ys, 1),
        causal_conv.causal_conv_reference(past, *args, d, activation, scale.double()),
    )


def test_streams_are_independent_pause_and_begin_anew(device):
    """Each row at its own position; a row whose position does not move is as if it had not been called."""
    torch.manual_seed(2)
    weight = torch.randn(3, 8, 8, device=device)
    ring = torch.full((2, causal_conv.slots(3, 2, 2), 8), float("nan"), device=device)
    xs, position = torch.randn(2, 20, 8, device=device), torch.zeros(2, dtype=torch.int64, device=device)
    got: list[list[torch.Tensor]] = [[], []]
    taken = [0, 0]
    for step in range(13):
        active = [step % 3 != 1, step not in (4, 5)]
        if step == 8:
            position[1], taken[1], got[1] = 0, 0, []
        x = torch.stack([xs[row, taken[row] : taken[row] + 2] for row in range(2)])
        y = causal_conv.causal_conv(x, ring, position, weight, dilation=2)
        for row in range(2):
            if active[row]:
                got[row].append(y[row])
                taken[row] += 2
                position[row] += 2
    for row in range(2):
        whole = causal_conv.causal_conv_reference(
            torch.zeros(1, 4, 8, device=device), xs[row : row + 1, : taken[row]], weight, None, 2
        )
        torch.testing.assert_close(torch.cat(got[row]), whole[0], rtol=1e-4, atol=1e-5)


def test_whole_signals_with_residual(guard, dtype, close):
    torch.manual_seed(3)
    x, weight = guard(torch.randn(2, 37, 20).to(dtype)), guard(torch.randn(7, 12, 20).to(dtype) / 12)
    bias, scale, residual = (
        guard(torch.randn(12)),
        guard(torch.rand(12) + 0.2),
        guard(torch.randn(2, 37, 12).to(dtype)),
    )
    y, z = causal_conv.conv_rows(x, weight, bias, 3, 9, "snake", scale, residual, both=True)
    truth = F.conv1d(
        x.double().transpose(1, 2), weight.double().permute(1, 2, 0), bias.double(), padding=9, dilation=3
    )
    truth = truth.transpose(1, 2) + residual.double()
    close(y, truth)
    close(z, causal_conv.activate_reference(truth, "snake", scale.double()))


@pytest.mark.parametrize(("kernel_size", "stride"), [(4, 2), (10, 5), (6, 2)])
def test_transposed(kernel_size, stride, guard, dtype, close):
    torch.manual_seed(4)
    weight, bias = torch.randn(24, 10, kernel_size).to(dtype) / 5, torch.randn(10)
    packed = conv_transpose.pack(weight.to(guard.device), bias.to(guard.device), stride)
    m = kernel_size // stride
    ring = guard.empty((2, causal_conv.slots(m, 1, 3), 24), dtype)
    xs, position = torch.randn(2, 21, 24).to(dtype), torch.zeros(2, dtype=torch.int64, device=ring.device)
    ys = []
    for x in xs.split(3, dim=1):
        ys.append(conv_transpose.conv_transpose(guard(x), ring, position, packed))
        position += 3
    truth = F.conv_transpose1d(xs.double().transpose(1, 2), weight.double(), bias.double(), stride)
    close(torch.cat(ys, 1), truth.transpose(1, 2)[:, : 21 * stride])
    whole, _ = conv_transpose.conv_transpose_rows(guard(xs), packed)
    close(whole, truth.transpose(1, 2))


def test_an_uneven_transpose_is_refused():
    with pytest.raises(ValueError, match="multiple of the stride"):
        conv_transpose.pack(torch.zeros(2, 2, 5), None, 2)


def test_the_operators_are_well_formed(device):
    x, ring = torch.randn(1, 2, 4, device=device), torch.zeros(1, 4, 4, device=device)
    weight, position = torch.randn(3, 4, 4, device=device), torch.zeros(1, dtype=torch.int64, device=device)
    tests = "test_schema", "test_faketensor"
    step = x, ring, position, weight, None, None, None, 1, 1, 0
    torch.library.opcheck(torch.ops.myna.causal_conv.default, step, test_utils=tests)
    rows = x, weight, None, None, None, 1, 2, 0, True
    torch.library.opcheck(torch.ops.myna.conv_rows.default, rows, test_utils=tests)
