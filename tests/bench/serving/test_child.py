"""A peer in another process, and its weights as llama.cpp reads them."""

import sys
from collections.abc import Iterator
from pathlib import Path

import gguf
import msgspec
import numpy as np
import pytest

from bench.serving.peers.child import Child, Start
from bench.serving.peers.contender import Cell
from bench.serving.peers.gguf_files import write_adapters, write_base
from bench.serving.peers.own import Own
from bench.serving.world import SMALLEST, Needs, World, make_world
from openledger.core.errors import UnavailableError
from tests.bench.serving.echo_child import LACKING, TOKEN


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> World:
    return make_world(tmp_path_factory.mktemp("world"), SMALLEST, Needs(2, 2, 4, 4))


@pytest.fixture
def start(world: World) -> Start:
    return Start(
        name="echo",
        module="tests.bench.serving.echo_child",
        python=Path(sys.executable),
        precision="float32",
        base=Path("base"),
        adapters=tuple(ref.path for ref in world.refs),
        most_apart=0.1,
    )


@pytest.fixture
def child(start: Start, world: World, tmp_path: Path) -> Iterator[Child]:
    made = Child(start, world, tmp_path)
    yield made
    made.close()


def test_a_peer_is_asked_over_pipes_and_counts_its_own_time(child: Child) -> None:
    assert child.about == "echo of 2 adapters"
    assert 0 <= child.run(Cell(2, 2), 5).whole_s < 1


def test_a_peer_that_makes_too_few_tokens_has_no_speed(child: Child) -> None:
    with pytest.raises(UnavailableError, match="made 25 tokens in B2N2, not 26"):
        child.run(Cell(2, 2), LACKING)


def test_how_far_a_peer_is_apart_is_of_the_token_that_it_names(
    child: Child, world: World, tmp_path: Path
) -> None:
    own = Own(world, "float32", tmp_path)
    logits = own.logits(2).astype(np.float64)
    logprobs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))

    assert child.apart(own, 2) == pytest.approx(-logprobs[:, TOKEN].min(), abs=1e-6)


def test_a_peer_that_does_not_start_is_told_with_its_last_words(
    start: Start, world: World, tmp_path: Path
) -> None:
    broken = msgspec.structs.replace(start, module="tests.bench.serving.no_such_child")

    with pytest.raises(UnavailableError, match="no_such_child"):
        Child(broken, world, tmp_path)


def test_a_gguf_holds_the_same_weights_with_the_rows_of_heads_in_turns(
    world: World, tmp_path: Path
) -> None:
    write_base(world, tmp_path / "base.gguf", "f32")
    tensors = {one.name: one.data for one in gguf.GGUFReader(tmp_path / "base.gguf").tensors}
    weights = {k: v.numpy() for k, v in world.bases["float32"].model.state_dict().items()}
    q = weights["model.layers.1.self_attn.q_proj.weight"]
    head = SMALLEST.hidden // SMALLEST.heads

    np.testing.assert_array_equal(
        tensors["token_embd.weight"], weights["model.embed_tokens.weight"]
    )
    np.testing.assert_array_equal(
        tensors["blk.1.ffn_down.weight"], weights["model.layers.1.mlp.down_proj.weight"]
    )
    # Llama turns number i with i + head / 2, llama.cpp numbers 2 i and 2 i + 1.
    turned = tensors["blk.1.attn_q.weight"]
    np.testing.assert_array_equal(
        turned[head : head + 4], q[head + np.array([0, head // 2, 1, head // 2 + 1])]
    )
    assert len(tensors) == len(weights) - 1  # the head is the embedding


def test_eight_bits_are_near_the_weights(world: World, tmp_path: Path) -> None:
    write_base(world, tmp_path / "base.gguf", "q8_0")
    one = next(
        one
        for one in gguf.GGUFReader(tmp_path / "base.gguf").tensors
        if one.name == "blk.0.ffn_gate.weight"
    )
    found = gguf.quants.dequantize(one.data, one.tensor_type)
    weights = world.bases["float32"].model.get_parameter("model.layers.0.mlp.gate_proj.weight")

    assert one.tensor_type == gguf.GGMLQuantizationType.Q8_0
    np.testing.assert_allclose(found, weights.numpy(), atol=1e-3)


def test_adapters_keep_their_numbers_in_half_precision(world: World, tmp_path: Path) -> None:
    paths = write_adapters(world, tmp_path)
    tensors = {one.name: one.data for one in gguf.GGUFReader(paths[1]).tensors}
    pairs = {site.module: pair for site, pair in world.adapters[1].pairs.items()}
    pair = pairs["model.layers.0.mlp.up_proj"]

    np.testing.assert_allclose(tensors["blk.0.ffn_up.weight.lora_a"], pair.a.numpy(), atol=1e-6)
    np.testing.assert_allclose(tensors["blk.0.ffn_up.weight.lora_b"], pair.b.numpy(), atol=1e-6)
    assert len(tensors) == 2 * len(pairs)
