"""Text to token ids and back, so that no text can smuggle in a control token.

`encode` treats "<|im_end|>" in a text as seven ordinary characters or so: control tokens come only
from the chat template and from `end`. The template is rendered around placeholders, and the
messages' texts are encoded apart from it, for the same reason.
"""

from collections.abc import Iterable, Sequence

import msgspec
import tokenizers
from transformers import PreTrainedTokenizerFast

from openledger.core.errors import InvalidInputError


class ChatMessage(msgspec.Struct, frozen=True):
    """One turn of a chat."""

    role: str  # system, user or assistant
    content: str


class Tokenizer:
    """The tokenizer of one base model; safe to share between threads."""

    def __init__(self, tokenizer_json: str, template: str, end_token: str) -> None:
        self._marked = tokenizers.Tokenizer.from_str(tokenizer_json)
        self._plain = tokenizers.Tokenizer.from_str(tokenizer_json)
        self._plain.encode_special_tokens = True
        end = self._marked.token_to_id(end_token)
        if end is None:
            raise InvalidInputError(f"the tokenizer has no end token {end_token!r}")
        self.end: int = end  # closes a document and a chat turn; generation stops at it
        self._template = template
        self._renderer = PreTrainedTokenizerFast(
            tokenizer_object=self._marked, eos_token=end_token, pad_token=end_token
        )
        added = self._marked.get_added_tokens_decoder()
        self.control: frozenset[int] = frozenset(i for i, t in added.items() if t.special)
        self._bytes = [self._token_bytes(i) for i in range(self._marked.get_vocab_size())]

    @property
    def size(self) -> int:
        """How many tokens there are: V."""
        return len(self._bytes)

    def encode(self, text: str) -> list[int]:
        """Token ids of a text; never a control token."""
        return list(self._plain.encode(text, add_special_tokens=False).ids)

    def encode_documents(self, texts: Sequence[str]) -> list[list[int]]:
        """Token ids of whole documents, each closed by the end token."""
        batch = self._plain.encode_batch(list(texts), add_special_tokens=False)
        return [[*one.ids, self.end] for one in batch]

    def encode_chat(self, messages: Sequence[ChatMessage]) -> list[int]:
        """Token ids of a chat in the base model's own template, ready for the assistant's turn.

        Raises:
            InvalidInputError: no message, or a template that refuses these roles.
        """
        if not messages:
            raise InvalidInputError("a chat needs at least one message")
        marks = [f"\ue000{i}\ue001" for i in range(len(messages))]
        turns = [{"role": m.role, "content": k} for m, k in zip(messages, marks, strict=True)]
        rest = self._render(turns)
        ids: list[int] = []
        for mark, message in zip(marks, messages, strict=True):
            before, found, rest = rest.partition(mark)
            if not found:
                raise InvalidInputError(f"the chat template has no place for a {message.role} turn")
            ids += self._encode_marked(before) + self.encode(message.content)
        return ids + self._encode_marked(rest)

    def encode_opening(self, messages: Sequence[ChatMessage]) -> list[int]:
        """Token ids of a chat as the opening of a document, for adapters trained on documents.

        The texts stand line after line, without roles, and the answer begins on a new line: so the
        header of a tune, sent as a user's message, is answered with the tune. The base's own chat
        template, which training never showed, would part the adapter from what it learnt.

        Raises:
            InvalidInputError: no message.
        """
        if not messages:
            raise InvalidInputError("a chat needs at least one message")
        return self.encode("".join(m.content.rstrip("\n") + "\n" for m in messages))

    def decode(self, ids: Iterable[int]) -> str:
        """Text of token ids, without control tokens; broken UTF-8 becomes U+FFFD."""
        return b"".join(map(self.token_bytes, ids)).decode("utf-8", "replace")

    def token_bytes(self, token: int) -> bytes:
        """The bytes a token stands for: none for a control token.

        Raises:
            InvalidInputError: there is no such token.
        """
        if not 0 <= token < len(self._bytes):
            raise InvalidInputError(f"token {token} is outside a vocabulary of {self.size}")
        return self._bytes[token]

    def _encode_marked(self, text: str) -> list[int]:
        return list(self._marked.encode(text, add_special_tokens=False).ids)

    def _render(self, turns: list[dict[str, str]]) -> str:
        return str(
            self._renderer.apply_chat_template(
                turns, chat_template=self._template, tokenize=False, add_generation_prompt=True
            )
        )

    def _token_bytes(self, token: int) -> bytes:
        if token in self.control:
            return b""
        name = self._marked.id_to_token(token)
        return b"" if name is None else bytes(_BYTE_OF[letter] for letter in name)


def byte_letters() -> dict[int, str]:
    """The printable letter that stands for each byte in a byte-level vocabulary.

    Source: `bytes_to_unicode` of GPT-2's encoder.
    """
    kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
    moved = [byte for byte in range(256) if byte not in kept]
    letters = {byte: chr(byte) for byte in kept}
    return letters | {byte: chr(256 + place) for place, byte in enumerate(moved)}


_BYTE_OF = {letter: byte for byte, letter in byte_letters().items()}
