"""How many adapters stay in the memory of a machine."""

import gc
from pathlib import Path

from bench.serving.workloads.many import Pool
from bench.serving.workloads.traffic import engine_of
from bench.serving.world import World
from bench.table import Row, at_least
from openledger.serving.engine import Config

MACHINE = 16 << 30
SYSTEM = 1 << 30  # left to the operating system
LEAST = 10_000


def memory(world: World, folder: Path, count: int, *, is_judged: bool = True) -> list[Row]:
    """Memory for each of `count` resident adapters, and how many 16 GiB hold at that rate.

    The rest of the machine is what this process held before, the default KV cache, and a gibibyte
    for the system. It comes first: memory that others gave back would be taken again unseen.
    """
    pool = Pool(world, folder)
    each = pool.read(pool.ref(0)).size_bytes
    with engine_of(
        pool, Config(context=32, max_active=1, adapter_bytes=2 * count * each)
    ) as engine:
        engine.load(pool.ref(count))
        before = _resident_bytes()
        for number in range(count):
            engine.load(pool.ref(number))
        taken = (_resident_bytes() - before) / count or None  # too little to be seen
    name = f"{world.size.name}: adapters of {each / 1e6:.2f} MB"
    rows = [Row(f"{name}, memory each, of {count}", taken, "bytes")]
    if is_judged:
        room = MACHINE - SYSTEM - before - Config().kv_bytes
        held = None if taken is None else int(room / taken)
        rows.append(at_least(f"{name}, that 16 GiB hold", held, "", LEAST))
    return rows


def _resident_bytes() -> int:
    gc.collect()
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return next(int(line.split()[1]) << 10 for line in lines if line.startswith("VmRSS"))
