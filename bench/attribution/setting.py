"""What every method of attribution is given: one fine-tuned model, its documents, and queries.

A method answers with scores of shape (N, Q): a row for each document and a column for each query,
both in the order of the setting. A score above zero says that the document made the query's answer
likelier.
"""

import msgspec
import numpy as np

from openledger.lm.base import BaseModel
from openledger.lm.lora import Adapter


class Query(msgspec.Struct, frozen=True):
    """One answer that somebody is to be paid for."""

    id: str
    prompt: tuple[int, ...]  # token ids, at least one
    answer: tuple[int, ...]  # token ids, at least one; only these have a loss
    kind: str  # "held-out", "generated" or "outside"

    @property
    def tokens(self) -> tuple[int, ...]:
        """Prompt and answer, as the model sees them."""
        return self.prompt + self.answer


class Document(msgspec.Struct, frozen=True):
    """One text that the adapter was trained on."""

    id: str
    contributor: str
    text: str
    tokens: tuple[int, ...]  # exactly as trained on, at least two; all but the first have a loss


class Checkpoint(msgspec.Struct, frozen=True):
    """The adapter at one moment of its training."""

    adapter: Adapter
    learning_rate: float  # at that moment


class Setting(msgspec.Struct, frozen=True):
    """One fine-tuned model and what is asked about it."""

    base: BaseModel
    checkpoints: tuple[Checkpoint, ...]  # in order; the last is the final adapter
    documents: tuple[Document, ...]
    queries: tuple[Query, ...]
    elsewhere: tuple[Document, ...] = ()  # committed before all documents, and not trained on

    @property
    def adapter(self) -> Adapter:
        """The one that gave or judges the answers."""
        return self.checkpoints[-1].adapter

    @property
    def contributors(self) -> tuple[str, ...]:
        """Everybody once, in the order of their first documents."""
        everything = (*self.documents, *self.elsewhere)
        return tuple(dict.fromkeys(document.contributor for document in everything))

    @property
    def owner(self) -> np.ndarray:
        """(N,) the place of each document's contributor in `contributors`."""
        place = {name: i for i, name in enumerate(self.contributors)}
        return np.array([place[one.contributor] for one in self.documents], dtype=np.int64)
