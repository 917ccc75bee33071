import pytest
import torch
from myna.kernels.gpu.snake import snake, snake_reference, supports

from .conftest import doubled


@pytest.mark.parametrize(
    ("shape", "dim"), [((2, 5, 33), 1), ((3, 7, 40), 2), ((1, 130, 1), 1), ((6,), 0), ((2, 3, 2100), 1)]
)
def test_forward_and_gradients(shape, dim, guard, dtype, close):
    torch.manual_seed(0)
    x = guard(torch.randn(shape).to(dtype) * 3)
    alpha, g = guard(torch.rand(shape[dim]) + 0.1), guard(torch.randn(shape).to(dtype))
    exact = [doubled(t).requires_grad_() for t in (x, alpha)]
    ours = [t.detach().requires_grad_() for t in (x, alpha)]
    y, truth = snake(*ours, dim), snake_reference(*exact, dim)
    close(y, truth)
    y.backward(g)
    truth.backward(g.double())
    close(ours[0].grad, exact[0].grad)
    error = (ours[1].grad.double() - exact[1].grad).norm() / exact[1].grad.norm()
    assert error < 1e-5  # summed in float32 whatever x is


def test_far_from_zero(guard):
    """The range reduction holds for arguments of some hundreds of turns."""
    x, alpha = guard(torch.linspace(-3000, 3000, 4001)[None, None]), guard(torch.tensor([0.7]))
    truth = snake_reference(x.double(), alpha.double())
    bend, exact = snake(x, alpha).double() - x.double(), truth - x.double()
    # What float32 makes of the product alpha x alone: half a step of 2^-13 at 2100.
    assert (bend - exact).abs().max() < 6e-4


def test_a_cpu_is_not_supported():
    assert not supports(torch.zeros(1, 2, 3), torch.ones(2))


def test_the_operator_is_well_formed(device):
    args = torch.randn(2, 3, 8, device=device, requires_grad=True), torch.rand(3, device=device) + 0.2, 1
    torch.library.opcheck(torch.ops.myna.snake.default, args)
