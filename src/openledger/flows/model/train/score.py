"""The task score of a new adapter: what it writes, not only how likely it finds what others wrote.

Tunes in ABC can be checked without an ear: does the answer parse, do its bars sum to the metre,
how much of it stands note for note in the training data? Other texts have no score yet.
"""

from collections.abc import Callable, Iterator
from hashlib import sha256

from openledger.core.errors import InvalidInputError, StoppedError
from openledger.core.types import Digest
from openledger.datanet.abc_notation import parse
from openledger.lm.tokenizer import Tokenizer
from openledger.serving.engine import Engine, Stream
from openledger.serving.request import GenerationRequest, MixMember, Sampling
from openledger.training.abc_score import AbcScore, score_tunes
from openledger.training.rows import Example
from openledger.training.split import Split

TOKENS = 160  # of one tune; the median real one has about that many
_KEY_FIELD = "\nK:"  # the last line of a tune's header
_DEADLINE_S = 600.0


def score(
    engine: Engine,
    tokenizer: Tokenizer,
    adapter: Digest,
    split: Split,
    count: int,
    check_stop: Callable[[], None],
) -> AbcScore | None:
    """Let a loaded adapter continue the headers of held-out tunes, and judge what it wrote.

    Args:
        engine: where the adapter is loaded.
        tokenizer: of its base.
        adapter: its digest.
        split: held-out texts give headers; training texts are what may have been copied.
        count: how many tunes to write; 0 writes none.
        check_stop: called at every token; what it raises ends the writing.

    Returns:
        None when the texts are no tunes, or nothing was asked for.
    """
    headers = [_header(one.text) for one in split.held_out if _is_tune(one)][:count]
    if not headers:
        return None
    streams = [
        engine.submit(_request(tokenizer, adapter, number, header))
        for number, header in enumerate(headers)
    ]
    try:
        written = [
            header + tokenizer.decode(ids_of(stream, check_stop))
            for header, stream in zip(headers, streams, strict=True)
        ]
    except StoppedError:
        for stream in streams:
            stream.cancel()
        raise
    return score_tunes(written, [one.text for one in split.training])


def _request(tokenizer: Tokenizer, adapter: Digest, number: int, header: str) -> GenerationRequest:
    return GenerationRequest(
        id=f"score/{adapter}/{number}",
        tenant="score",
        prompt_ids=tuple(tokenizer.encode_start(header)),
        mix=(MixMember(adapter, 1.0),),
        sampling=Sampling(seed=sha256(f"score {number}".encode()).digest(), temperature=0.7),
        max_tokens=TOKENS,
        stop_ids=frozenset([tokenizer.end]),
        deadline_s=_DEADLINE_S,
    )


def ids_of(stream: Stream, check_stop: Callable[[], None]) -> Iterator[int]:
    """The tokens of an answer as they come; whatever `check_stop` raises ends it."""
    for token in stream:
        check_stop()
        yield token.id


def _is_tune(example: Example) -> bool:
    if not example.text.startswith("X:") or _KEY_FIELD not in example.text:
        return False
    try:
        parse(example.text)
    except InvalidInputError:
        return False
    return True


def _header(text: str) -> str:
    before, _, rest = text.partition(_KEY_FIELD)
    return before + _KEY_FIELD + rest.partition("\n")[0] + "\n"
