"""One frozen record of everything that can be set, read once.

Precedence: flags, environment (`OPENLEDGER_SECTION__FIELD`), `openledger.toml` of the working
folder, `config.toml` of the user's configuration folder, defaults. Unknown names are refused.
"""

import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

import msgspec
import platformdirs

from openledger.core.errors import InvalidInputError

PREFIX = "OPENLEDGER_"
_LISTS = frozenset({("serve", "hosts")})  # in the environment their values stand between commas


class HomeSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Where things are kept."""

    path: str = str(platformdirs.user_data_path("openledger"))
    cache: str = str(platformdirs.user_cache_path("openledger"))
    database: str = ""  # a PostgreSQL URL; empty: SQLite inside the home
    blobs: str = ""  # an fsspec URL; empty: a folder inside the home
    password_file: str = ""  # of the keystore; empty: made inside the home, mode 0600


class ChainSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which chain."""

    url: str = "embedded"  # "embedded", "anvil", an http(s) URL, or "op+" and one: OP Stack
    chain_id: int | None = None  # None: 31337 in development, else whatever the node says at first
    confirm_timeout_s: float = 120.0
    # Both are fixed by the first start; None: 0 and 1 in development, else 3 days and 20 blocks.
    delay_s: int | None = None  # of payouts, exits, notices, changes of keys; these 7 days at least
    seed_delay_blocks: int | None = None


class ServeSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The HTTP server; loopback only unless told otherwise."""

    host: str = "127.0.0.1"
    hosts: tuple[str, ...] = ()  # names by which other machines may call
    port: Annotated[int, msgspec.Meta(ge=0, le=65_535)] = 8700
    max_active: Annotated[int, msgspec.Meta(ge=1)] = 32  # answers made at the same time
    max_queued: int = 64
    stop_timeout_s: Annotated[int, msgspec.Meta(ge=0)] = 30  # for what is under way at the end
    embed_tokens: Annotated[int, msgspec.Meta(ge=0)] = 20_000  # free, a minute for each payer
    max_body_mb: Annotated[int, msgspec.Meta(ge=1)] = 64  # of the files of one command, together


class ModelSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Which base model this home works with."""

    base: str = "smollm2"  # or "tiny": the unit tests' model, for trying out the flows
    context: int = 2_048  # tokens of one request
    threads: int = 0  # of arithmetic; 0: as many as cores
    weights: Literal["float", "int8"] = "float"  # of the engine; attribution never takes int8
    kv_mb: Annotated[int, msgspec.Meta(ge=1)] = 1_024  # of the engine's KV cache
    adapter_mb: Annotated[int, msgspec.Meta(ge=1)] = 1_024  # of all adapters in memory


class VllmSettings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A vLLM server that answers instead of the embedded engine."""

    url: str = ""  # http(s); empty: the embedded engine
    key_file: str = ""  # holds its --api-key; empty: it asks for none
    folder: str = ""  # of adapters, which it must see; empty: inside the home
    mount: str = ""  # the same folder as the server names it; empty: by the same path
    max_rank: Annotated[int, msgspec.Meta(ge=1, le=256)] = 16  # its --max-lora-rank


class Settings(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Everything, by section."""

    home: HomeSettings = HomeSettings()
    chain: ChainSettings = ChainSettings()
    models: ModelSettings = ModelSettings()
    serve: ServeSettings = ServeSettings()
    vllm: VllmSettings = VllmSettings()


def load(
    flags: Mapping[str, Mapping[str, object]],
    environment: Mapping[str, str] | None = None,
    files: tuple[Path, ...] | None = None,
) -> Settings:
    """Read the settings.

    Args:
        flags: section, then field, then value; None values are ignored.
        environment: defaults to the process's.
        files: TOML files, the weakest first; missing ones are skipped.

    Raises:
        InvalidInputError: an unknown name or a value of the wrong type; the message says where.
    """
    merged: dict[str, dict[str, object]] = {}
    for path in _default_files() if files is None else files:
        if path.exists():
            _merge(merged, _read_toml(path))
    _merge(merged, _from_environment(os.environ if environment is None else environment))
    _merge(merged, flags)
    try:
        return msgspec.convert(merged, Settings, strict=False)
    except msgspec.ValidationError as error:
        raise InvalidInputError(f"the settings are wrong: {error}") from error


def _default_files() -> tuple[Path, ...]:
    return (platformdirs.user_config_path("openledger") / "config.toml", Path("openledger.toml"))


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8"))
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise InvalidInputError(f"{path} cannot be read as TOML: {error}") from error


def _from_environment(environment: Mapping[str, str]) -> dict[str, dict[str, object]]:
    found: dict[str, dict[str, object]] = {}
    for name, value in environment.items():
        section, separator, field = name.removeprefix(PREFIX).lower().partition("__")
        if name.startswith(PREFIX) and separator:
            parts = [part.strip() for part in value.split(",") if part.strip()]
            found.setdefault(section, {})[field] = parts if (section, field) in _LISTS else value
    return found


def _merge(into: dict[str, dict[str, object]], layer: Mapping[str, Any]) -> None:
    for section, fields in layer.items():
        if not isinstance(fields, Mapping):
            raise InvalidInputError(f"{section} is a section of settings, not a value")
        known = {field: value for field, value in fields.items() if value is not None}
        into.setdefault(section, {}).update(known)
