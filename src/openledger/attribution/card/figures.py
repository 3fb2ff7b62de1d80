"""What a release says of its half-data adapters: records alone, without what measures them.

Figures are integers, in thousandths, since the training root commits to them. None stands for what
was not measured.
"""

import msgspec

from openledger.core.encoding import parse_json
from openledger.core.errors import InvalidInputError, VerificationError
from openledger.core.merkle import Proof, verify
from openledger.core.types import Digest

_MOST_UNITS = 2**53
_MOST_RIDGE_PPM = 10**15


class Interval(msgspec.Struct, frozen=True):
    """A mean over answers with its 95 % bootstrap interval, in thousandths."""

    mean_milli: int
    low_milli: int
    high_milli: int
    answers: int


class Figures(msgspec.Struct, frozen=True):
    """How well one way of scoring foretells what adapters without some of the data do."""

    lds_contributor: Interval | None
    lds_document: Interval | None  # documents of one content cluster count as one
    leave_one_out: Interval | None  # rank correlation
    payout_error: Interval | None  # total variation


class Nobody(msgspec.Struct, frozen=True):
    """Does the release tell answers about its data from others?"""

    auc_milli: int
    paid_inside_milli: int  # of the data money
    paid_outside_milli: int
    outside: int  # answers to everyday prompts


class Sizes(msgspec.Struct, frozen=True):
    """How much there was of everything."""

    documents: int
    clusters: int
    contributors: int
    attribution_bytes: int
    adapter_bytes: int  # of all half-data adapters together


class Times(msgspec.Struct, frozen=True):
    """CPU time."""

    adapters_s: int  # training of the half-data adapters, and of those without one contributor
    attribution_ms: int  # of one answer, on average
    audit_ms: int  # what the audited mode adds to that


class Measured(msgspec.Struct, frozen=True):
    """Everything measured on a release."""

    method: int
    half_adapters: int
    left_out: int  # adapters without one contributor
    cluster_adapters: int  # on halves of the clusters, for the figure of documents alone
    held_out: int  # answers that others wrote
    generated: int  # answers that the adapter wrote
    influence: Figures
    audited: Figures | None  # each adapter's losses told by those of the others
    nobody: Nobody | None  # None: the adapter answers nothing to everyday prompts
    sizes: Sizes
    times: Times


class Calibration(msgspec.Struct, frozen=True):
    """What makes influence and losses one measure; integers, since the release commits to them."""

    units_per_nat: int  # of influence that foretell one nat of mean loss
    ridge_ppm: int  # noise of a loss, relative to what the correction could explain of it

    def __post_init__(self) -> None:
        """Refuse what no calibration gives.

        Raises:
            InvalidInputError: a number is outside its range.
        """
        if not (0 < self.units_per_nat < _MOST_UNITS and 0 < self.ridge_ppm <= _MOST_RIDGE_PPM):
            raise InvalidInputError(f"{self} is no calibration of half-data adapters")


class Audit(msgspec.Struct, frozen=True):
    """What the training root says of half-data adapters; their halves follow from the seed."""

    adapters: tuple[Digest, ...]
    calibration: Calibration | None  # None: influence foretold nothing, there is no audited mode
    measured: Measured


class Summary(msgspec.Struct, frozen=True):
    """What of a release's commitment a card shows."""

    base: Digest
    adapter: Digest
    audit: Audit | None = None  # None: there are no half-data adapters

    @property
    def measured(self) -> Measured | None:
        """The figures, where there are any."""
        return None if self.audit is None else self.audit.measured

    @property
    def is_audited(self) -> bool:
        """Whether calls may ask for the audited mode."""
        return self.audit is not None and self.audit.calibration is not None


class Committed(msgspec.Struct, frozen=True):
    """A release's commitment, with the proof that the training root commits to it."""

    leaf: str  # canonical JSON
    proof: Proof

    def summary(self, training_root: Digest) -> Summary:
        """What it says that people are shown.

        Raises:
            InvalidProofError: it does not stand under this root.
            VerificationError: it stands where no commitment does, or is none.
        """
        raw = self.leaf.encode()
        verify(raw, self.proof, training_root)
        if self.proof.index:
            raise VerificationError("the commitment is the first leaf under a training root")
        try:
            return msgspec.convert(parse_json(raw), Summary, strict=False)
        except (msgspec.ValidationError, InvalidInputError) as error:
            raise VerificationError(f"this leaf is no commitment of a release: {error}") from error
