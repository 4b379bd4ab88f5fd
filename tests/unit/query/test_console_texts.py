"""The texts of the console: complete in both languages, and none unused."""

from __future__ import annotations

import re

from local.services import ROOT
from tests.support.route_tables import apps

FOLDER = ROOT / "src" / "saldo" / "query" / "console"
# Keys that are put together: from a fault, a state or a range. A problem's key is its name.
MADE = re.compile(r"amount-|broken-|forbidden-|range-|chain-")


def texts() -> dict[str, dict[str, str]]:
    """Return the texts of text.js, by language and key."""
    source = (FOLDER / "text.js").read_text()
    return {
        name: dict(re.findall(r'^  "([a-z0-9-]+)": "(.*)",$', part, re.MULTILINE))
        for name, part in re.findall(
            r"^const (EN|PT) = \{\n(.*?)^\};", source, re.MULTILINE | re.DOTALL
        )
    }


def asked() -> set[str]:
    """Return the keys that the other modules use, or might use."""
    sources = [f.read_text() for f in FOLDER.glob("*.js") if f.name != "text.js"]
    return {key for source in sources for key in re.findall(r'"([a-z0-9-]+)"', source)}


def test_both_languages_have_the_same_texts() -> None:
    english, portuguese = texts()["EN"], texts()["PT"]
    assert len(english) > 100
    assert english.keys() == portuguese.keys()
    for key, text in english.items():
        places = sorted(re.findall(r"\{(\w+)\}", text))
        assert places == sorted(re.findall(r"\{(\w+)\}", portuguese[key])), key


def test_exactly_the_used_texts_exist() -> None:
    known = texts()["EN"].keys()
    sources = [f.read_text() for f in FOLDER.glob("*.js") if f.name != "text.js"]
    plain = {key for source in sources for key in re.findall(r'\bt\("([a-z0-9-]+)"', source)}
    assert plain <= known
    problems = {rule.name for app in apps() for rule in app.router.rules.values()}
    unused = {key for key in known - asked() - problems if not MADE.match(key)}
    assert unused == set()
