"""The package kronfluence itself, run on the same adapter as peft loads it from its folder.

It brings torchvision, whose wheels name a build of torch, so it is no dependency of ours: it runs
where it is installed without its dependencies. What has to be known of version 1.0.1:

- It takes every linear layer unless told which; the LoRA pairs are linear layers of peft's.
- Its Fisher matrix is that of labels drawn from the model, by whatever random numbers it is given.
- Its damping is absolute unless it is None, which is a tenth of each matrix's mean eigenvalue.
- einconv, which it needs, leaves a package named `tests` beside it: delete that to run our tests.
- Every sample is a batch of its own, so that no padding counts as a token.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

from bench.attribution.peers.passes import document_rows, query_rows
from bench.attribution.peers.tuned import NO_LOSS, Sample, Samples, peft_model, scratch
from bench.attribution.setting import Setting

PACKAGES = ("kronfluence", "einconv", "einops", "opt_einsum", "peft")
CURE = "pip install --no-deps kronfluence einconv einops opt-einsum"
_NAME = "bench"


def ekfac(setting: Setting) -> np.ndarray:
    """(N, Q) by the package's EK-FAC influence with a damping in proportion."""
    from kronfluence.analyzer import Analyzer, prepare_model
    from kronfluence.arguments import FactorArguments, ScoreArguments

    documents, queries = Samples(document_rows(setting)), Samples(query_rows(setting))
    with scratch() as folder:
        model = peft_model(setting, folder / "adapter")
        pairs = [name for name, part in model.named_modules() if _is_of_a_pair(name, part)]
        task = _task(pairs)
        analyzer = Analyzer(
            _NAME,
            prepare_model(model, task),
            task,
            cpu=True,
            disable_tqdm=True,
            output_dir=str(folder / "out"),
        )
        once: dict[str, Any] = {"per_device_batch_size": 1, "overwrite_output_dir": True}
        analyzer.fit_all_factors(
            _NAME, documents, factor_args=FactorArguments(strategy="ekfac"), **once
        )
        analyzer.compute_pairwise_scores(
            _NAME,
            _NAME,
            queries,
            documents,
            per_device_query_batch_size=1,
            per_device_train_batch_size=1,
            score_args=ScoreArguments(damping_factor=None),
        )
        scores: Tensor = analyzer.load_pairwise_scores(_NAME)["all_modules"]  # (Q, N)
    found: np.ndarray = scores.T.numpy().astype(np.float64)
    return found


def _is_of_a_pair(name: str, part: nn.Module) -> bool:
    return isinstance(part, nn.Linear) and (".lora_A." in name or ".lora_B." in name)


def _task(pairs: list[str]) -> Any:  # noqa: ANN401 - of a class of the package, which may be absent
    from kronfluence.task import Task

    class Language(Task):  # type: ignore[misc]  # untyped
        """Summed loss of a document, mean loss of an answer."""

        def __init__(self) -> None:
            self._source = torch.Generator().manual_seed(1)

        def compute_train_loss(
            self, batch: Sample, model: nn.Module, sample: bool = False
        ) -> Tensor:
            logits, labels = _foretold(model, batch)
            if sample:
                chances = torch.softmax(logits.detach().float(), -1)
                labels = torch.multinomial(chances, 1, generator=self._source)[:, 0]
            return cross_entropy(logits, labels, reduction="sum")

        def compute_measurement(self, batch: Sample, model: nn.Module) -> Tensor:
            return cross_entropy(*_foretold(model, batch))

        def get_influence_tracked_modules(self) -> list[str]:
            return pairs

    return Language()


def _foretold(model: nn.Module, batch: Sample) -> tuple[Tensor, Tensor]:
    """(T, V) logits and the (T,) labels that have a loss."""
    labels = batch["labels"][0, 1:]
    logits: Tensor = model(input_ids=batch["input_ids"]).logits[0, :-1]
    return logits[labels != NO_LOSS], labels[labels != NO_LOSS]
