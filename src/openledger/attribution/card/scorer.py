"""A release that scores answers: by influence, or audited by its half-data adapters."""

from collections.abc import Callable, Sequence
from functools import cached_property

from openledger.attribution.attribute import AnswerAttribution, Attributor
from openledger.attribution.card.figures import Audit
from openledger.attribution.card.panel import Auditor, Panel
from openledger.attribution.influence.gradients import ProbedModel
from openledger.attribution.state import AttributionState
from openledger.core.errors import NotAllowedError
from openledger.core.types import Digest
from openledger.lm.base import BaseModel
from openledger.lm.lora import Adapter


class ReleaseScorer:
    """One release; its half-data adapters are loaded when the first audit is asked for."""

    def __init__(
        self, state: AttributionState, base: BaseModel, load: Callable[[Digest], Adapter]
    ) -> None:
        """Join state and base; `load` gives an adapter by its digest."""
        self._state, self._base, self._load = state, base, load
        released = load(state.manifest.commitment.adapter)
        self._attributor = Attributor(state, ProbedModel(base, released))

    def attribute(
        self, prompt_ids: Sequence[int], answer_ids: Sequence[int], *, is_audited: bool
    ) -> AnswerAttribution:
        """Attribute one answer.

        Raises:
            NotAllowedError: an audit is asked of a release that cannot give one.
        """
        auditor = self._auditor if is_audited else None
        return self._attributor.attribute(prompt_ids, answer_ids, auditor)

    @cached_property
    def _auditor(self) -> Auditor:
        audit = self._state.manifest.audit
        if not isinstance(audit, Audit) or audit.calibration is None:
            raise NotAllowedError("this release has no half-data adapters to audit an answer with")
        panel = Panel(self._base, [self._load(digest) for digest in audit.adapters])
        return Auditor(panel, self._state.manifest, len(audit.adapters), audit.calibration)
