import torch

from openledger.training.steps.head_loss import summed_loss, token_losses


def test_loss_and_gradient_equal_the_naive_form() -> None:
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(300, 16, generator=generator, requires_grad=True)
    head = torch.randn(50, 16, generator=generator)
    targets = torch.randint(0, 50, (300,), generator=generator)
    naive = torch.nn.functional.cross_entropy(states @ head.T, targets, reduction="sum")
    (expected,) = torch.autograd.grad(naive * 0.5, states)

    total = summed_loss(states, head, targets)
    (found,) = torch.autograd.grad(total * 0.5, states)

    assert torch.allclose(total, naive, rtol=1e-5)
    assert torch.allclose(found, expected, atol=1e-5)
    assert torch.allclose(token_losses(states, head, targets).sum(), naive, rtol=1e-5)
