"""Whether a text may be shown to somebody who paid for an answer, by the licence it came under.

Only licences that let anyone pass the text on are listed, by their SPDX ids. A licence of a name of
its own (LicenseRef-...) is not: nobody read it.
"""

_OPEN = frozenset(
    {
        "0BSD",
        "Apache-2.0",
        "BSD-2-Clause",
        "BSD-3-Clause",
        "BSD-4-Clause-UC",
        "CC-BY-2.0",
        "CC-BY-2.5",
        "CC-BY-3.0",
        "CC-BY-4.0",
        "CC-BY-SA-2.0",
        "CC-BY-SA-2.5",
        "CC-BY-SA-3.0",
        "CC-BY-SA-4.0",
        "CC0-1.0",
        "GFDL-1.2-or-later",
        "GFDL-1.3-or-later",
        "GPL-1.0-or-later",
        "GPL-2.0-only",
        "GPL-2.0-or-later",
        "GPL-3.0-only",
        "GPL-3.0-or-later",
        "ISC",
        "LGPL-2.1-or-later",
        "LGPL-3.0-or-later",
        "Linux-man-pages-copyleft",
        "MIT",
        "PDDL-1.0",
        "Unlicense",
    }
)


def may_be_shown(licence: str) -> bool:
    """Of an OR any part, of an AND every part must let anyone pass the text on; no brackets."""
    return any(
        all(part.strip() in _OPEN for part in choice.split(" AND "))
        for choice in licence.split(" OR ")
    )
