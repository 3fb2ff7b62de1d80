"""Titles folded so that the same work under two spellings has one key.

The key decides what is held out together: twins of a tune or an entry must not stand on both sides
of the split between training and evaluation.
"""

import re
import unicodedata

_ARTICLES = frozenset({"a", "an", "the", "le", "la", "les", "l", "un", "une"})
_POSSESSIVE = re.compile(r"['’`´]")
_NOT_A_LETTER = re.compile(r"[\W\d_]+")


def title_key(title: str) -> str:
    """Fold case, accents, articles, punctuation and numbers.

    A title with nothing left, such as a bare number, keeps its own characters.
    """
    decomposed = unicodedata.normalize("NFKD", title.casefold().replace("&", " and "))
    plain = "".join(char for char in decomposed if not unicodedata.combining(char))
    words = _NOT_A_LETTER.split(_POSSESSIVE.sub("", plain))
    kept = [word for word in words if word and word not in _ARTICLES]
    return " ".join(kept) or " ".join(title.casefold().split())
