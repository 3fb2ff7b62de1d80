"""Every field of a JSON document, altered one at a time."""

from collections.abc import Iterator
from typing import Any

import msgspec
import rfc8785


def altered_fields(raw: bytes) -> Iterator[tuple[str, bytes]]:
    """The document with one field altered, in canonical form, and which field it is."""
    document = msgspec.json.decode(raw)
    for path, value in _leaves(document, ()):
        for other in _others(value):
            changed = msgspec.json.decode(raw)
            holder = changed
            for step in path[:-1]:
                holder = holder[step]
            holder[path[-1]] = other
            yield ".".join(map(str, path)), rfc8785.dumps(changed)


def _leaves(value: Any, path: tuple[Any, ...]) -> Iterator[tuple[tuple[Any, ...], Any]]:  # noqa: ANN401 - any JSON
    if path:
        yield path, value
    if isinstance(value, dict):
        for name, inner in value.items():
            yield from _leaves(inner, (*path, name))
    if isinstance(value, list):
        for place, inner in enumerate(value):
            yield from _leaves(inner, (*path, place))


def _others(value: Any) -> list[Any]:  # noqa: ANN401 - any JSON
    if isinstance(value, str):
        # A letter that fits: hex stays hex, base64 stays base64, digits stay digits.
        middle = len(value) // 2
        letter = "1" if value[middle : middle + 1] != "1" else "2"
        return [value[:middle] + letter + value[middle + 1 :]]
    if isinstance(value, list):
        return [value[:-1], [*value, value[-1]]] if value else []
    if value is None or isinstance(value, bool):
        return [not value]
    return [value + 1] if isinstance(value, int) else []
