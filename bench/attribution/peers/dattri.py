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

import tempfile
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Protocol

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset
from transformers.models.llama import LlamaForCausalLM

from bench.attribution.peers.passes import Row, document_rows, query_rows
from bench.attribution.setting import Setting
from openledger.lm.checkpoint import save_adapter

_NO_LOSS = -100  # the label of a token without a loss, as transformers has it
_RELATIVE_DAMPING = 0.1  # of each matrix's mean eigenvalue

_Sample = dict[str, Tensor]


class _Score(Protocol):
    """What the package answers with."""

    scores: Tensor  # (rows, columns)
    train_index: dict[str, list[tuple[int, int]]]  # by name: checkpoint and row, of each copy
    test_index: dict[str, int]  # by name: column


class _Attributor(Protocol):
    def attribute(
        self, train: Dataset[_Sample], test: Dataset[_Sample], **options: object
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


class _Samples(Dataset[_Sample]):
    """Rows as the model is called with them."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, place: int) -> _Sample:
        row = self._rows[place]
        labels = [_NO_LOSS] * row.start + list(row.tokens[row.start :])
        return {"input_ids": torch.tensor(row.tokens), "labels": torch.tensor(labels)}


def _run(
    setting: Setting, attributor: Callable[..., _Attributor], options: dict[str, float | bool]
) -> np.ndarray:
    from dattri_llm import REGISTER_ALL, AttributionArguments, AttributionTask, HookManagerConfig

    documents, queries = _Samples(document_rows(setting)), _Samples(query_rows(setting))
    with _scratch() as folder:
        arguments = AttributionArguments(
            output_dir=str(folder),
            per_device_train_batch_size=1,
            per_device_eval_batch_size=1,
            use_cpu=True,
        )
        model = _load(setting, folder / "adapter")
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


@contextmanager
def _scratch() -> Iterator[Path]:
    """A folder that goes away, with the temporary folders that the package would leave behind."""
    usual = tempfile.tempdir
    with tempfile.TemporaryDirectory() as folder:
        tempfile.tempdir = folder
        try:
            yield Path(folder)
        finally:
            tempfile.tempdir = usual


def _load(setting: Setting, folder: Path) -> torch.nn.Module:
    """The final adapter by peft, on a base model of its own, in the setting's precision."""
    from peft import PeftModel

    save_adapter(folder, setting.adapter, setting.base.name)
    dtype = setting.base.model.lm_head.weight.dtype
    base = LlamaForCausalLM.from_pretrained(setting.base.folder, dtype=dtype)
    model: torch.nn.Module = PeftModel.from_pretrained(base, folder, is_trainable=True)
    return model


def _mean_loss(model: torch.nn.Module, batch: _Sample) -> Tensor:
    loss: Tensor = model(**batch).loss
    return loss


def _summed_loss(model: torch.nn.Module, batch: _Sample) -> Tensor:
    return _mean_loss(model, batch) * (batch["labels"][:, 1:] != _NO_LOSS).sum()


def _names(samples: _Samples) -> list[str]:
    """What the package calls each sample."""
    from dattri_llm import hash_sample

    return [str(hash_sample(samples[place])) for place in range(len(samples))]
