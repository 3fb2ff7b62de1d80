"""Keep the evidence of a release: each contribution's rows, sealed under its own key."""

from openledger.attribution.evidence.index import codes_of
from openledger.attribution.evidence.store import (
    EvidenceManifest,
    EvidencePart,
    object_of,
    pack,
    read_manifest,
    write_manifest,
)
from openledger.attribution.state import AttributionState
from openledger.flows.model.train.plan import Material, Workshop
from openledger.storage.records.data import contributions
from openledger.storage.records.model.runs import Run


def keep_evidence(shop: Workshop, run: Run, material: Material, state: AttributionState) -> None:
    """Seal the rows and list them, the list last; nothing if that was done before.

    Raises:
        ConflictError: a contribution was withdrawn meanwhile, and its key is destroyed.
        StorageFullError: the disk is full.
    """
    folder, commitment = shop.home.run(run.op), state.manifest.commitment
    kept = read_manifest(folder)
    if kept is not None and kept.adapter == commitment.adapter:
        return
    codes = codes_of(state)
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
            content, name = pack(codes.rows[places]), object_of(owner.id, commitment.adapter)
            blob = shop.vault.put(transaction, owner.id, name, content)
            documents = tuple(codes.documents[place] for place in places)
            parts.append(EvidencePart(number, first[number], documents, blob))
    manifest = EvidenceManifest(
        commitment.adapter, commitment.seed, codes.width, codes.places, tuple(parts)
    )
    write_manifest(folder, manifest)
