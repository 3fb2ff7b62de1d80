"""The base models of a home, and what can be said of each without loading it."""

from collections.abc import Iterator
from pathlib import Path

import msgspec

from openledger.core.encoding import digest_of
from openledger.core.errors import DigestMismatchError
from openledger.core.types import Digest
from openledger.lm.base import CONFIG, MANIFEST, WEIGHTS, BaseManifest, read_manifest
from openledger.lm.families.architecture import CausalConfig, config_of, context_of, empty_model


class Entry(msgspec.Struct, frozen=True):
    """One base model, as its files tell; they are not verified here."""

    folder: Path
    digest: Digest
    manifest: BaseManifest
    config: CausalConfig

    @property
    def family(self) -> str:
        """As config.json calls it: llama, mistral, qwen2 or qwen3."""
        return str(self.config.model_type)

    @property
    def context(self) -> int:
        """Tokens that it may see at once."""
        return context_of(self.config)

    @property
    def parameters(self) -> int:
        """How many numbers it has; a head that is tied to the embedding counts once."""
        return sum(one.numel() for one in empty_model(self.config).parameters())

    @property
    def serving_parameters(self) -> int:
        """How many numbers lie in memory to serve it: a tied head lies apart, in another order."""
        head = self.config.vocab_size * self.config.hidden_size
        return self.parameters + (head if self.config.tie_word_embeddings else 0)

    @property
    def stored_bytes(self) -> int:
        """Of its weights on disk."""
        return (self.folder / WEIGHTS).stat().st_size


def entries(bases: Path) -> Iterator[Entry]:
    """All base models under a folder, by name."""
    found = [read_entry(path.parent) for path in bases.glob(f"[!.]*/{MANIFEST}")]
    yield from sorted(found, key=lambda one: (one.manifest.name, one.digest))


def read_entry(folder: Path) -> Entry:
    """The base model in a folder.

    Raises:
        NotFoundError: there is none.
        DigestMismatchError: its manifest or its configuration is damaged.
    """
    manifest = read_manifest(folder)
    try:
        config = config_of(msgspec.json.decode((folder / CONFIG).read_bytes()))
    except (OSError, msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise DigestMismatchError(
            f"{folder / CONFIG} was altered: {error}; delete the folder and bring it in again"
        ) from error
    return Entry(folder, digest_of(manifest), manifest, config)
