"""Words and noun phrases in English and French: tables, inflection by pyrealb, pronouns, elision and contraction."""

import random
import re
from functools import cache
from importlib import resources
from typing import NamedTuple

from pyrealb import NO, A, N, V, addToLexicon, getLemma, loadEn, loadFr

Rows = list[list[str]]
UNCOUNTED, PLURAL_ONLY, KNOWN = "~", "^", "_"  # the marks of nouns
MARKS = UNCOUNTED + PLURAL_ONLY + KNOWN


class Context(NamedTuple):
    """What a sentence is drawn with: a random source and the person of "you" (2 tu, 5 vous)."""

    rng: random.Random
    you: int


class Phrase(NamedTuple):
    """Words in both languages, and what other words have to agree with."""

    en: str
    fr: str
    person: int = 3  # 1 I, 2 tu, 3 he, 4 we, 5 vous, 6 they
    gender: str = "m"
    kind: str = ""  # list of nouns that it is from, "" for other people
    is_pronoun: bool = False


class Noun(NamedTuple):
    en: str
    fr: str
    mark: str


class Determiner(NamedTuple):
    en: str
    en_plural: str
    masculine: str
    feminine: str
    plural: str


class Pronoun(NamedTuple):
    """For instance I, me, my, je, me, me, moi, "mon ma mes"."""

    en: str
    en_object: str
    en_possessive: str
    subject: str
    direct: str
    indirect: str
    strong: str
    possessives: str


def read_tables() -> dict[str, dict[str, Rows]]:
    """`{section: {list: rows}}` of everyday.txt, whose head says how it is written; rows outside lists are in "all"."""
    tables: dict[str, dict[str, Rows]] = {}
    for line in resources.files("lib.data.french").joinpath("everyday.txt").read_text(encoding="utf-8").splitlines():
        if not line or line.startswith("#"):
            continue
        if line.startswith("["):
            section, name = tables.setdefault(line.strip("[]"), {}), "all"
            continue
        if head := re.match(r"(\w+):", line):
            name, line = head[1], line[head.end() :]
        rows = section.setdefault(name, [])
        if "|" in line:
            rows.append([cell.strip() for cell in line.split("|")])
        elif line:
            pairs = [pair.partition("=") for pair in line.strip(" ,").split(", ")]
            rows += [[en, fr or en.lstrip(MARKS)] for en, _, fr in pairs]
    return tables


TABLES = read_tables()
NOUNS = {
    kind: [Noun(en.lstrip(MARKS), fr, en[0] if en[0] in MARKS else "") for en, fr in rows]
    for kind, rows in TABLES["nouns"].items()
}
ADJECTIVES = {
    kind: [(en, fr) for en, fr, kinds in TABLES["adjectives"]["all"] if kind in kinds.split()] for kind in NOUNS
}
DETERMINERS = {name: Determiner(*rows[0]) for name, rows in TABLES["determiners"].items()}
PRONOUNS = {name: Pronoun(*rows[0]) for name, rows in TABLES["pronouns"].items()}
QUANTITIES, PHRASES = TABLES["quantities"], TABLES["phrases"]
PEOPLE = ("", "kin", "role")  # kinds of phrases that are he or she
VOWEL = r"(?!huit|onze|haut|oui)[aeiouyhàâéèêëîïôûœ]"  # begins a word before which others are elided
ELIDE = re.compile(rf"(?<![\w'-])([jdnmtscl]e|la|que|si(?= il)) (?={VOWEL})", re.I)
BEFORE_VOWEL: dict[str, str] = dict(TABLES["vowels"]["all"])
addToLexicon("pull", {"N": {"g": "m", "tab": "n3"}}, "fr")


@cache
def en_form(word: str, form: str) -> str:
    """An English form: of a verb b base, s third person, d past, n participle, g -ing; of a noun its plural, "p"."""
    loadEn()
    if form == "p":
        first, _, last = word.rpartition(" ")
        return f"{first} {N(last).n('p').realize()}".strip()
    tense = {"b": "b", "s": "p", "d": "ps", "n": "pp", "g": "pr"}[form]
    return V(word).t(tense).pe(3).realize().replace("travell", "travel")


@cache
def fr_verb(verb: str, tense: str, person: int = 3) -> str:
    """A French verb in a tense of pyrealb (b infinitive, pp participle, ip imperative), without its "se"."""
    loadFr()
    form = V(verb).t(tense).pe((person - 1) % 3 + 1).n("s" if person < 4 else "p")
    return form.realize().split(" ")[-1]


@cache
def fr_noun(noun: str, plural: bool) -> tuple[str, str]:
    """A French noun in the number asked for (its first word varies), and its gender (m where it has both)."""
    loadFr()
    first, _, more = noun.replace("œ", "oe").partition(" ")  # pyrealb writes oe
    form = N(first).n("p").realize() if plural else first
    gender = (getLemma(first, "fr") or {})["N"]["g"]
    return f"{form} {more}".strip().replace("oe", "œ"), "f" if gender == "f" else "m"


@cache
def fr_adjective(word: str, gender: str, plural: bool) -> tuple[str, bool]:
    """A French adjective agreed, and whether it stands before its noun."""
    loadFr()
    return A(word).g(gender).n("p" if plural else "s").realize(), A(word).getProp("pos") == "pre" or word == "long"


@cache
def number(n: int) -> Phrase:
    """A number in words."""
    loadEn()
    en = NO(n).nat().realize()
    loadFr()
    return Phrase(en, NO(n).nat().realize())


def elide(fr: str) -> str:
    """French text in single spaces, with je, le, la, que ... elided."""
    return ELIDE.sub(lambda m: m[1][:-1] + "'", re.sub(" +", " ", fr))


def joined(preposition: str, fr: str) -> str:
    """A French preposition (or none) and a phrase: au, aux, du, des, and no partitive after de."""
    if preposition == "de":
        fr = re.sub(r"^(?:des |du |de la |de l'|de )", "", fr)
    text = f"{preposition} {fr}"
    for long, short in (("à le ", "au "), ("à les ", "aux "), ("de le ", "du "), ("de les ", "des ")):
        text = re.sub("^" + long, short, text)
    return text.strip()


def pro(phrase: Phrase) -> Pronoun:
    """The pronouns that a phrase may be replaced by."""
    if phrase.person == 3:
        if phrase.kind in PEOPLE:
            return PRONOUNS["she" if phrase.gender == "f" else "he"]
        return PRONOUNS["it_" + phrase.gender]
    if phrase.person == 6:
        return PRONOUNS["they_" + phrase.gender]
    return PRONOUNS[{1: "I", 2: "tu", 4: "we", 5: "vous"}[phrase.person]]


def pronoun(phrase: Phrase) -> Phrase:
    """The subject pronoun that stands for a phrase."""
    return phrase._replace(en=pro(phrase).en, fr=pro(phrase).subject, is_pronoun=True)


def strong(phrase: Phrase) -> tuple[str, str]:
    """A phrase as an object or after a preposition, English and French, where its pronoun is him, lui."""
    return (pro(phrase).en_object, pro(phrase).strong) if phrase.is_pronoun else (phrase.en, phrase.fr)


def human(ctx: Context, pronouns: float, avoid: Phrase | None = None) -> Phrase:
    """People: with probability `pronouns` a pronoun (of another person than `avoid`), else a name, relatives or
    others."""
    rng = ctx.rng
    if rng.random() < pronouns:
        people = [1, 1, ctx.you, 3, 3, 4, 6]
        if avoid:  # "I see me", "we see me" are not said; "he sees him" is
            people = [p for p in people if p in (3, 6) or (p - avoid.person) % 3]
        person = rng.choice(people)
        feminine = {3: 0.5, 6: 0 if avoid else 0.12}.get(person, 0)
        return pronoun(Phrase("", "", person, "f" if rng.random() < feminine else "m"))
    kind = rng.choice(("NAME", "NAME", "kin", "kin", "role"))
    if kind == "NAME":
        en, fr, gender = rng.choice(PHRASES["NAME"])
        return Phrase(en, fr, gender=gender)
    return noun_phrase(ctx, kind, "own" if kind == "kin" else rng.choice(("the", "the", "this", "that", "a")))


def noun_phrase(
    ctx: Context, kind: str, det: str | Phrase, plural: bool | None = None, adjective: float = 0.18
) -> Phrase:
    """A noun of a list, drawn, with a determiner and perhaps an adjective.

    `det`: one of DETERMINERS or QUANTITIES, "q" for any quantity, the owner, or "own" for any owner. `plural`: True
    or False where the noun has both numbers, None draws one. `adjective`: how probable one is.
    """
    rng = ctx.rng
    if det == "own":  # mostly mine
        det = Phrase("", "", rng.choice((1, 1, 1, 1, ctx.you, 3, 3, 4)), rng.choice("mf"))
    noun = rng.choice([n for n in NOUNS[kind] if plural is not False or n.mark != PLURAL_ONLY])
    if noun.mark:
        plural = noun.mark == PLURAL_ONLY
    elif plural is None:
        plural = rng.random() < 0.22
    if det == "q":
        plural = noun.mark in ("", PLURAL_ONLY)
        vessel = {"drink": "GLASS", "hot": "CUP"}.get(kind, "MUCH")
        det = "MANY" if plural else vessel if rng.random() < 0.6 else "MUCH"
    forms = determiner(ctx, "some" if det == "a" and noun.mark == UNCOUNTED else det)
    en = en_form(noun.en, "p") if plural else noun.en
    fr, gender = fr_noun(noun.fr, plural)
    article = forms.plural if plural else forms.feminine if gender == "f" else forms.masculine
    if ADJECTIVES[kind] and rng.random() < adjective:
        en_adjective, lemma = rng.choice(ADJECTIVES[kind])
        agreed, before = fr_adjective(lemma, gender, plural)
        if re.match(VOWEL, fr) and not (plural and agreed == "vieux"):
            agreed = BEFORE_VOWEL.get(agreed, agreed)
        if before and article == "des":
            article = "de"
        en, fr = f"{en_adjective} {en}", f"{agreed} {fr}" if before else f"{fr} {agreed}"
    if re.match(VOWEL, fr):
        article = BEFORE_VOWEL.get(article, article)
    fr = re.sub("^de le ", "du ", elide(f"{article} {fr}"))
    en = f"{forms.en_plural if plural else forms.en} {en}"
    return Phrase(en.strip(), fr.strip(), 6 if plural else 3, gender, kind)


def determiner(ctx: Context, det: str | Phrase) -> Determiner:
    """The forms of a determiner, of a quantity drawn from its list, or of the possessive of an owner."""
    if isinstance(det, Phrase):
        owner = pro(det)
        return Determiner(owner.en_possessive, owner.en_possessive, *owner.possessives.split(" "))
    if det in QUANTITIES:
        en, fr = ctx.rng.choice(QUANTITIES[det])
        return Determiner(en, en, fr, fr, fr)
    return DETERMINERS[det]
