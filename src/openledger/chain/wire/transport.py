"""How a request reaches a node, whatever the node is."""

from collections.abc import Sequence
from typing import Any, Protocol

import httpx

from openledger.core.encoding import parse_json
from openledger.core.errors import ChainRejectedError, ChainUnavailableError, InvalidInputError

_LARGEST_ANSWER_BYTES = 64 << 20  # far above the logs of one range


class Transport(Protocol):
    """Any web3.py provider fits, and so does the embedded chain without web3.py."""

    def make_request(self, method: Any, params: Any) -> Any:  # noqa: ANN401 - as web3.py has it
        """Return the JSON-RPC answer, or raise ChainUnavailableError or OSError."""
        ...


class HttpTransport:
    """A node behind a URL."""

    def __init__(
        self, url: str, timeout_s: float, largest_bytes: int = _LARGEST_ANSWER_BYTES
    ) -> None:
        self._url = url
        self._largest_bytes = largest_bytes
        self._http = httpx.Client(timeout=timeout_s)

    def make_request(self, method: str, params: Sequence[object]) -> dict[str, Any]:
        """Ask the node.

        Raises:
            ChainUnavailableError: there is no JSON-RPC answer.
            ChainRejectedError: the answer is larger than anyone should read; ask for less.
        """
        body = {"jsonrpc": "2.0", "id": 1, "method": method, "params": params}
        try:
            with self._http.stream("POST", self._url, json=body) as answer:
                found = parse_json(self._read(answer))
        except (httpx.HTTPError, InvalidInputError) as error:
            raise ChainUnavailableError(
                f"the node at {self._url} does not answer: {error}"
            ) from error
        if not isinstance(found, dict) or answer.status_code >= 500 or answer.status_code == 429:
            message = f"the node at {self._url} answers {answer.status_code}; try again later"
            raise ChainUnavailableError(message)
        return found

    def close(self) -> None:
        self._http.close()

    def _read(self, answer: httpx.Response) -> bytes:
        found = bytearray()
        for piece in answer.iter_bytes():
            found += piece
            if len(found) > self._largest_bytes:
                reason = f"its answer has more than {self._largest_bytes} bytes; ask for less"
                raise ChainRejectedError(
                    f"the node at {self._url} was left: {reason}", kind="node", reason=reason
                )
        return bytes(found)
