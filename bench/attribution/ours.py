"""This project's scores: what a release pays by, and the same influence without its shortcuts."""

import tempfile
from collections.abc import Iterator, Sequence
from hashlib import sha256
from pathlib import Path

import msgspec
import numpy as np
import torch
from torch import Tensor

from bench.attribution.setting import Setting
from bench.attribution.truth import Retraining, losses_of
from openledger.attribution.attribute import Attributor
from openledger.attribution.card import measures
from openledger.attribution.card.audited import calibrate
from openledger.attribution.card.panel import Auditor, Panel, clusters_of, halves_of
from openledger.attribution.card.subsets import fractions
from openledger.attribution.credit.documents import ElsewhereText
from openledger.attribution.influence.curvature import Gradients, Votes, fit
from openledger.attribution.influence.gradients import Checkpoints, ProbedModel, label_gradients
from openledger.attribution.influence.rows import quantise_query
from openledger.attribution.release import Recipe, TrainingExample, build
from openledger.attribution.state import AttributionState
from openledger.core.types import PARTS_PER_BILLION, Account, Digest
from openledger.lm.lora import Adapter

_SEED = Digest(sha256(b"bench attribution").hexdigest())
_ANY = Digest("0" * 64)  # of adapters that are in no file
_RECIPE = Recipe(_ANY, _ANY, _SEED)
_BATCH = 16
_FITTING_SEED = 1_000  # of the first half-data adapter; the truth's seeds are small numbers
_ALL = 2**62  # features: none is left out


class Paid(msgspec.Struct, frozen=True):
    """What the released state says of the queries."""

    documents: np.ndarray  # (N, Q) scores, of all queries in one unit
    scores: np.ndarray  # (C, Q) of a contributor's documents, summed
    shares: np.ndarray  # (C, Q) of one
    nobody: np.ndarray  # (Q,) of one
    gains: np.ndarray  # (Q,) nats a token over the base and the placebo, below zero as well


def released(setting: Setting) -> Paid:
    """Build the state of a release and attribute every query by it, as a paid call is."""
    attributor, state = opened(setting)
    return _paid(setting, state, attributor)


def audited(setting: Setting, retraining: Retraining, count: int) -> Paid | None:
    """The same, each query corrected by `count` half-data adapters of the release's own.

    Their halves and seeds are none of those that the truth is made of. The correction is calibrated
    on the queries about the data, which to a release are its probe answers. None where influence
    foretells nothing of what those adapters do.
    """
    attributor, state = opened(setting)
    manifest = state.manifest
    kept = halves_of(manifest, count).kept
    adapters = [
        adapter
        for seed, half in enumerate(kept, start=_FITTING_SEED)
        for adapter in retraining.made([retraining.key(half, seed)], half[None], seed)
    ]
    inside = [query for query in setting.queries if query.kind != "outside"]
    scores = [[c.score for c in attributor.influence(one.prompt, one.answer)] for one in inside]
    calibration = calibrate(
        fractions(kept, clusters_of(manifest)),
        [entry.energy for entry in manifest.clusters],
        np.array(scores).T,
        losses_of(setting.base, adapters, inside),
    )
    if calibration is None:
        return None
    auditor = Auditor(Panel(setting.base, adapters), manifest, count, calibration)
    return _paid(setting, state, Attributor(state, _models(setting), auditor))


def accounts_of(setting: Setting) -> list[Account]:
    """One account for each contributor, in their order."""
    return [Account(f"0x{place + 1:040x}") for place in range(len(setting.contributors))]


def opened(setting: Setting) -> tuple[Attributor, AttributionState]:
    """The release of a setting, built as the product does and ready to score answers."""
    of = dict(zip(setting.contributors, accounts_of(setting), strict=True))
    examples = [
        TrainingExample(
            digest=Digest(sha256(one.text.encode()).hexdigest()),
            document=number,
            account=of[one.contributor],
            text=one.text,
            rows=(one.tokens,),
        )
        for number, one in enumerate(setting.documents)
    ]
    elsewhere = [ElsewhereText(of[one.contributor], one.text, 0) for one in setting.elsewhere]
    models = _models(setting)
    with tempfile.TemporaryDirectory(prefix="openledger-bench-") as folder:
        state = build(Path(folder) / "state", models, examples, _RECIPE, elsewhere=elsewhere)
    return Attributor(state, models), state


def _paid(setting: Setting, state: AttributionState, attributor: Attributor) -> Paid:
    accounts = accounts_of(setting)
    place = {account: i for i, account in enumerate(accounts)}
    documents = np.zeros((len(setting.documents), len(setting.queries)))
    shares = np.zeros((len(accounts), len(setting.queries)))
    nobody, gains = np.zeros((2, len(setting.queries)))
    cluster_of = [entry.cluster for entry in state.manifest.documents]
    alike = np.bincount(cluster_of)[cluster_of]
    for number, query in enumerate(setting.queries):
        unit = _unit(state, attributor.features(query.prompt, query.answer))
        clusters = attributor.influence(query.prompt, query.answer)
        if clusters:
            # Documents of a cluster are alike: each has an equal part of its score.
            found = np.array([one.score for one in clusters], float)[cluster_of]
            documents[:, number] = found * unit / alike
        answer = attributor.attribute(query.prompt, query.answer)
        micronats = sum(segment.gain.over_base_micronats for segment in answer.segments)
        gains[number] = micronats / 1e6 / max(1, len(query.answer))
        for share in answer.attribution.shares:
            shares[place[share.account], number] = share.weight_ppb / PARTS_PER_BILLION
        nobody[number] = answer.attribution.nobody_ppb / PARTS_PER_BILLION
    scores = measures.by_contributor(documents, setting.owner)
    return Paid(documents, scores, shares, nobody, gains)


def _unit(state: AttributionState, vector: Tensor | None) -> float:
    """What a score of this query counts in.

    Only its order matters to a payment, so that the product keeps no unit; over several queries
    they are compared.
    """
    if vector is None:
        return 0.0
    layout, scales = state.manifest.commitment.layout, state.manifest.commitment.scales
    scaled = vector.double().numpy() * np.repeat(np.exp2(scales.exponents), layout.widths)
    stored = quantise_query(vector, layout, scales).astype(np.float64)
    return float(np.abs(scaled).max() / np.abs(stored).max())


def _models(setting: Setting) -> Checkpoints:
    return Checkpoints(
        early=ProbedModel(setting.base, setting.checkpoints[0].adapter),
        final=ProbedModel(setting.base, setting.adapter),
    )


def ekfac(setting: Setting, checkpoints: Sequence[Adapter]) -> np.ndarray:
    """(N, Q) exact influence, at each checkpoint normalised by its mean absolute score, summed."""
    total = np.zeros((len(setting.documents), len(setting.queries)))
    for adapter in checkpoints:
        scores = _influence(setting, ProbedModel(setting.base, adapter))
        total += scores / np.abs(scores).mean()
    return total


def _influence(setting: Setting, model: ProbedModel) -> np.ndarray:
    documents = [one.tokens for one in setting.documents]
    stream = np.random.Generator(np.random.Philox(key=1))
    sampled, gradients, votes = [], [], []
    for start in range(0, len(documents), _BATCH):
        some = documents[start : start + _BATCH]
        batch = model.batch(some, [1] * len(some))
        states = model.upper(batch, has_graph=True)
        labels = label_gradients(model, batch, states, stream.random(int(batch.weights.sum())))
        assert labels.sampled is not None
        gradients.append(model.gradients(states, labels.true))
        sampled.append(model.gradients(states, labels.sampled))
        votes.append(Votes(gradients[-1], torch.ones(len(some))))
    whitener = fit(model.sites, sampled, votes, _ALL, torch.Generator().manual_seed(0))
    sampled.clear()  # of a real model, each of these lists takes hundreds of megabytes
    rows = torch.cat([torch.cat(whitener.whiten(one), 1) for one in gradients])  # (N, F)
    gradients.clear()
    votes.clear()
    columns = [rows @ torch.cat(whitener.whiten(one), 1).T for one in _queries(setting, model)]
    scores: np.ndarray = torch.cat(columns, 1).numpy()  # (N, Q)
    return scores


def _queries(setting: Setting, model: ProbedModel) -> Iterator[Gradients]:
    for start in range(0, len(setting.queries), _BATCH):
        some = setting.queries[start : start + _BATCH]
        batch = model.batch([one.tokens for one in some], [len(one.prompt) for one in some])
        states = model.upper(batch, has_graph=True)
        mean: Tensor = label_gradients(model, batch, states).true
        lengths = torch.tensor([len(one.answer) for one in some])[:, None, None]
        yield model.gradients(states, mean / lengths)
