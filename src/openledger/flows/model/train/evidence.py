"""Keep the evidence of a release: each contribution's rows, sealed under its own key."""

from openledger.attribution.evidence.index import Codes
from openledger.attribution.evidence.store import (
    EvidenceManifest,
    EvidencePart,
    object_of,
    pack,
    read_manifest,
    write_manifest,
)
from openledger.attribution.release import Recipe
from openledger.core.types import Digest
from openledger.flows.model.train.plan import Material, Workshop
from openledger.storage.records.data import contributions
from openledger.storage.records.model.runs import Run


def has_evidence(shop: Workshop, run: Run, adapter: Digest) -> bool:
    """Whether it was kept to its end, for this adapter."""
    kept = read_manifest(shop.home.run(run.op))
    return kept is not None and kept.adapter == adapter


def keep_evidence(
    shop: Workshop, run: Run, material: Material, recipe: Recipe, codes: Codes
) -> None:
    """Seal the rows and list them, the list last.

    Raises:
        ConflictError: a contribution was withdrawn meanwhile, and its key is destroyed.
        StorageFullError: the disk is full.
    """
    pairs = zip(material.examples, material.rows, strict=True)
    contribution_of = {example.document: row.contribution for example, row in pairs}
    first: dict[int, int] = {}
    for document, number in sorted(contribution_of.items()):
        first.setdefault(number, document)
    members: dict[int, list[int]] = {}
    for place, document in enumerate(codes.documents):
        members.setdefault(contribution_of[document], []).append(place)
    parts = []
    with shop.database.read() as transaction:
        for number, places in sorted(members.items()):
            owner = contributions.by_number(transaction, number)
            assert owner is not None, "what is trained on is a contribution of this home"
            content, name = pack(codes.rows[places]), object_of(owner.id, recipe.adapter)
            blob = shop.vault.put(transaction, owner.id, name, content)
            documents = tuple(codes.documents[place] for place in places)
            parts.append(EvidencePart(number, first[number], documents, blob))
    manifest = EvidenceManifest(recipe.adapter, recipe.seed, codes.sizes, tuple(parts))
    write_manifest(shop.home.run(run.op), manifest)
