"""Every way to compute, forced by an argument, against the same arithmetic in float64."""

from collections.abc import Callable
from itertools import accumulate

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from openledger.lm.lora import TARGETS, LoraShape
from openledger.serving.batch import Chunk, Weighted
from openledger.serving.llama.cache import PagedCache
from openledger.serving.llama.kernels.in_c import CKernels, _parts
from openledger.serving.llama.kernels.in_torch import TorchKernels
from openledger.serving.llama.kernels.protocol import Kernels
from openledger.serving.llama.packed import PackedAdapter
from openledger.serving.llama.shape import LlamaShape, Matrix
from openledger.serving.llama.step import step_of
from openledger.serving.native.library import MOST_MEMBERS, STREAMS, InstructionSet
from tests.serving.llama import naive
from tests.serving.tiny import native_of

# No width is a multiple of 16, or even of 4 where that can be avoided.
SHAPE = LlamaShape(
    layers=2,
    hidden=45,
    heads=6,
    kv_heads=2,
    head_dim=14,
    inner=101,
    vocabulary=50,
    context=80,
    epsilon=1e-5,
)
BLOCKS = 20
Make = Callable[[LlamaShape, torch.dtype], Kernels]
Mix = tuple[Weighted[PackedAdapter], ...]


def in_torch(shape: LlamaShape, dtype: torch.dtype) -> Kernels:
    return TorchKernels(shape, naive.tables(shape), PagedCache(shape, BLOCKS, dtype))


def in_c(instruction_set: InstructionSet, threads: int = 1) -> Make:
    def make(shape: LlamaShape, dtype: torch.dtype) -> Kernels:
        cache = PagedCache(shape, BLOCKS, dtype)
        return CKernels(native_of(instruction_set), threads, shape, naive.tables(shape), cache)

    return make


WAYS = {"torch": in_torch, "threads": in_c(InstructionSet.PLAIN, 2)}
WAYS |= {one.name.lower(): in_c(one) for one in InstructionSet}
IN_C = [name for name in WAYS if name != "torch"]


@pytest.fixture(params=WAYS)
def make(request: pytest.FixtureRequest) -> Make:
    return WAYS[request.param]


@pytest.fixture(params=[torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    found: torch.dtype = request.param
    return found


def agree(found: Tensor, wanted: naive.Doubles, dtype: torch.dtype, scale: float = 1.0) -> None:
    tolerance = 2e-5 if dtype == torch.float32 else 2.0**-7
    np.testing.assert_allclose(naive.doubles(found), wanted, rtol=tolerance, atol=scale * tolerance)


def random(*size: int, seed: int = 0, dtype: torch.dtype = torch.float32) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed)).to(dtype)


def chunk(blocks: tuple[int, ...], start: int, count: int, mix: Mix = ()) -> Chunk[PackedAdapter]:
    return Chunk(blocks, start, tuple(range(count)), mix, is_last=True)


def test_norm_adds_in_place_and_normalises(make: Make, dtype: torch.dtype) -> None:
    kernels = make(SHAPE, dtype)
    residual, added, weight = random(3, 45), random(3, 45, seed=1, dtype=dtype), random(45, seed=2)
    whole = naive.doubles(residual) + naive.doubles(added)

    first = kernels.norm(residual.clone(), None, weight)
    second = kernels.norm(residual, added, weight)

    agree(residual, whole, torch.float32)
    agree(second, naive.rms_norm(whole, naive.doubles(weight), 1e-5), dtype)
    plain = whole - naive.doubles(added)
    agree(first, naive.rms_norm(plain, naive.doubles(weight), 1e-5), dtype)


def test_gate_is_silu_times_the_other_half(make: Make, dtype: torch.dtype) -> None:
    gate_up = random(3, 2 * SHAPE.inner, dtype=dtype) * 4
    gate_up[0, 0], gate_up[1, 1], gate_up[2, 2] = 200.0, -200.0, 0.0

    agree(make(SHAPE, dtype).gate(gate_up), naive.gated(naive.doubles(gate_up)), dtype)


def test_what_is_no_number_stays_none(make: Make, dtype: torch.dtype) -> None:
    gate_up = random(1, 2 * SHAPE.inner, dtype=dtype)
    gate_up[0, 3] = torch.nan

    out = make(SHAPE, dtype).gate(gate_up)

    assert bool(out[0, 3].isnan())
    assert bool(out[0, 4:].isfinite().all())


def test_attention_over_pieces_and_scattered_blocks_is_that_of_the_whole(
    make: Make, dtype: torch.dtype
) -> None:
    kernels = make(SHAPE, dtype)
    tables = {0: (7, 3, 11), 1: (4, 19, 0)}
    pieces = {0: (17, 1, 1, 20), 1: (1, 30, 1, 1)}
    width = (SHAPE.heads + 2 * SHAPE.kv_heads) * SHAPE.head_dim
    rows = {one: random(sum(pieces[one]), width, seed=one, dtype=dtype) for one in tables}
    found: dict[int, list[Tensor]] = {0: [], 1: []}
    for counts, ends in zip(
        zip(*pieces.values(), strict=True),
        zip(*map(accumulate, pieces.values()), strict=True),
        strict=True,
    ):
        starts = [end - count for count, end in zip(counts, ends, strict=True)]
        kernels.begin(step_of([chunk(tables[i], starts[i], counts[i]) for i in (0, 1)], BLOCKS, 80))
        batch = torch.cat([rows[i][starts[i] : ends[i]] for i in (0, 1)])
        out = kernels.attend(1, batch.clone())
        for one, part in zip((0, 1), torch.split(out, [*counts]), strict=True):
            found[one].append(part)

    for one in (0, 1):
        whole = naive.attention(naive.doubles(rows[one]), SHAPE, naive.tables(SHAPE))
        agree(torch.cat(found[one]), whole, dtype, scale=2.0)


def test_blocks_that_others_left_do_not_matter(make: Make, dtype: torch.dtype) -> None:
    width = (SHAPE.heads + 2 * SHAPE.kv_heads) * SHAPE.head_dim
    rows = random(18, width, dtype=dtype)
    fresh, used = make(SHAPE, dtype), make(SHAPE, dtype)
    used.begin(step_of([chunk((2, 5), 0, 32)], BLOCKS, 80))
    used.attend(0, random(32, width, seed=9, dtype=dtype) * 50)

    for kernels in (fresh, used):
        kernels.begin(step_of([chunk((2, 5), 0, 18)], BLOCKS, 80))

    assert torch.equal(fresh.attend(0, rows.clone()), used.attend(0, rows.clone()))


@settings(max_examples=15)
@given(
    ranks=st.lists(st.integers(1, 70), min_size=1, max_size=3),
    widths=st.tuples(st.integers(1, 100), st.integers(1, 100)),
    rows=st.lists(st.tuples(st.integers(0, 7), st.sampled_from([0.5, -1.25])), max_size=9),
    binades=st.sampled_from([0, 40]),
    seed=st.integers(0, 9),
)
@pytest.mark.parametrize("way", WAYS)
def test_every_row_gets_its_own_mix_at_any_size(
    way: str,
    ranks: list[int],
    widths: tuple[int, int],
    rows: list[tuple[int, float]],
    binades: int,
    seed: int,
) -> None:
    hidden, inner = widths
    shape = LlamaShape(2, hidden, 3, 1, 2, inner, 8, 64, 1e-5)
    kernels = WAYS[way](shape, torch.float32)
    loras = [
        LoraShape(rank, 3, (i % 2, *([1] if i % 2 == 0 else []))) for i, rank in enumerate(ranks)
    ]
    adapters = [
        naive.random_adapter(shape, lora, seed + i, binades) for i, lora in enumerate(loras)
    ]
    ready = [naive.packed(adapter, shape, i) for i, adapter in enumerate(adapters)]
    chosen = [
        [(i, weight / (i + 1)) for i in range(len(ranks)) if bits >> i & 1] for bits, weight in rows
    ] or [[]]
    chunks = [
        chunk((i,), 0, 1, tuple(naive.weighted(ready[place], weight) for place, weight in mix))
        for i, mix in enumerate(chosen)
    ]
    kernels.begin(step_of(chunks, BLOCKS, 64))
    for matrix, site in zip(Matrix, shape.sites, strict=True):
        x, y = random(len(chosen), site.width, seed=seed), random(len(chosen), sum(site.out))
        before = naive.doubles(y).copy()
        kernels.adapt(1, matrix, x, y)

        for row, mix in enumerate(chosen):
            members = [(adapters[place], weight) for place, weight in mix]
            added = naive.delta(naive.doubles(x[row]), members, 1, site.targets)
            if not members:
                added = np.zeros_like(before[row])
            agree(y[row], before[row] + added, torch.float32, scale=10.0)


def test_adapters_of_some_layers_and_targets(make: Make, dtype: torch.dtype) -> None:
    kernels = make(SHAPE, dtype)
    lora = LoraShape(5, 10, (1,), ("q_proj", "v_proj", "down_proj"))
    adapter = naive.random_adapter(SHAPE, lora, 3)
    mix = (naive.weighted(naive.packed(adapter, SHAPE), 0.5),)
    kernels.begin(step_of([chunk((0,), 0, 1), chunk((1,), 0, 6, mix)], BLOCKS, 80))
    for layer in (0, 1):
        for matrix, site in zip(Matrix, SHAPE.sites, strict=True):
            x = random(7, site.width, seed=1, dtype=dtype)
            y = torch.zeros(7, sum(site.out), dtype=dtype)
            kernels.adapt(layer, matrix, x, y)

            for row in range(7):
                column = 0
                for target, out in zip(site.targets, site.out, strict=True):
                    part, column = y[row, column : column + out], column + out
                    if row == 0 or layer == 0 or target not in lora.targets:
                        assert not part.any()
                    else:
                        wanted = naive.delta(naive.doubles(x[row]), [(adapter, 0.5)], 1, [target])
                        agree(part, wanted, dtype)


@pytest.mark.parametrize("way", IN_C)
def test_a_row_has_the_same_bits_in_any_company(way: str, dtype: torch.dtype) -> None:
    adapters = [
        naive.packed(naive.random_adapter(SHAPE, LoraShape(rank, 8, (0,)), rank), SHAPE, rank)
        for rank in (1, 7, 13, 64)
    ]
    mixes: list[Mix] = [
        (naive.weighted(adapters[0]),),
        (naive.weighted(adapters[1], 0.5), naive.weighted(adapters[2])),
        (naive.weighted(adapters[3]),),
        (),
        (naive.weighted(adapters[0]),),
        (naive.weighted(adapters[0]),),
    ]
    kernels = WAYS[way](SHAPE, dtype)
    site = SHAPE.sites[Matrix.GATE_UP]
    x, y = random(6, site.width, dtype=dtype), random(6, sum(site.out), seed=1, dtype=dtype)
    alone = []
    for row, mix in enumerate(mixes):
        kernels.begin(step_of([chunk((row,), 0, 1, mix)], BLOCKS, 80))
        one = y[row : row + 1].clone()
        kernels.adapt(0, Matrix.GATE_UP, x[row : row + 1], one)
        alone.append(one)
    kernels.begin(step_of([chunk((i,), 0, 1, mix) for i, mix in enumerate(mixes)], BLOCKS, 80))
    kernels.adapt(0, Matrix.GATE_UP, x, y)

    assert torch.equal(torch.cat(alone), y)


@pytest.mark.parametrize("way", IN_C)
def test_more_adapters_than_are_read_in_turns_change_no_bit(way: str, dtype: torch.dtype) -> None:
    """Of many ranks, with strays and targets of their own, some for several rows."""
    targets = (TARGETS, ("q_proj", "down_proj"), ("k_proj",))
    loras = [LoraShape(1 + 3 * i, 8, (0,), targets[i % 3]) for i in range(2 * STREAMS + 3)]
    ready = [
        naive.packed(naive.random_adapter(SHAPE, lora, i, binades=20), SHAPE, i)
        for i, lora in enumerate(loras)
    ]
    mixes: list[Mix] = [(naive.weighted(one, 0.5 + i / 10),) for i, one in enumerate(ready)]
    mixes += [mixes[3], mixes[3], mixes[5], (*mixes[1], *mixes[6])]
    kernels = WAYS[way](SHAPE, dtype)
    for matrix, site in zip(Matrix, SHAPE.sites, strict=True):
        x = random(len(mixes), site.width, dtype=dtype)
        y = random(len(mixes), sum(site.out), seed=1, dtype=dtype)
        together = y.clone()
        chunks = [chunk((row % BLOCKS,), 0, 1, mix) for row, mix in enumerate(mixes)]
        kernels.begin(step_of(chunks, BLOCKS, 80))
        kernels.adapt(0, matrix, x, together)
        for row, mix in enumerate(mixes):
            kernels.begin(step_of([chunk((0,), 0, 1, mix)], BLOCKS, 80))
            alone = y[row : row + 1].clone()
            kernels.adapt(0, matrix, x[row : row + 1], alone)
            assert torch.equal(together[row : row + 1], alone)


@pytest.mark.parametrize("members", [STREAMS, 2 * STREAMS + 1, MOST_MEMBERS])
def test_a_mix_of_more_members_than_are_read_in_turns(
    make: Make, dtype: torch.dtype, members: int
) -> None:
    adapters = [
        naive.random_adapter(SHAPE, LoraShape(1 + i % 5, 8, (0,)), i, 20) for i in range(members)
    ]
    ready = [naive.packed(one, SHAPE, i) for i, one in enumerate(adapters)]
    mix = tuple(naive.weighted(one, 1 / members) for one in ready)
    site, kernels = SHAPE.sites[Matrix.GATE_UP], make(SHAPE, dtype)
    x, y = random(9, site.width, dtype=dtype), torch.zeros(9, sum(site.out), dtype=dtype)
    singles = [chunk((i,), 0, 1, (naive.weighted(ready[i], 0.5),)) for i in range(7)]
    kernels.begin(step_of([chunk((7,), 0, 2, mix), *singles], BLOCKS, 80))
    kernels.adapt(0, Matrix.GATE_UP, x, y)

    whole = [(one, 1 / members) for one in adapters]
    wanted = [whole, whole, *([(one, 0.5)] for one in adapters[:7])]
    for row, terms in enumerate(wanted):
        agree(y[row], naive.delta(naive.doubles(x[row]), terms, 0, site.targets), dtype, scale=10.0)


@pytest.mark.parametrize(
    ("entries", "threads", "starts"),
    [
        ([1], 1, [0, 1]),
        ([1] * 9, 1, [0, 8, 9]),
        ([1] * 8, 2, [0, 4, 8]),
        ([1] * 3, 8, [0, 1, 2, 3]),
        ([64, 1, 1, 2, 1], 1, [0, 1, 3, 4, 5]),  # more than 64 streams in a part are too many
    ],
)
def test_tiles_of_one_entry_share_parts(
    entries: list[int], threads: int, starts: list[int]
) -> None:
    assert _parts(entries, threads) == starts


def test_a_step_of_other_adapters_takes_none_of_the_last(make: Make, dtype: torch.dtype) -> None:
    kernels, site = make(SHAPE, dtype), SHAPE.sites[Matrix.OUT]
    ready = [
        naive.packed(naive.random_adapter(SHAPE, LoraShape(4, 8, (0,)), i), SHAPE, i)
        for i in range(2)
    ]
    mixes: list[Mix] = [
        (naive.weighted(ready[0]),),
        (naive.weighted(ready[1]),),
        (),
        (naive.weighted(ready[1]),),
        (naive.weighted(ready[1], 0.5),),
    ]
    x, found = random(1, site.width, dtype=dtype), []
    for mix in mixes:
        y = torch.zeros(1, sum(site.out), dtype=dtype)
        kernels.begin(step_of([chunk((0,), 0, 1, mix)], BLOCKS, 80))
        kernels.adapt(0, Matrix.OUT, x, y)
        found.append(y)

    assert not found[2].any()
    assert torch.equal(found[1], found[3])
    assert torch.equal(found[3], 2 * found[4])
    assert not torch.equal(found[0], found[1])


def test_targets_are_those_of_the_kernel() -> None:
    assert TARGETS == ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
