"""Facts from a dictionary, an atlas and a table of elements. What they do not have is said to be missing: a question is
only answered where all of it is understood."""

import re
import textwrap
from collections.abc import Callable, Iterator
from typing import NamedTuple

from lib.answers import Answer, Note, Text
from lib.data import files
from lib.data.atlas import Atlas
from lib.data.dictionary import PARTS, Dictionary, Sense
from lib.faults import DataError

_PLAIN = frozenset(  # words around a subject that ask for nothing but what it is
    """a about an animal another are as can class could define definition describe did do does exactly explain for give
    had has have hello help hey hi i in is it it's kind know let like look mean meaning meant me more no noun of on or
    one person plain please plant say simple so something sort sorts stands stand tell term that the thing this to type
    understand up us verb want was what what's whats which who who's whose word words would you your adjective english
    dictionary encyclopedia entry info information bit anything quick question""".split()  # noqa: SIM905
)
_AROUND = _PLAIN | frozenset(  # and around one of its properties
    """actually and at be belong belongs biggest by called chemical chemistry cities city come comes country countries
    current currently day days element find found from go government located lie lies live lives living located many map
    modern money much name named nation national number official people periodic place present s seat situated state
    system table they there today total town use used uses value we where with world write written earth globe how
    elements i'd i'm it's lies nowadays needed need pay paid paying spend accepted spoken around close near next
    """.split()  # noqa: SIM905
) - {"near", "next", "close", "around"}
MEANINGS, LIKE = 3, 8  # senses and synonyms that are shown
LARGE = 200_000  # people of a city that is meant rather than another place of its name


class Books(NamedTuple):
    dictionary: Dictionary
    atlas: Atlas


class Missing(DataError):  # noqa: N818 (it is no fault of the data)
    """The books do not have it."""


def lookup(text: str, subject: str, books: Books) -> Iterator[Answer]:
    """What the books have of the subject that the request `text` asks for. Raises Missing, also where the request has
    words that are not understood: "population" and "population of wolves" are not the same."""
    words = rf"(?<!\w){re.escape(subject.lower())}(?!\w)" if subject else r"(?!)"
    asked = " ".join(re.sub(words, " {} ", text.lower(), count=1).split())
    left = lambda question: re.findall(r"[^\W_]+(?:'s)?", question.replace("{}", " "))  # noqa: E731
    for pattern, found in _PROPERTIES:
        if match := re.search(pattern, asked):
            line = found(subject, books)
            rest = asked[: match.start()] + asked[match.end() :] if match else asked
            if not line or "{}" not in asked or not _AROUND.issuperset(left(rest)):
                raise _missing(text)
            yield Text(line[0] + "\n")
            yield Note(line[1])
            return
    if "{}" not in asked or not (_PLAIN.issuperset(left(asked)) or re.fullmatch(_IS_IT, asked)):
        raise _missing(text)
    yield from _meaning(subject, books, text)


_IS_IT = r"(?:is|are|was|were) (?:an? |the )?\{\} (?:an?|the) \w+(?: \w+)?[ ?]*"


def _missing(text: str) -> Missing:
    return Missing(f"Not in what I have: {textwrap.shorten(files.printable(text), 80, placeholder=' ...')}")


def _meaning(subject: str, books: Books, text: str) -> Iterator[Answer]:
    word = re.sub(r"^(?:the|an?|to) ", "", subject, flags=re.IGNORECASE)
    senses = books.dictionary.senses(word)
    if senses:
        names = dict(zip(PARTS, ("noun", "verb", "adjective", "adverb"), strict=True))
        for i, sense in enumerate(senses[:MEANINGS], start=1):
            name = next((word for word in sense.words if word.lower() == sense.name), sense.name)
            yield Text(f"{i}. {name} ({names[sense.part]}): {sense.definition()}\n")
        yield Note("WordNet 3.1")
        return
    if country := books.atlas.country(subject):
        yield Text(f"{country.name}: a country in {country.continent}, capital {country.capital}\n")
        yield Note("GeoNames")
    elif city := books.atlas.city(subject):
        yield Text(f"{city.name}: a city in {city.country}, {city.population:,} people\n")
        yield Note("GeoNames")
    else:
        raise _missing(text)


Found = tuple[str, str] | None  # an answer and where it is from


def _capital(subject: str, books: Books) -> Found:
    country = books.atlas.country(subject)
    return (f"{country.capital} is the capital of {country.name}", "GeoNames") if country and country.capital else None


def _people(subject: str, books: Books) -> Found:
    country, city = books.atlas.country(subject), books.atlas.city(subject)
    if country:
        return f"{country.name}: {country.population:,} people", "GeoNames"
    return (f"{city.place()}: {city.population:,} people", "GeoNames") if city else None


def _currency(subject: str, books: Books) -> Found:
    country = books.atlas.country(subject)
    return (f"{country.name}: {country.currency}", "GeoNames") if country and country.currency else None


def _continent(subject: str, books: Books) -> Found:
    country = books.atlas.country(subject)
    city = books.atlas.city(subject)
    country = country or (books.atlas.country(city.country) if city else None)
    return (f"{subject} is in {country.continent}", "GeoNames") if country else None


def _neighbours(subject: str, books: Books) -> Found:
    country = books.atlas.country(subject)
    return (f"{country.name}: {', '.join(country.neighbours) or 'none by land'}", "GeoNames") if country else None


def _where(subject: str, books: Books) -> Found:
    if country := books.atlas.country(subject):
        beside = f"; its neighbours: {', '.join(country.neighbours)}" if country.neighbours else ""
        return f"{country.name} is in {country.continent}{beside}", "GeoNames"
    city = books.atlas.city(subject)
    senses = [x for x in books.dictionary.senses(re.sub("^the ", "", subject, flags=re.I)) if x.words[0][0].isupper()]
    if senses and (city is None or city.population < LARGE):  # Bali is also a town in Cameroon
        return f"{senses[0].words[0]}: {senses[0].definition()}", "WordNet 3.1"
    if city is None:
        return None
    country = books.atlas.country(city.country)
    return f"{city.name} is in {city.country}" + (f", {country.continent}" if country else ""), "GeoNames"


def _country(subject: str, books: Books) -> Found:
    city = books.atlas.city(subject)
    return (f"{city.name} is in {city.country}", "GeoNames") if city else None


def _zone(subject: str, books: Books) -> Found:
    zones = books.atlas.zones(subject)
    return ("; ".join(f"{name}: {zone}" for name, zone in zones.items()), "GeoNames") if zones else None


def _element(subject: str, books: Books) -> tuple[Sense, str, str] | None:
    """(sense, symbol, number) of an element by its name, its symbol or its atomic number."""
    word = f"atomic number {subject}" if subject.isdigit() else subject
    for sense in books.dictionary.senses(word):
        number = next((x.rpartition(" ")[2] for x in sense.words if x.startswith("atomic number ")), "")
        symbol = next((x for x in sense.words if re.fullmatch("[A-Z][a-z]?", x)), "")
        if number and (subject.isdigit() or len(subject) > 2 or symbol.lower() == subject.lower()):
            return sense, symbol, number
    return None


def _number(subject: str, books: Books) -> Found:
    found = _element(subject, books)
    return (f"{found[0].words[0]} has the atomic number {found[2]}", "WordNet 3.1") if found else None


def _symbol(subject: str, books: Books) -> Found:
    found = _element(subject, books)
    if not found:
        return None
    return f"{found[0].words[0]} has the symbol {found[1]} and the atomic number {found[2]}", "WordNet 3.1"


def _mass(subject: str, books: Books) -> Found:
    found = _element(subject, books)
    if not found:
        return None
    import periodictable  # a second, which nothing else should wait for

    number = int(found[2])
    if number >= len(list(periodictable.elements)):
        return None
    element = periodictable.elements[number]
    return f"{element.name} has an atomic weight of {element.mass:.7g} u", "periodictable"


def _same(subject: str, books: Books) -> Found:
    senses = books.dictionary.senses(re.sub(r"^(?:the|an?|to) ", "", subject))
    words = dict.fromkeys(word for sense in senses for word in (*sense.words, *sense.alike))
    others = [word for word in words if word.lower() != subject.lower()]
    return (", ".join(others[:LIKE]), "WordNet 3.1") if others else None


_PROPERTIES: list[tuple[str, Callable[[str, Books], Found]]] = [
    (r"\bcapital\b(?: city)?|seat of government", _capital),
    (r"\bpopulation\b|inhabitants|how many (?:people|persons|humans) (?:live|are there)", _people),
    (r"\bcurrency\b|(?:what|which) money|kind of money|what do (?:people|they) pay with", _currency),
    (r"\bcontinent\b", _continent),
    (r"neighbou?rs|neighbou?ring(?: countries)?|(?:countries|states) border|borders?(?: with)? \{\}", _neighbours),
    (r"time ?zone", _zone),
    (r"(?:which|what|whose) (?:country|state|nation)\b", _country),
    (r"atomic number|how many protons|protons", _number),
    (
        r"atomic (?:weight|mass)|molar mass|how heavy is an? (?:\w+ )?atom|(?:weight|mass) of an? (?:\w+ )?atom"
        r"|(?:how much )?does an? (?:\{\} )?atom weigh",
        _mass,
    ),
    (r"\bsymbol\b|stands? for in (?:chemistry|the periodic)|\{\} stand for in", _symbol),
    (r"(?:which|what) element|element (?:is )?number", _symbol),
    (r"synonyms?|another word|other words? for|same meaning|similar (?:word|meaning)s?|means the same", _same),
    (
        r"where(?: is|'s| are| exactly is| in the world is| on earth is| would i find| can i find)? (?:the )?\{\}",
        _where,
    ),
]
