"""The engine that a home's settings ask for."""

from pathlib import Path

from openledger.core.errors import InvalidInputError
from openledger.lm.base import BaseModel
from openledger.serving.embedded import EmbeddedEngine
from openledger.serving.engine import Config, Engine
from openledger.serving.runner import Arithmetic, LlamaRunner
from openledger.serving.vllm.client import ServerConfig
from openledger.serving.vllm.engine import Place, VllmEngine
from openledger.settings import Settings, VllmSettings
from openledger.storage.home import Home


def open_engine(settings: Settings, home: Home, base: BaseModel, threads: int) -> Engine:
    """An engine without adapters yet.

    Args:
        settings: say which, and how much memory it may use.
        home: where adapters are kept as it reads them.
        base: for the engine alone.
        threads: of arithmetic.

    Raises:
        InvalidInputError: the settings leave no room to work in, or their key cannot be read.
        UnavailableError: the vLLM server of the settings does not answer.
        ConflictError: it serves another base model.
    """
    config = Config(
        threads=threads,
        context=settings.models.context,
        max_active=settings.serve.max_active,
        max_waiting=settings.serve.max_queued,
        step_tokens=max(Config().step_tokens, 2 * settings.serve.max_active),
        slow_reader_s=settings.serve.slow_reader_s,
        kv_bytes=settings.models.kv_mb << 20,
        adapter_bytes=settings.models.adapter_mb << 20,
    )
    if settings.vllm.url:
        return VllmEngine(_place(settings.vllm, home), base, config)
    arithmetic = Arithmetic(is_int8=settings.models.weights == "int8")
    return EmbeddedEngine(LlamaRunner(base, home.packed, arithmetic), config)


def _place(settings: VllmSettings, home: Home) -> Place:
    folder = Path(settings.folder).expanduser() if settings.folder else home.shelf
    key = _read_key(Path(settings.key_file)) if settings.key_file else None
    server = ServerConfig(settings.url, key, settings.max_rank)
    return Place(server, folder, settings.mount or str(folder.absolute()))


def _read_key(path: Path) -> str:
    try:
        return path.expanduser().read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InvalidInputError(f"vllm.key_file cannot be read: {error}") from error
