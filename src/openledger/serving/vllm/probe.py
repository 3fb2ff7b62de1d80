"""Whether a vLLM server serves our base model: by what it answers, as its API tells no digest.

It continues a fixed prompt greedily, and its tokens must be about as likely in our own copy. That
finds another model, other weights and log-probabilities of another kind; it finds no server that
means to cheat.
"""

from collections.abc import Sequence
from hashlib import sha256

import torch

from openledger.core.errors import ConflictError
from openledger.lm.base import BaseModel
from openledger.serving.request import GenerationRequest, Sampling, Token

_PROMPT_TOKENS = 16
_ANSWER_TOKENS = 8
_FARTHEST = 0.1  # nats on average; bfloat16 and int8 differ by less


def probe_request(base: BaseModel) -> GenerationRequest:
    """A prompt of tokens that look random, the same for each base."""
    size = base.tokenizer.size
    numbers = [sha256(f"probe {i}".encode()).digest() for i in range(_PROMPT_TOKENS)]
    return GenerationRequest(
        id="probe",
        tenant="probe",
        prompt_ids=tuple(int.from_bytes(one[:8], "big") % size for one in numbers),
        mix=(),
        sampling=Sampling(bytes(32), temperature=0.0),
        max_tokens=_ANSWER_TOKENS,
        stop_ids=frozenset(),
        deadline_s=60.0,
    )


def check_probe(base: BaseModel, request: GenerationRequest, tokens: Sequence[Token]) -> None:
    """Compare an answer with our own copy of the base.

    Raises:
        ConflictError: it is another model's.
    """
    ids = [*request.prompt_ids, *(token.id for token in tokens)]
    with torch.inference_mode():
        logits = base.model(torch.tensor([ids])).logits[0].float()  # (T, V)
    own = torch.log_softmax(logits, dim=-1)
    first = len(request.prompt_ids) - 1
    apart = [
        abs(float(own[first + place, token.id]) - token.logprob)
        for place, token in enumerate(tokens)
    ]
    mean = sum(apart) / len(apart)
    if not mean <= _FARTHEST:
        raise ConflictError(
            f"the vLLM server does not serve {base.name}: its log-probabilities are {mean:.2f} "
            "nats from ours; start it on this home's base model, with --logprobs-mode raw_logprobs"
        )
