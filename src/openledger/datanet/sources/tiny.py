"""A dozen short tunes written for this project, for tests and the tiny demonstration.

The contributors are numbered, not named: nobody is invented. Their shares are unequal.
"""

from openledger.datanet.extract import Document
from openledger.datanet.rules import Rules
from openledger.datanet.sources.contributors import SourceContributor
from openledger.datanet.text.titles import title_key

LICENCE = "CC0-1.0"
RULES = Rules(
    name="tiny-tunes",
    description="A dozen short tunes that try out every step in seconds.",
    licences=(LICENCE,),
)


def contributors() -> tuple[SourceContributor, ...]:
    """The four contributors of the sample, most tunes first."""
    return tuple(
        SourceContributor(
            name, tuple(_document(name, number, tune) for number, tune in enumerate(tunes, start=1))
        )
        for name, tunes in _TUNES
    )


_TUNES = (
    (
        "Contributor One",
        (
            "X:1\nT:The Open Window\nM:4/4\nL:1/8\nK:G\n"
            "G2BG dGBG|A2cA eAcA|G2BG dGBd|cAFA G4:|\ng2fe d2cB|c2ed cBAG|F2AF DFAc|BGAF G4:|",
            "X:1\nT:Rain at the Station\nM:6/8\nL:1/8\nK:D\n"
            "DFA dAF|GBd gdB|AFA dcB|AGF E3|DFA dAF|GBd gdB|AFd ECE|D3 D3:|",
            "X:1\nT:Early Bread\nM:3/4\nL:1/4\nK:C\nCEG|c2B|ABc|G3|FAc|e2d|cBd|c3|GcE|F2A|DGB|c3|]",
            "X:1\nT:The Long Queue\nM:2/4\nL:1/16\nK:A\n"
            "A2cA e2cA|B2dB f2dB|c2ec a2ec|B2G2 A4:|\ne2ae c2ec|d2fd B2dB|c2Ac E2Gc|B2G2 A4:|",
            "X:1\nT:Lamp Oil\nM:6/8\nL:1/8\nK:Em\n"
            "E2G B2e|dBA GFE|D2F A2d|cAF EDB,|E2G B2e|dBe g2e|fed BAF|E3 E3|]",
        ),
    ),
    (
        "Contributor Two",
        (
            "X:1\nT:Seven Steps Down\nM:4/4\nL:1/8\nK:Dm\n"
            "d2cA F2GA|_BAGF E2CE|D2FA d2ef|ecAc d4:|\nf2ed c2AF|G2_BG E2CE|F2dc AGFE|D2D2 D4:|",
            "X:1\nT:Borrowed Boots\nM:9/8\nL:1/8\nK:G\n"
            "GBd gdB GAB|ceg ecA FGA|GBd gfe dcB|AFD DEF G3:|",
            "X:1\nT:A Coat for Anyone\nM:3/4\nL:1/8\nK:F\n"
            "F2A2c2|f3edc|d2B2G2|c6|A2c2f2|g3fed|c2e2g2|f6|]",
            "X:1\nT:Salt on the Sill\nM:2/2\nL:1/8\nK:A minor\n"
            "A2eA cAeA|B2gB dBgB|c2ac ecac|BAGB A4:|\na2ge a2ge|f2dA f2dA|e2cA E2GB|A2A2 A4:|",
        ),
    ),
    (
        "Contributor Three",
        (
            "X:1\nT:The Patient Ferry\nM:6/8\nL:1/8\nK:A\n"
            "c2e a2e|f2d B2G|A2c e2c|d3 B3|c2e a2g|fed cBA|E2G BGE|A3 A3:|",
            "X:1\nT:Chalk and String\nM:4/4\nL:1/4\nK:G\nDGBG|AcBA|GBdB|A2D2|EGcG|FADF|GEAF|G4|]",
        ),
    ),
    (
        "Contributor Four",
        ("X:1\nT:Half a Map\nM:3/8\nL:1/16\nK:D\nA2d2f2|a4f2|g2e2c2|d6|B2g2B2|A2f2A2|G2E2C2|D6:|",),
    ),
)


def _document(name: str, number: int, tune: str) -> Document:
    title = next(line[2:] for line in tune.splitlines() if line.startswith("T:"))
    origin = f"{name.lower().replace(' ', '-')}#{number}"
    return Document(title, tune, LICENCE, title_key(title), origin, name)
