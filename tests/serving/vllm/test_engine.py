import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path

import msgspec
import numpy as np
import pytest
from numpy.typing import NDArray

from openledger.core.errors import (
    ConflictError,
    EngineFaultError,
    InvalidInputError,
    NotFoundError,
    UnavailableError,
)
from openledger.lm.base import BaseModel, load_base
from openledger.lm.tiny import build_tiny
from openledger.serving.engine import AdapterRef, Combine, Config, Draws, Tier
from openledger.serving.request import Finish, MixMember, Sampling
from openledger.serving.vllm.client import ServerConfig
from openledger.serving.vllm.engine import Place, VllmEngine
from tests.fakes import FakeVllm
from tests.serving.conformance import answer, ask, use
from tests.serving.tiny import exact_adapter, logits_of

CONFIG = Config(context=64, max_active=2, max_waiting=4, buffer_tokens=4)
Logits = NDArray[np.float32]


@pytest.fixture(scope="module")
def logits(base_folder: Path) -> Callable[[Sequence[int], Path | None], Logits]:
    """The base as it is; adapters only turn its logits, each by its own rank."""
    compute = logits_of(load_base(base_folder))

    @cache
    def of_base(token_ids: tuple[int, ...]) -> Logits:
        return compute(token_ids, [])

    def turned(token_ids: Sequence[int], adapter: Path | None) -> Logits:
        rank = (
            0 if adapter is None else json.loads((adapter / "adapter_config.json").read_text())["r"]
        )
        return np.roll(of_base(tuple(token_ids)), rank)

    return turned


@pytest.fixture
def server(logits: Callable[..., Logits]) -> Iterator[FakeVllm]:
    fake = FakeVllm(logits)
    yield fake
    fake.is_stuck = False
    fake.close()


Open = Callable[..., VllmEngine]


@pytest.fixture
def open_engine(server: FakeVllm, base: BaseModel, tmp_path: Path) -> Iterator[Open]:
    engines: list[VllmEngine] = []

    def make(config: Config = CONFIG, max_rank: int = 64, **place: object) -> VllmEngine:
        fields: dict[str, object] = {
            "server": ServerConfig(server.url, max_rank=max_rank),
            "folder": tmp_path / "shelf",
            "seen_at": str(tmp_path / "shelf"),
        }
        engines.append(VllmEngine(Place(**fields | place), base, config))  # type: ignore[arg-type]  # the test says which field
        return engines[-1]

    yield make
    for engine in engines:
        engine.close()


def until(is_so: Callable[[], bool]) -> None:
    for _ in range(1_000):
        if is_so():
            return
        time.sleep(0.01)
    raise AssertionError("never")


def threads() -> int:
    return sum(thread.name.startswith("openledger") for thread in threading.enumerate())


# The server


def test_its_caps_say_that_draws_and_arithmetic_are_the_servers(open_engine: Open) -> None:
    caps = open_engine().caps

    assert (caps.context, caps.max_rank, caps.combine) == (64, 64, Combine.CAT)
    assert caps.draws is Draws.OWN
    assert caps.determinism == "vllm-0.32.0/unstated/own-draws"


def test_without_a_server_it_says_which_setting(base: BaseModel, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        url = f"http://127.0.0.1:{listener.getsockname()[1]}"
    before = threads()

    with pytest.raises(UnavailableError, match=r"vllm\.url"):
        VllmEngine(Place(ServerConfig(url), tmp_path, str(tmp_path)), base, CONFIG)
    assert threads() == before


def test_another_base_model_is_refused(base_folder: Path, tmp_path: Path) -> None:
    build_tiny(tmp_path / "other", seed=1)
    compute = logits_of(load_base(tmp_path / "other"))
    server = FakeVllm(lambda token_ids, _: compute(token_ids, []))
    place = Place(ServerConfig(server.url), tmp_path / "shelf", "/shelf")
    try:
        with pytest.raises(ConflictError, match="does not serve tiny"):
            VllmEngine(place, load_base(base_folder), CONFIG)
    finally:
        server.close()


def test_log_probabilities_after_the_temperature_are_refused(
    server: FakeVllm, open_engine: Open
) -> None:
    server.spoil = lambda _, event: _with(event, logprobs={"token_logprobs": [0.0]})

    with pytest.raises(ConflictError, match="raw_logprobs"):
        open_engine()


def test_what_is_no_vllm_server_is_refused(server: FakeVllm, open_engine: Open) -> None:
    with pytest.raises(UnavailableError, match="status 404"):
        open_engine(server=ServerConfig(f"{server.url}/elsewhere"))
    server.refusal = 503
    with pytest.raises(UnavailableError, match="status 503"):
        open_engine()


def test_a_key_is_sent(base: BaseModel, logits: Callable[..., Logits], tmp_path: Path) -> None:
    server = FakeVllm(logits, key="secret")
    try:
        with pytest.raises(UnavailableError, match="status 401"):
            VllmEngine(Place(ServerConfig(server.url), tmp_path, "/shelf"), base, CONFIG)
        place = Place(ServerConfig(server.url, "secret"), tmp_path, "/shelf")
        VllmEngine(place, base, CONFIG).close()
    finally:
        server.close()


def test_a_server_that_falls_silent_shows(server: FakeVllm, open_engine: Open) -> None:
    engine = open_engine(pulse_s=0.01)
    assert engine.is_alive
    server.refusal = 500
    until(lambda: not engine.is_alive)
    server.refusal = None
    until(lambda: engine.is_alive)


def test_a_server_that_was_started_again_is_told_its_adapters_again(
    server: FakeVllm, open_engine: Open, refs: list[AdapterRef]
) -> None:
    engine = open_engine()
    for ref in refs[:2]:
        engine.load(ref)
    mixes = [use(refs[0]), use(*refs[:2])]
    before = [answer(engine, ask(mix=mix)) for mix in mixes]
    server.adapters.clear()

    assert [answer(engine, ask(mix=mix)) for mix in mixes] == before


def test_names_left_by_a_former_run_are_taken_over(
    server: FakeVllm, open_engine: Open, refs: list[AdapterRef], tmp_path: Path
) -> None:
    server.adapters[refs[0].digest] = tmp_path / "elsewhere"
    open_engine().load(refs[0])

    assert server.adapters[refs[0].digest] == tmp_path / "shelf" / refs[0].digest


# Answers


def _with(event: bytes, **fields: object) -> bytes:
    """The event with other fields in its choice."""
    piece = json.loads(event)
    for choice in piece["choices"]:
        choice |= fields
    return json.dumps(piece).encode()


SPOILS: dict[str, Callable[[bytes], bytes]] = {
    "no JSON": lambda _: b"?",
    "huge": lambda event: event + b" " * (2 << 20),
    "unknown token": lambda event: _with(event, token_ids=[10**6]),
    "another model": lambda event: json.dumps(json.loads(event) | {"model": "base"}).encode(),
    "an error": lambda _: b'{"error": {"message": "EngineDeadError"}}',
    "broken off": lambda _: b"[DONE]",
}


@pytest.mark.parametrize("name", SPOILS)
def test_a_hostile_answer_ends_alone(server: FakeVllm, open_engine: Open, name: str) -> None:
    engine = open_engine()
    before = answer(engine, ask())
    server.spoil = lambda number, event: SPOILS[name](event) if number == 2 else event
    stream = engine.submit(ask())
    read = [next(stream), next(stream)]

    with pytest.raises(EngineFaultError, match="costs nothing"):
        next(stream)
    assert read == before[:2]
    assert stream.usage().finish is Finish.FAULT
    assert stream.usage().completion_tokens == 2
    until(lambda: server.at_work == 0)
    server.spoil = lambda _, event: event
    assert answer(engine, ask()) == before


def test_a_connection_that_breaks_ends_an_answer(server: FakeVllm, open_engine: Open) -> None:
    engine = open_engine()

    def die(number: int, event: bytes) -> bytes:
        if number == 1:
            raise RuntimeError("told to die")
        return event

    server.spoil = die
    with pytest.raises(EngineFaultError, match="broke off"):
        answer(engine, ask())


def test_a_refused_request_is_a_fault_with_the_servers_words(
    server: FakeVllm, open_engine: Open
) -> None:
    engine = open_engine()
    answer(engine, ask())
    server.refusal = 500

    with pytest.raises(EngineFaultError, match="told to refuse"):
        answer(engine, ask())


def test_cancelling_ends_the_work_on_the_server(server: FakeVllm, open_engine: Open) -> None:
    engine = open_engine()
    answer(engine, ask())  # so that nothing is left to load
    server.is_stuck = True
    streams = [engine.submit(ask(seed=bytes([i]))) for i in range(3)]
    until(lambda: server.at_work == 2)  # the third waits here
    for stream in streams:
        stream.cancel()

    assert {stream.usage().finish for stream in streams} == {Finish.CANCELLED}
    until(lambda: server.at_work == 0)


def test_a_deadline_holds_at_the_server_and_in_the_queue(
    server: FakeVllm, open_engine: Open
) -> None:
    engine = open_engine()
    answer(engine, ask())  # so that nothing is left to load
    server.is_stuck = True
    others = [engine.submit(ask(seed=bytes([i]), deadline_s=1.0)) for i in range(2)]
    waiting = engine.submit(ask(deadline_s=0.2))

    assert waiting.usage().finish is Finish.DEADLINE
    assert waiting.usage().prefill_s == 0  # it never had a place
    assert {stream.usage().finish for stream in others} == {Finish.DEADLINE}
    until(lambda: server.at_work == 0)


def test_a_request_ends_while_its_adapter_is_being_loaded(
    server: FakeVllm, open_engine: Open, refs: list[AdapterRef]
) -> None:
    engine = open_engine()
    engine.load(refs[0])
    server.is_stuck = True
    half = (MixMember(refs[0].digest, 0.5),)
    late = engine.submit(ask(mix=half, deadline_s=0.3))
    dropped = engine.submit(ask(mix=half))
    until(lambda: engine.stats().active == 2)
    dropped.cancel()

    assert dropped.usage().finish is Finish.CANCELLED
    assert late.usage().finish is Finish.DEADLINE
    assert [one.references for one in engine.residency()] == [0]
    server.is_stuck = False
    assert len(answer(engine, ask(mix=half))) == 8
    until(lambda: server.at_work == 0)


def test_closing_ends_a_load_under_way(
    server: FakeVllm, open_engine: Open, refs: list[AdapterRef]
) -> None:
    engine = open_engine()
    engine.load(refs[0])
    server.is_stuck = True
    stream = engine.submit(ask(mix=(MixMember(refs[0].digest, 0.5),)))
    until(lambda: engine.stats().active == 1)
    with ThreadPoolExecutor() as pool:
        loading = pool.submit(engine.load, refs[1])
        time.sleep(0.05)
        engine.close()

        with pytest.raises(UnavailableError):
            loading.result(10)
    assert stream.usage().finish is Finish.SHUTDOWN


def test_a_slow_reader_is_paused_and_then_dropped(server: FakeVllm, open_engine: Open) -> None:
    engine = open_engine(msgspec.structs.replace(CONFIG, slow_reader_s=0.3))
    slow = engine.submit(ask(max_tokens=50))
    until(lambda: engine.stats().paused == 1)

    assert slow.usage().finish is Finish.SLOW_READER
    assert len(list(slow)) == CONFIG.buffer_tokens
    until(lambda: server.at_work == 0)


def test_closing_gives_those_at_work_their_time(open_engine: Open) -> None:
    engine = open_engine()
    stream = engine.submit(ask(max_tokens=4))
    engine.close(drain_s=10)

    assert len(list(stream)) == 4
    with pytest.raises(UnavailableError):
        engine.submit(ask())


def test_tenants_take_turns(server: FakeVllm, open_engine: Open) -> None:
    engine = open_engine(msgspec.structs.replace(CONFIG, max_active=1))
    server.is_stuck = True
    asked = [("alice", 1), ("alice", 2), ("alice", 3), ("bob", 4)]
    streams = [
        engine.submit(ask((5, 6, number), tenant=tenant, max_tokens=2)) for tenant, number in asked
    ]
    server.is_stuck = False
    for stream in streams:
        stream.usage()

    served = [body["prompt"][-1] for body in server.asked if len(body["prompt"]) == 3]
    assert served.index(4) < served.index(2)


def test_each_tenant_has_prefixes_of_his_own(server: FakeVllm, open_engine: Open) -> None:
    engine = open_engine()
    for tenant in ("alice", "bob", "alice"):
        answer(engine, ask(tenant=tenant, temperature=1.0, max_tokens=1))
    first, second, third = (body["cache_salt"] for body in server.asked[-3:])

    assert first == third != second


def test_how_tokens_are_drawn_reaches_the_server(server: FakeVllm, open_engine: Open) -> None:
    sampling = Sampling(b"\xff" * 32, 0.7, 0.9, 5, 1.1, 0.2, -0.3)
    answer(open_engine(), msgspec.structs.replace(ask(max_tokens=2), sampling=sampling))
    body = server.asked[-1]

    assert body["seed"] == -1
    assert (body["temperature"], body["top_p"], body["top_k"]) == (0.7, 0.9, 5)
    assert body["repetition_penalty"] == 1.1
    assert (body["presence_penalty"], body["frequency_penalty"]) == (0.2, -0.3)


# Adapters


def test_an_adapter_above_the_largest_rank_is_refused(
    open_engine: Open, refs: list[AdapterRef]
) -> None:
    engine = open_engine(max_rank=8)

    with pytest.raises(InvalidInputError, match=r"rank 13.*--max-lora-rank and vllm\.max_rank"):
        engine.load(refs[1])
    assert engine.residency() == ()


def test_a_mix_above_the_largest_rank_is_refused_at_once(
    server: FakeVllm, open_engine: Open, refs: list[AdapterRef]
) -> None:
    engine = open_engine(max_rank=16)
    for ref in refs:
        engine.load(ref)
    asked = len(server.asked)

    with pytest.raises(InvalidInputError, match="rank 17 in all"):
        engine.submit(ask(mix=use(*refs[:2])))
    assert len(server.asked) == asked
    assert [one.references for one in engine.residency()] == [0, 0, 0]
    nothing = (MixMember(refs[0].digest, 1.0), MixMember(refs[1].digest, 0.0))
    assert answer(engine, ask(mix=nothing)) == answer(engine, ask(mix=use(refs[0])))


def test_an_adapter_that_the_server_refuses_stays_unknown(
    logits: Callable[..., Logits], base: BaseModel, refs: list[AdapterRef], tmp_path: Path
) -> None:
    server = FakeVllm(logits, max_rank=8)
    place = Place(ServerConfig(server.url, max_rank=64), tmp_path, str(tmp_path))
    engine = VllmEngine(place, base, CONFIG)
    try:
        with pytest.raises(UnavailableError, match="greater than max_lora_rank 8"):
            engine.load(refs[1])
        assert engine.residency() == ()
    finally:
        engine.close()
        server.close()


def test_a_folder_that_the_server_cannot_see_is_said(
    open_engine: Open, refs: list[AdapterRef], tmp_path: Path
) -> None:
    with pytest.raises(NotFoundError, match=r"vllm\.mount"):
        open_engine(seen_at=str(tmp_path / "elsewhere")).load(refs[0])


def test_an_adapter_of_another_base_is_refused(open_engine: Open, tmp_path: Path) -> None:
    build_tiny(tmp_path / "other", seed=1)
    foreign = exact_adapter(tmp_path / "foreign", load_base(tmp_path / "other"), 1, 4)

    with pytest.raises(ConflictError):
        open_engine().load(foreign)


def test_pickles_are_refused(open_engine: Open, refs: list[AdapterRef], tmp_path: Path) -> None:
    folder = tmp_path / "pickled"
    folder.mkdir()
    for file in refs[0].path.iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    (folder / "adapter_model.bin").write_bytes(b"")

    with pytest.raises(InvalidInputError, match="pickled"):
        open_engine().load(AdapterRef(refs[0].digest, folder))


def test_a_mix_is_made_once_whatever_its_order(
    server: FakeVllm, open_engine: Open, refs: list[AdapterRef], tmp_path: Path
) -> None:
    engine = open_engine()
    for ref in refs:
        engine.load(ref)
    first = answer(engine, ask(mix=use(refs[0], refs[1])))
    again = answer(engine, ask(mix=use(refs[1], refs[0])))

    assert first == again
    assert len(server.adapters) == 4
    assert len(list((tmp_path / "shelf").glob("mix-*"))) == 1
    assert {one.digest for one in engine.residency()} == {ref.digest for ref in refs}
    assert engine.stats().resident_adapters == 4


def test_adapters_beyond_the_budget_leave_the_server_and_come_back(
    server: FakeVllm, open_engine: Open, refs: list[AdapterRef]
) -> None:
    size = open_engine().load(refs[1]).size_bytes
    engine = open_engine(msgspec.structs.replace(CONFIG, adapter_bytes=size))
    engine.load(refs[0])
    before = answer(engine, ask(mix=use(refs[0])))
    engine.load(refs[1])
    tiers = {one.digest: one.tier for one in engine.residency()}
    until(lambda: refs[0].digest not in server.adapters)

    assert tiers == {refs[0].digest: Tier.DISK, refs[1].digest: Tier.RAM}
    assert answer(engine, ask(mix=use(refs[0]))) == before
    assert engine.stats().adapter_evictions == 2


def test_an_adapter_altered_on_the_shelf_is_written_again(
    open_engine: Open, refs: list[AdapterRef], tmp_path: Path
) -> None:
    open_engine().load(refs[0])
    weights = tmp_path / "shelf" / refs[0].digest / "adapter_model.safetensors"
    right = weights.read_bytes()
    weights.write_bytes(right[:-1] + b"?")
    open_engine().load(refs[0])

    assert weights.read_bytes() == right


def test_unloading_empties_the_shelf(
    server: FakeVllm, open_engine: Open, refs: list[AdapterRef], tmp_path: Path
) -> None:
    engine = open_engine()
    engine.load(refs[0])
    engine.unload(refs[0].digest)

    until(lambda: not server.adapters)
    assert list((tmp_path / "shelf").iterdir()) == []
