import errno
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from peft import PeftModel
from torch import Tensor

from openledger.core.errors import ConflictError, DigestMismatchError, InvalidInputError
from openledger.core.types import Digest
from openledger.lm.base import BaseModel, llama_config, load_base
from openledger.lm.checkpoint import load_adapter
from openledger.lm.tiny import build_tiny
from openledger.serving.batch import Chunk, Weighted
from openledger.serving.engine import AdapterRef
from openledger.serving.llama.packed import PackedAdapter
from openledger.serving.native.library import InstructionSet
from openledger.serving.runner import Arithmetic, LlamaRunner
from tests.serving.tiny import exact_adapter, native_of

# peft 0.21 still asks transformers 5.23 by a name that goes away in v6.
pytestmark = pytest.mark.filterwarnings("ignore:.*is_gradient_checkpointing:FutureWarning")
BLOCKS = 40
RANKS = (4, 13, 1, 64)
Mix = tuple[Weighted[PackedAdapter], ...]
Logits = NDArray[np.float32]

WAYS = {"torch": Arithmetic(is_native=False)}
WAYS |= {one.name.lower(): Arithmetic(instruction_set=one) for one in InstructionSet}


@pytest.fixture(scope="module")
def refs(base: BaseModel, tmp_path_factory: pytest.TempPathFactory) -> list[AdapterRef]:
    home = tmp_path_factory.mktemp("adapters")
    return [exact_adapter(home / f"a{i}", base, i, rank) for i, rank in enumerate(RANKS)]


def started(base: BaseModel, arithmetic: Arithmetic = Arithmetic()) -> LlamaRunner:  # noqa: B008
    if arithmetic.is_native:
        native_of(arithmetic.instruction_set)
    runner = LlamaRunner(base, arithmetic=arithmetic)
    runner.prepare(threads=1, blocks=BLOCKS)
    return runner


def prompt(length: int, seed: int = 0) -> tuple[int, ...]:
    generator = torch.Generator().manual_seed(seed)
    return tuple(torch.randint(2, 250, (length,), generator=generator).tolist())


def blocks(place: int) -> tuple[int, ...]:
    """Four blocks of its own for each sequence, out of order."""
    return tuple((place * 4 + i) for i in (2, 0, 3, 1))


def feed(
    runner: LlamaRunner, place: int, ids: Sequence[int], pieces: Sequence[int], mix: Mix = ()
) -> Logits:
    """Feed a sequence alone, in pieces; (V,) logits after the last token."""
    start, last = 0, np.zeros(0, np.float32)
    for count in pieces:
        token_ids = tuple(ids[start : start + count])
        is_last = start + count == len(ids)
        logits = runner.run([Chunk(blocks(place), start, token_ids, mix, is_last)]).logits
        assert len(logits) == is_last
        last, start = logits[-1] if is_last else last, start + count
    return last


@pytest.mark.parametrize("is_native", [True, False])
def test_what_another_left_in_a_block_is_not_read(base: BaseModel, *, is_native: bool) -> None:
    runner = started(base, Arithmetic(is_native=is_native))
    assert runner._forward is not None
    ids, others = prompt(5), prompt(20, 1)
    before = feed(runner, 0, ids, [5])
    after = feed(runner, 1, others, [19, 1])
    cache = runner._forward._kernels._cache  # type: ignore[attr-defined]  # of either kind
    cache.keys.fill_(float("nan"))
    cache.values.fill_(float("inf"))

    assert (feed(runner, 0, ids, [5]) == before).all()
    assert (feed(runner, 1, others, [19, 1]) == after).all()
    both = [
        Chunk[PackedAdapter](blocks(0), 5, (7,), (), is_last=True),
        Chunk[PackedAdapter](blocks(1), 20, (7,), (), is_last=True),
    ]
    assert np.isfinite(runner.run(both).logits).all()


def greedy(
    runner: LlamaRunner, prompts: Sequence[Sequence[int]], mixes: Sequence[Mix], steps: int
) -> list[list[int]]:
    """All sequences in one batch, prompts first; a sequence joins in step i of its place i."""
    answers: list[list[int]] = [[] for _ in prompts]
    for step in range(steps + len(prompts) - 1):
        chunks, active = [], []
        for place, (ids, mix) in enumerate(zip(prompts, mixes, strict=True)):
            made = answers[place]
            if place > step or len(made) >= steps:
                continue
            start = len(ids) + len(made) - 1 if made else 0
            feed_now = (made[-1],) if made else tuple(ids)
            chunks.append(Chunk(blocks(place), start, feed_now, mix, is_last=True))
            active.append(place)
        for place, row in zip(active, runner.run(chunks).logits.argmax(-1), strict=True):
            answers[place].append(int(row))
    return answers


@pytest.fixture(params=WAYS)
def runner(request: pytest.FixtureRequest, base: BaseModel) -> LlamaRunner:
    return started(base, WAYS[request.param])


def of_peft(folder: Path, refs: Sequence[AdapterRef]) -> PeftModel:
    """Peft on a base of its own, which it changes."""
    first, *rest = refs
    model = PeftModel.from_pretrained(load_base(folder).model, first.path, adapter_name="0")
    for place, ref in enumerate(rest, 1):
        model.load_adapter(ref.path, adapter_name=str(place))
    return model.eval()


@pytest.fixture(scope="module")
def peft_model(base_folder: Path, refs: list[AdapterRef]) -> PeftModel:
    return of_peft(base_folder, refs)


def test_the_base_alone_is_that_of_transformers(runner: LlamaRunner, base: BaseModel) -> None:
    ids = prompt(37)
    with torch.inference_mode():
        wanted = base.model(torch.tensor([ids])).logits[0, -1]

    assert abs(feed(runner, 0, ids, [37]) - wanted.numpy()).max() < 1e-4


def test_mixed_rows_are_those_of_peft(
    runner: LlamaRunner, refs: list[AdapterRef], peft_model: PeftModel
) -> None:
    ids = prompt(20)
    names = [*map(str, range(len(refs))), "__base__"]
    with torch.inference_mode():
        rows = torch.tensor([ids] * len(names))
        wanted: Tensor = peft_model(rows, adapter_names=names).logits[:, -1]
    mixes: list[Mix] = [(Weighted(runner.read(ref), 1.0),) for ref in refs] + [()]

    whole = [Chunk(blocks(i), 0, ids, mix, is_last=True) for i, mix in enumerate(mixes)]
    assert abs(runner.run(whole).logits - wanted.numpy()).max() < 1e-4
    runner.run([Chunk(blocks(i), 0, ids[:-1], mix, is_last=False) for i, mix in enumerate(mixes)])
    last = [Chunk(blocks(i), 19, ids[-1:], mix, is_last=True) for i, mix in enumerate(mixes)]
    assert abs(runner.run(last).logits - wanted.numpy()).max() < 1e-4


def test_a_weighted_mix_is_that_of_peft(
    runner: LlamaRunner, refs: list[AdapterRef], base_folder: Path
) -> None:
    ids, weights = prompt(20), [0.7, 0.3, 1.5]
    model = of_peft(base_folder, refs)
    model.add_weighted_adapter(["0", "1", "3"], weights, "mix", combination_type="cat")
    model.set_adapter("mix")
    with torch.inference_mode():
        wanted = model(torch.tensor([ids])).logits[0, -1]
    chosen = (refs[0], refs[1], refs[3])
    mix = tuple(Weighted(runner.read(r), w) for r, w in zip(chosen, weights, strict=True))

    assert abs(feed(runner, 0, ids, [20], mix) - wanted.numpy()).max() < 1e-4


def test_only_chunks_that_want_logits_get_them(runner: LlamaRunner) -> None:
    chunks: list[Chunk[PackedAdapter]] = [
        Chunk(blocks(i), 0, prompt(5, i), (), is_last=i != 1) for i in range(3)
    ]
    both = runner.run(chunks).logits

    assert both.shape == (2, runner.vocabulary)
    assert np.allclose(both[1], feed(runner, 3, prompt(5, 2), [5]), atol=1e-5)
    assert len(runner.run(chunks[1:2]).logits) == 0


@pytest.fixture(params=["float32", "bfloat16"])
def same_bits(request: pytest.FixtureRequest, base_folder: Path) -> LlamaRunner:
    """The runner as it is served: its rows keep their bits in any company."""
    return started(load_base(base_folder, dtype=getattr(torch, request.param)))


@pytest.mark.parametrize("pieces", [[16, 21], [1, 36], [36, 1], [5, 3, 29], [1] * 37])
def test_a_prompt_in_pieces_gives_the_same_bits(
    same_bits: LlamaRunner, refs: list[AdapterRef], pieces: list[int]
) -> None:
    ids = prompt(37)
    mix = (Weighted(same_bits.read(refs[0]), 0.5), Weighted(same_bits.read(refs[3]), 1.0))

    assert (feed(same_bits, 0, ids, pieces, mix) == feed(same_bits, 1, ids, [37], mix)).all()


def test_answers_are_the_same_in_any_company(
    same_bits: LlamaRunner, refs: list[AdapterRef]
) -> None:
    ready = [same_bits.read(ref) for ref in refs]
    mixes: list[Mix] = [
        (),
        (Weighted(ready[0], 1.0),),
        (Weighted(ready[1], 1.0), Weighted(ready[2], 0.5)),
        (Weighted(ready[3], 1.0),),
        (Weighted(ready[0], 1.0),),
        (),
    ]
    prompts = [prompt(3 + 5 * i, i) for i in range(6)]
    together = greedy(same_bits, prompts, mixes, steps=12)
    for place in range(6):
        assert greedy(same_bits, [prompts[place]], [mixes[place]], 12) == [together[place]]


def test_int8_stays_near(base: BaseModel, refs: list[AdapterRef]) -> None:
    eight, plain = started(base, Arithmetic(is_int8=True)), started(base)
    ids = prompt(30)
    mixes = [(Weighted(one.read(refs[0]), 1.0),) for one in (eight, plain)]
    found, wanted = feed(eight, 0, ids, [30], mixes[0]), feed(plain, 0, ids, [30], mixes[1])

    assert 0 < abs(found - wanted).max() < 0.05 * abs(wanted).max()
    assert eight.dtype == "int8"


def test_a_head_of_its_own_and_scaled_rotation(base: BaseModel) -> None:
    fields = base.model.config.to_dict() | {
        "tie_word_embeddings": False,
        "num_key_value_heads": 4,
        "rope_parameters": {
            "rope_type": "llama3",
            "rope_theta": 500.0,
            "factor": 4.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 64,
        },
    }
    torch.manual_seed(0)
    model = type(base.model)(llama_config(fields)).eval().requires_grad_(False)
    model.model.norm.weight.data.uniform_(0.5, 1.5)
    ids = prompt(40)
    with torch.inference_mode():
        wanted = model(torch.tensor([ids])).logits[0, -1]
    found = feed(started(msgspec.structs.replace(base, model=model)), 0, ids, [40])

    assert abs(found - wanted.numpy()).max() < 1e-4


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("hidden_act", "gelu"),
        ("attention_bias", True),
        ("rope_parameters", {"rope_type": "dynamic", "rope_theta": 10.0, "factor": 2.0}),
    ],
)
def test_a_configuration_it_has_no_arithmetic_for_is_refused(
    base: BaseModel, field: str, value: object
) -> None:
    config = llama_config(base.model.config.to_dict() | {field: value})
    with torch.device("meta"):
        model = type(base.model)(config)

    with pytest.raises(InvalidInputError):
        LlamaRunner(msgspec.structs.replace(base, model=model))


def test_an_adapter_of_another_base_is_refused(refs: list[AdapterRef], tmp_path: Path) -> None:
    build_tiny(tmp_path / "other", seed=1)
    runner = LlamaRunner(load_base(tmp_path / "other"))

    with pytest.raises(ConflictError, match="trained on base model"):
        runner.read(refs[0])


def test_an_adapter_is_packed_once_and_again_when_damaged(base: BaseModel, tmp_path: Path) -> None:
    ref = exact_adapter(tmp_path / "adapter", base, 7, rank=3)
    runner = LlamaRunner(base, tmp_path / "packed")
    runner.prepare(1, BLOCKS)
    file = tmp_path / "packed" / ref.digest
    first = feed(runner, 0, prompt(5), [5], (Weighted(runner.read(ref), 1.0),))
    written = file.stat().st_mtime_ns
    second = feed(runner, 0, prompt(5), [5], (Weighted(runner.read(ref), 1.0),))
    assert file.stat().st_mtime_ns == written
    damaged = bytearray(file.read_bytes())
    damaged[-1] ^= 1
    file.unlink()
    file.write_bytes(damaged)
    third = feed(runner, 0, prompt(5), [5], (Weighted(runner.read(ref), 1.0),))

    assert (first == second).all()
    assert (first == third).all()
    assert file.read_bytes() != damaged


def test_without_room_for_a_file_it_stays_in_memory(base: BaseModel, tmp_path: Path) -> None:
    ref = exact_adapter(tmp_path / "adapter", base, 7, rank=3)
    full = OSError(errno.ENOSPC, "no space left")

    class Full(type(tmp_path)):  # type: ignore[misc]  # the class of this system's paths
        def mkdir(self, *_: object, **__: object) -> None:
            raise full

    adapter = LlamaRunner(base, Full(tmp_path / "packed")).read(ref)

    assert adapter.rank == 3
    assert not (tmp_path / "packed").exists()


def test_a_changed_folder_is_refused(base: BaseModel, tmp_path: Path) -> None:
    ref = exact_adapter(tmp_path / "adapter", base, 7, rank=3)
    weights = ref.path / "adapter_model.safetensors"
    raw = bytearray(weights.read_bytes())
    raw[-1] ^= 1
    weights.write_bytes(raw)

    with pytest.raises(DigestMismatchError):
        LlamaRunner(base, tmp_path / "packed").read(ref)
    assert not list((tmp_path / "packed").glob("*"))


@pytest.mark.parametrize(
    "chunk",
    [
        Chunk(blocks(0), 0, (), (), is_last=True),
        Chunk(blocks(0), 60, (1, 2, 3, 4, 5), (), is_last=True),
        Chunk(blocks(0), -1, (1,), (), is_last=True),
        Chunk((1, BLOCKS), 0, (1,), (), is_last=True),
        Chunk((-1,), 0, (1,), (), is_last=True),
        Chunk(tuple(range(40)), 511, (1, 2), (), is_last=True),
    ],
)
def test_a_chunk_outside_its_blocks_is_refused(
    base: BaseModel, chunk: Chunk[PackedAdapter]
) -> None:
    runner = started(base)

    with pytest.raises(InvalidInputError):
        runner.run([chunk])


def test_a_step_needs_a_cache_and_a_chunk(base: BaseModel) -> None:
    runner = LlamaRunner(base)
    with pytest.raises(InvalidInputError, match="prepare"):
        runner.run([Chunk((0,), 0, (1,), (), is_last=True)])
    runner.prepare(1, BLOCKS)

    with pytest.raises(InvalidInputError, match="at least one chunk"):
        runner.run([])


def test_the_runner_tells_what_its_base_can(base: BaseModel) -> None:
    runner = LlamaRunner(base)

    assert (runner.base, runner.context, runner.dtype) == (base.digest, 512, "float32")
    assert runner.vocabulary >= base.tokenizer.size
    assert runner.max_rank == 256
    assert runner.block_tokens == 16
    assert runner.block_bytes == 4 * 2 * 2 * 16 * 16 * 4


def test_reading_keeps_nothing_of_the_base_model(base: BaseModel, refs: list[AdapterRef]) -> None:
    runner = LlamaRunner(base)
    adapter = runner.read(refs[1])

    assert adapter.rank == 13
    assert adapter.digest == refs[1].digest
    assert all(parameter.is_meta for parameter in runner._base.model.parameters())
    assert load_adapter(refs[1].path, base, Digest(refs[1].digest)).shape == adapter.lora
