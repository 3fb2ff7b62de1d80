"""The package dattri-llm itself, run on the same adapter as peft loads it from its folder.

What has to be known of version 0.1.0:

- It names a sample by the hash of the tensors that the model is called with, and joins samples of
  one name. The labels are given to the model as well, so that the same tokens with another prompt
  are another sample, and rows and columns are looked up by name, not by place.
- Padding would enter those names, so every sample is a batch of its own.
- Each sample goes through the model once if its gradients are stored as whole matrices, in memory
  while that lasts; EK-FAC would otherwise need three passes. The scores are the same.
- Its EK-FAC takes the curvature from the true labels, not from labels drawn from the model, and
  adds an absolute damping unless told otherwise: both the package's default and a damping in
  proportion to the mean eigenvalue, as others use it, are run.
"""

import warnings
from collections.abc import Callable
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from bench.attribution.peers.passes import document_rows, query_rows
from bench.attribution.peers.tuned import NO_LOSS, Sample, Samples, peft_model, scratch
from bench.attribution.setting import Setting

_RELATIVE_DAMPING = 0.1  # of each matrix's mean eigenvalue


class _Score(Protocol):
    """What the package answers with."""

    scores: Tensor  # (rows, columns)
    train_index: dict[str, list[tuple[int, int]]]  # by name: checkpoint and row, of each copy
    test_index: dict[str, int]  # by name: column


class _Attributor(Protocol):
    def attribute(
        self, train: Dataset[Sample], test: Dataset[Sample], **options: object
    ) -> _Score: ...


def gradient_dot(setting: Setting) -> np.ndarray:
    """(N, Q) by the package's TracIn at the final adapter alone."""
    from dattri_llm import TracInAttributor

    return _run(setting, TracInAttributor, {})


def ekfac(setting: Setting) -> np.ndarray:
    """(N, Q) by the package's EK-FAC influence with its own default damping."""
    from dattri_llm import EKFACAttributor

    return _run(setting, EKFACAttributor, {})


def ekfac_relative(setting: Setting) -> np.ndarray:
    """(N, Q) by the package's EK-FAC influence with a damping in proportion."""
    from dattri_llm import EKFACAttributor

    options = {"damping": _RELATIVE_DAMPING, "relative_damping": True}
    return _run(setting, EKFACAttributor, options)


def _run(
    setting: Setting, attributor: Callable[..., _Attributor], options: dict[str, float | bool]
) -> np.ndarray:
    from dattri_llm import REGISTER_ALL, AttributionArguments, AttributionTask, HookManagerConfig

    documents, queries = Samples(document_rows(setting)), Samples(query_rows(setting))
    with scratch() as folder:
        arguments = AttributionArguments(
            output_dir=str(folder),
            per_device_train_batch_size=1,
            per_device_eval_batch_size=1,
            use_cpu=True,
        )
        model = peft_model(setting, folder / "adapter")
        task = AttributionTask(_summed_loss, model, target_func=_mean_loss)
        with warnings.catch_warnings():
            # Nothing that learns stands below the lowest adapted layer: its input has no gradient.
            warnings.filterwarnings("ignore", "Full backward hook is firing", UserWarning)
            score = attributor(arguments, task=task).attribute(
                documents,
                queries,
                hook_config=HookManagerConfig(linear_io=REGISTER_ALL, capture_style="materialized"),
                gradient_cache_residency="tiered",
                **options,
            )
    rows = [score.train_index[name][0][1] for name in _names(documents)]
    columns = [score.test_index[name] for name in _names(queries)]
    found: np.ndarray = score.scores.numpy().astype(np.float64)[np.ix_(rows, columns)]
    return found


def _mean_loss(model: torch.nn.Module, batch: Sample) -> Tensor:
    loss: Tensor = model(**batch).loss
    return loss


def _summed_loss(model: torch.nn.Module, batch: Sample) -> Tensor:
    return _mean_loss(model, batch) * (batch["labels"][:, 1:] != NO_LOSS).sum()


def _names(samples: Samples) -> list[str]:
    """What the package calls each sample."""
    from dattri_llm import hash_sample

    return [str(hash_sample(samples[place])) for place in range(len(samples))]
