import pytest

from openledger.core.errors import InvalidInputError
from openledger.serving.request import Sampling, check_request
from tests.serving.conformance import ask

SEED = bytes(32)


@pytest.mark.parametrize(
    "fields",
    [
        {"seed": b"short"},
        {"temperature": -0.1},
        {"temperature": 2.1},
        {"temperature": float("nan")},
        {"top_p": 0.0},
        {"top_p": 1.1},
        {"top_k": 0},
        {"repetition_penalty": 0.0},
        {"repetition_penalty": float("inf")},
        {"presence_penalty": 2.5},
        {"frequency_penalty": -2.5},
    ],
)
def test_sampling_outside_its_range_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(InvalidInputError):
        Sampling(**{"seed": SEED, **fields})  # type: ignore[arg-type]  # wrong on purpose


@pytest.mark.parametrize("deadline_s", [0.0, -1.0, float("inf"), float("nan")])
def test_a_deadline_is_a_time_above_zero(deadline_s: float) -> None:
    with pytest.raises(InvalidInputError, match="deadline_s"):
        check_request(ask(deadline_s=deadline_s), 64, 256)


def test_a_prompt_that_leaves_room_for_one_token_is_fine() -> None:
    check_request(ask((1,) * 63), 64, 256)

    with pytest.raises(InvalidInputError, match="64 tokens and the context holds 64"):
        check_request(ask((1,) * 64), 64, 256)
