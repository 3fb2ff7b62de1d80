"""Measure a release's attribution against adapters without some of the data, for its card.

Asked are the openings of held-out texts, with the rest of the text as one answer and what the new
adapter writes as another; and everyday questions, whose answers should pay nobody. What comes out
stands under the training root, so that nobody can print a better card afterwards.
"""

from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

import structlog

from openledger.attribution.card.examine import Question, Retrained, examine
from openledger.attribution.card.figures import Audit, Measured, Sizes, Times
from openledger.attribution.card.subsets import can_halve
from openledger.attribution.method import METHOD_VERSION
from openledger.attribution.state import AttributionState, commit_audit, state_bytes
from openledger.core.errors import StoppedError
from openledger.core.types import Digest
from openledger.flows.model.train.adapters import Subject, parts_of, train_without
from openledger.flows.model.train.plan import (
    CardPlan,
    Step,
    Tell,
    Workshop,
)
from openledger.flows.model.train.score import ids_of
from openledger.lm.checkpoint import load_adapter
from openledger.lm.tokenizer import Tokenizer
from openledger.serving.request import GenerationRequest, MixMember, Sampling
from openledger.training.anchors import ANCHORS
from openledger.training.rows import Row, encode_rows

log = structlog.get_logger()

ASKING = "measuring attribution"
_QUESTIONS = 24  # of each kind
_OPENING_TOKENS = 20
_ANSWER_TOKENS = 64
_DEADLINE_S = 600.0


def measure_card(
    shop: Workshop, subject: Subject, folder: Path, state: AttributionState, tell: Tell
) -> AttributionState:
    """Train what the plan's card needs, measure, and put it under the training root.

    The state lies in `folder`, still in the clear. One whose plan asks for no card is given back as
    it is, and one of data that cannot be halved.

    Raises:
        InvalidInputError: nothing held out is long enough to be asked about, or an adapter gives
            numbers that are none.
        StoppedError: the process is asked to end; call again to go on.
    """
    card = subject.plan.card
    if not isinstance(card, CardPlan):
        return state
    documents = state.manifest.documents
    if not can_halve([one.account for one in documents], [one.cluster for one in documents]):
        # Known only now: what is held out was not, nor which texts are alike.
        log.warning("card not measured", why="too few contributors and texts to draw halves of")
        return state
    parts = parts_of(card, state.manifest)
    made = train_without(shop, subject, parts, tell)
    tell(Step(ASKING, 0, 1))
    base = shop.base(subject.plan.recipe.precision)
    held_out = _openings(base.tokenizer, subject)
    written = _written(shop, subject, [one.prompt for one in held_out])
    outside = _written(shop, subject, _everyday(base.tokenizer))
    adapters = [
        load_adapter(shop.home.adapter(one), base, one)
        for one in (subject.adapter, state.manifest.commitment.early, *made.adapters)
    ]
    released, early, *rest = adapters
    many, more = len(parts.halves), len(parts.halves) + len(parts.by_cluster)
    whole, left_out = (rest[more], rest[more + 1 :]) if card.leaves_out else (None, [])
    retrained = Retrained(released, early, rest[:many], rest[many:more], whole, left_out)
    found = examine(state, base, retrained, [*held_out, *written], outside)
    halves = made.adapters[:many]
    measured = Measured(
        method=METHOD_VERSION,
        half_adapters=len(halves),
        cluster_adapters=len(parts.by_cluster),
        left_out=len(left_out),
        held_out=len(held_out),
        generated=len(written),
        influence=found.influence,
        audited=found.audited,
        nobody=found.nobody,
        sizes=_sizes(shop, folder, state, halves),
        times=Times(
            adapters_s=round(made.cpu_ms / 1_000),
            attribution_ms=found.attribution_ms,
            audit_ms=found.audit_ms,
        ),
    )
    audit = Audit(halves, found.calibration, measured)
    return commit_audit(folder, audit)


def _sizes(
    shop: Workshop, folder: Path, state: AttributionState, halves: Sequence[Digest]
) -> Sizes:
    documents = state.manifest.documents
    files = [file for one in halves for file in shop.home.adapter(one).iterdir()]
    return Sizes(
        documents=len(documents),
        clusters=len(state.manifest.clusters),
        contributors=len({entry.account for entry in documents}),
        attribution_bytes=state_bytes(folder),
        adapter_bytes=sum(file.stat().st_size for file in files),
    )


def _openings(tokenizer: Tokenizer, subject: Subject) -> list[Question]:
    """Held-out documents, drawn by the seed of the run: how each begins, and how it goes on."""
    examples = subject.split.held_out
    first: dict[int, Row] = {}  # by document
    for row in encode_rows(tokenizer, examples, subject.plan.recipe.max_length):
        first.setdefault(examples[row.example].document, row)

    def draw(row: Row) -> bytes:
        return sha256(subject.seed + examples[row.example].digest.encode()).digest()

    found = []
    for row in sorted(first.values(), key=draw)[:_QUESTIONS]:
        opening = min(_OPENING_TOKENS, len(row.tokens) // 2)
        rest = row.tokens[opening : opening + _ANSWER_TOKENS]
        found.append(Question(row.tokens[:opening], rest))
    return found


def _everyday(tokenizer: Tokenizer) -> list[tuple[int, ...]]:
    """Prompts about anything else: the first lines of texts that belong to no Datanet."""
    return [
        tuple(tokenizer.encode_start(text.partition("\n")[0] + "\n"))
        for text in ANCHORS[:_QUESTIONS]
    ]


def _written(
    shop: Workshop, subject: Subject, prompts: Sequence[tuple[int, ...]]
) -> list[Question]:
    """What the adapter answers at temperature 1; prompts to which it has nothing to say are out."""
    adapter, engine = subject.adapter, shop.engine(subject.adapter)
    end = shop.base(subject.plan.recipe.precision).tokenizer.end
    found = []
    for number, prompt in enumerate(prompts):
        request = GenerationRequest(
            id=f"card/{adapter}/{sha256(repr(prompt).encode()).hexdigest()}/{number}",
            tenant="card",
            prompt_ids=prompt,
            mix=(MixMember(adapter, 1.0),),
            sampling=Sampling(seed=sha256(f"card {number}".encode()).digest()),
            max_tokens=_ANSWER_TOKENS,
            stop_ids=frozenset([end]),
            deadline_s=_DEADLINE_S,
        )
        stream = engine.submit(request)
        try:
            answer = tuple(ids_of(stream, shop.check_stop))
        except StoppedError:
            stream.cancel()  # nobody reads on
            raise
        if answer:
            found.append(Question(prompt, answer))
    return found
