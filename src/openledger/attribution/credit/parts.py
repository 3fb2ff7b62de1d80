"""Who is paid for each document of a release: the first with its words, and nobody for nonsense."""

from collections.abc import Sequence

import numpy as np

from openledger.attribution.credit.documents import CreditDocument, ElsewhereText
from openledger.attribution.credit.priority import credit_parts
from openledger.attribution.credit.sense import says_nothing
from openledger.attribution.influence.gradients import ProbedModel
from openledger.settlement.shares import CreditPart

_NOBODYS = (CreditPart(None, 1),)


def parts_of(
    model: ProbedModel,
    documents: Sequence[CreditDocument],
    elsewhere: Sequence[ElsewhereText],
    stream: np.random.Generator,
) -> list[tuple[CreditPart, ...]]:
    """The parts of each document; none where all of it is its account's own."""
    is_nonsense = says_nothing(model, [document.rows for document in documents], stream)
    owned = credit_parts(documents, elsewhere)
    return [_NOBODYS if empty else parts for empty, parts in zip(is_nonsense, owned, strict=True)]
