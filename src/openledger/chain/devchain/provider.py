"""The embedded chain as a web3.py provider: no socket, no JSON text.

Import this only where web3.py is wanted; it takes two seconds to import. Our own client needs
nothing but `make_request`, which `DirectProvider` has as well.
"""

import itertools
from typing import Any, cast

from web3.providers.base import JSONBaseProvider
from web3.types import RPCEndpoint, RPCResponse

from openledger.chain.devchain.node import DevChain
from openledger.chain.devchain.rpc import handle


class DevChainProvider(JSONBaseProvider):
    """`Web3(DevChainProvider(chain))` talks to a chain in this process."""

    def __init__(self, chain: DevChain) -> None:
        super().__init__()
        self._chain = chain
        self._ids = itertools.count(1)

    def make_request(self, method: RPCEndpoint, params: Any) -> RPCResponse:  # noqa: ANN401 - web3's
        request = {"id": next(self._ids), "method": method, "params": params}
        return cast(RPCResponse, handle(self._chain, request))

    def is_connected(self, show_traceback: bool = False) -> bool:  # noqa: ARG002 - web3's signature
        return True
