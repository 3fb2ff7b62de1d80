"""Text to token ids and back, so that no text can smuggle in a control token.

`encode` treats "<|im_end|>" in a text as seven ordinary characters or so: control tokens come only
from the chat template and from `end`. The template is rendered around placeholders, and the
messages' texts are encoded apart from it, for the same reason.
"""

import re
from collections.abc import Iterable, Sequence
from itertools import takewhile

import msgspec
import tokenizers
from tokenizers import normalizers
from tokenizers.models import BPE
from transformers import PreTrainedTokenizerFast

from openledger.core.errors import InvalidInputError


class ChatMessage(msgspec.Struct, frozen=True):
    """One turn of a chat."""

    role: str  # system, user or assistant
    content: str


class Tokenizer:
    """The tokenizer of one base model; safe to share between threads."""

    def __init__(
        self,
        tokenizer_json: str,
        template: str,
        end_token: str,
        begin_token: str | None = None,
        vocabulary: int = 0,
    ) -> None:
        """Set it up.

        Args:
            tokenizer_json: as the library `tokenizers` writes it.
            template: Jinja, run in the sandbox of transformers.
            end_token: closes documents and turns.
            begin_token: what the template calls `bos_token`.
            vocabulary: how many tokens the model knows, where they are more: the others are empty.

        Raises:
            InvalidInputError: there is no such end token, or tokens are not made of bytes.
        """
        self._marked = _exact(tokenizers.Tokenizer.from_str(tokenizer_json))
        self._plain = _exact(tokenizers.Tokenizer.from_str(tokenizer_json))
        self._plain.encode_special_tokens = True
        end = self._marked.token_to_id(end_token)
        if end is None:
            raise InvalidInputError(f"the tokenizer has no end token {end_token!r}")
        self.end: int = end  # closes a document and a chat turn; generation stops at it
        # What this base saw before every text: nothing for most, one token for Llama and Mistral.
        before = self._marked.encode("", add_special_tokens=True).ids
        self.begin: tuple[int, ...] = tuple(takewhile(lambda token: token != end, before))
        self._template = template
        self._renderer = PreTrainedTokenizerFast(
            tokenizer_object=self._marked,
            eos_token=end_token,
            pad_token=end_token,
            bos_token=begin_token,
        )
        self._falls_back = _falls_back(self._marked)
        added = self._marked.get_added_tokens_decoder()
        self.control: frozenset[int] = frozenset(i for i, t in added.items() if t.special)
        self._added = {i: token.content for i, token in added.items()}
        size = max(vocabulary, max(self._marked.get_vocab().values()) + 1)
        self._bytes = [self._token_bytes(i) for i in range(size)]

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
        return [[*self.begin, *one.ids, self.end] for one in batch]

    def encode_start(self, text: str) -> list[int]:
        """Token ids of the beginning of a document."""
        return [*self.begin, *self.encode(text)]

    def encode_chat(self, messages: Sequence[ChatMessage]) -> list[int]:
        """Token ids of a chat in the base model's own template, ready for the assistant's turn.

        Raises:
            InvalidInputError: no message, or a template that refuses these roles.
        """
        if not messages:
            raise InvalidInputError("a chat needs at least one message")
        turns = [{"role": m.role, "content": f"\ue000{i}\ue001"} for i, m in enumerate(messages)]
        # Some templates move turns: a system's text into the last of the user, for example.
        pieces = _MARK.split(self._render(turns))
        places = [int(place) for place in pieces[1::2]]
        for place, message in enumerate(messages):
            if place not in places or max(places) >= len(messages):
                raise InvalidInputError(f"the chat template has no place for a {message.role} turn")
        ids = self._encode_marked(pieces[0])
        for place, after in zip(places, pieces[2::2], strict=True):
            ids += self.encode(messages[place].content) + self._encode_marked(after)
        return ids

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
        return self.encode_start("".join(m.content.rstrip("\n") + "\n" for m in messages))

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
        try:
            return str(
                self._renderer.apply_chat_template(
                    turns, chat_template=self._template, tokenize=False, add_generation_prompt=True
                )
            )
        except Exception as error:
            # A template is a program of its own, and may fail in any way.
            raise InvalidInputError(f"the chat template refuses these turns: {error}") from error

    def _token_bytes(self, token: int) -> bytes:
        if token in self.control:
            return b""
        if token in self._added:
            return self._added[token].encode()
        name = self._marked.id_to_token(token)
        if name is None:
            return b""
        if self._falls_back:
            byte = _BYTE.fullmatch(name)
            return name.replace(_SPACE, " ").encode() if byte is None else bytes.fromhex(byte[1])
        try:
            return bytes(_BYTE_OF[letter] for letter in name)
        except KeyError as error:
            raise InvalidInputError(
                f"token {token} of the tokenizer, {name!r}, is not made of bytes: take a "
                "byte-level vocabulary, or one that falls back to bytes"
            ) from error


def _exact(tokenizer: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    """Keep a vocabulary of SentencePiece (Llama 2, Mistral 7B) from putting a space before texts.

    A message's text stands between others, and what was encoded must come out again.
    """
    if _falls_back(tokenizer):
        tokenizer.normalizer = normalizers.Replace(" ", _SPACE)
        tokenizer.pre_tokenizer = None
    return tokenizer


def _falls_back(tokenizer: tokenizers.Tokenizer) -> bool:
    """Whether what no token stands for is written byte by byte, as SentencePiece does."""
    return isinstance(tokenizer.model, BPE) and bool(tokenizer.model.byte_fallback)


def byte_letters() -> dict[int, str]:
    """The printable letter that stands for each byte in a byte-level vocabulary.

    Source: `bytes_to_unicode` of GPT-2's encoder.
    """
    kept = [*range(33, 127), *range(161, 173), *range(174, 256)]
    moved = [byte for byte in range(256) if byte not in kept]
    letters = {byte: chr(byte) for byte in kept}
    return letters | {byte: chr(256 + place) for place, byte in enumerate(moved)}


_SPACE = "\u2581"
_BYTE = re.compile("<0x([0-9A-F]{2})>")
_MARK = re.compile("\ue000([0-9]{1,9})\ue001")
_BYTE_OF = {letter: byte for byte, letter in byte_letters().items()}
