"""The tuned model and its samples as other packages of influence functions take them."""

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import Dataset
from transformers.models.llama import LlamaForCausalLM

from bench.attribution.peers.passes import Row
from bench.attribution.setting import Setting
from openledger.lm.checkpoint import save_adapter

NO_LOSS = -100  # the label of a token without a loss, as transformers has it

Sample = dict[str, Tensor]


class Samples(Dataset[Sample]):
    """Rows as the model is called with them."""

    def __init__(self, rows: Sequence[Row]) -> None:
        self._rows = rows

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, place: int) -> Sample:
        row = self._rows[place]
        labels = [NO_LOSS] * row.start + list(row.tokens[row.start :])
        return {"input_ids": torch.tensor(row.tokens), "labels": torch.tensor(labels)}


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder that goes away, with the temporary folders that a package would leave behind."""
    usual = tempfile.tempdir
    with tempfile.TemporaryDirectory() as folder:
        tempfile.tempdir = folder
        try:
            yield Path(folder)
        finally:
            tempfile.tempdir = usual


def peft_model(setting: Setting, folder: Path) -> torch.nn.Module:
    """The final adapter by peft, on a base model of its own, in the setting's precision."""
    from peft import PeftModel

    save_adapter(folder, setting.adapter, setting.base.name)
    dtype = setting.base.model.lm_head.weight.dtype
    base = LlamaForCausalLM.from_pretrained(setting.base.folder, dtype=dtype)
    model: torch.nn.Module = PeftModel.from_pretrained(base, folder, is_trainable=True)
    return model
