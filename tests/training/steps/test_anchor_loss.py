import torch

from openledger.lm.base import BaseModel
from openledger.lm.frozen import SplitModel
from openledger.training.steps.anchor_loss import AnchorLoss, summed_divergence
from openledger.training.steps.trainer import Trainer
from tests.training.songs import QUICK, SEED


def test_divergence_and_gradient_equal_the_naive_form() -> None:
    generator = torch.Generator().manual_seed(0)
    states = torch.randn(20, 16, generator=generator, requires_grad=True)
    reference = torch.randn(20, 16, generator=generator)
    head = torch.randn(50, 16, generator=generator)
    naive = torch.nn.functional.kl_div(
        (states @ head.T).log_softmax(1),
        (reference @ head.T).log_softmax(1),
        log_target=True,
        reduction="sum",
    )
    (expected,) = torch.autograd.grad(naive * 0.5, states)

    total = summed_divergence(states, head, reference)
    (found,) = torch.autograd.grad(total * 0.5, states)

    assert torch.allclose(total, naive, rtol=1e-5)
    assert torch.allclose(found, expected, atol=1e-5)


def test_the_plain_base_has_not_moved_and_an_adapter_has(base: BaseModel) -> None:
    loss = AnchorLoss(SplitModel(base.model, 2), base.tokenizer, ("Hello there.", "X" * 500))
    trainer = Trainer(base, QUICK, SEED, 4)

    assert len(loss) == 2
    assert abs(float(loss([0]))) < 1e-5
    with trainer.attached(), torch.no_grad():
        for factor in trainer.parameters:
            factor.add_(0.05)
        alone = torch.cat([loss([0]), loss([1])])
        assert alone.shape == (2,)
        assert float(alone.min()) > 0.01
        assert torch.allclose(loss([1, 0, 1]), alone[[1, 0, 1]], rtol=1e-4)
