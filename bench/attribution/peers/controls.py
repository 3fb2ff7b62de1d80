"""Scores that know nothing of the answer: what any method has to beat."""

import numpy as np

from bench.attribution.setting import Setting

_SEED = 20_261_122


def random(setting: Setting) -> np.ndarray:
    """(N, Q) normal deviates, the same in every run."""
    stream = np.random.Generator(np.random.Philox(key=_SEED))
    return stream.standard_normal((len(setting.documents), len(setting.queries)))


def document_size(setting: Setting) -> np.ndarray:
    """(N, Q) the document's tokens, for every query alike: more text trains more."""
    sizes = np.array([len(document.tokens) for document in setting.documents], dtype=np.float64)
    return np.repeat(sizes[:, None], len(setting.queries), axis=1)
