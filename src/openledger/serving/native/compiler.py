"""Compile the C sources with the system's compiler, once for each version of them.

The result lies in the user's cache under a digest of sources, flags and compiler, so a new version
never meets an old library. It is written beside and renamed, so two processes may do it at once.
"""

import platform
import shutil
import subprocess
import tempfile
from hashlib import sha256
from importlib import resources
from pathlib import Path

import platformdirs
import structlog

log = structlog.get_logger()

SOURCES = ("kernel.c", "kernel.h", "lanes.h", "rows.h", "attention.h", "lora.h", "product.h")

# Sums of products may be fused, which is as exact; nothing else may be reordered.
_FLAGS = (
    *("-O3", "-std=gnu11", "-ffp-contract=fast", "-fno-math-errno"),
    *("-Wno-psabi", "-fPIC", "-shared"),
)
_COMPILERS = ("cc", "gcc", "clang")
_TIMEOUT_S = 300


def cache_folder() -> Path:
    """Where compiled libraries lie."""
    return platformdirs.user_cache_path("openledger") / "native"


def compiled(folder: Path, compilers: tuple[str, ...] = _COMPILERS) -> Path | None:
    """The library in `folder`, compiled now if it is not there; None where that cannot be done."""
    compiler = next(filter(None, map(shutil.which, compilers)), None)
    if compiler is None:
        log.warning("no C compiler; adapters are slower in torch", looked_for=compilers)
        return None
    version = _run([compiler, "--version"])
    if version is None:
        return None
    sources = {name: _sources().joinpath(name).read_bytes() for name in SOURCES}
    machine = platform.machine()  # machines of several kinds may share a home
    parts = [machine.encode(), version.encode(), " ".join(_FLAGS).encode(), *sources.values()]
    # The digest of digests, so that no two lists of parts run into the same bytes.
    name = sha256(b"".join(sha256(part).digest() for part in parts)).hexdigest()
    library = folder / f"{name}.so"
    try:
        is_there = library.exists() or _compile(compiler, sources, library)
    except OSError as error:  # a full or read-only disk
        log.warning("kernels not compiled; adapters are slower in torch", why=str(error))
        return None
    return library if is_there else None


def _sources() -> resources.abc.Traversable:
    return resources.files(__package__)


def _compile(compiler: str, sources: dict[str, bytes], library: Path) -> bool:
    library.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".compile-", dir=library.parent) as scratch:
        for name, content in sources.items():
            Path(scratch, name).write_bytes(content)
        made = Path(scratch, "made.so")
        command = [compiler, *_FLAGS, str(Path(scratch, "kernel.c")), "-o", str(made), "-lm"]
        # Not every compiler has OpenMP; without it the library works on one thread.
        if _run([*command, "-fopenmp"]) is None and _run(command) is None:
            return False
        made.replace(library)
    return True


def _run(command: list[str]) -> str | None:
    """What it printed; None, and a warning, when it failed."""
    try:
        done = subprocess.run(  # noqa: S603 - a compiler found on the path, no input from outside
            command, capture_output=True, text=True, check=True, timeout=_TIMEOUT_S
        )
    except (subprocess.SubprocessError, OSError) as error:
        detail = getattr(error, "stderr", None) or str(error)
        log.warning("C compiler failed", command=command[0], why=str(detail)[-500:])
        return None
    return done.stdout
