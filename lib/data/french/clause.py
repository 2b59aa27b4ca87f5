"""A clause that is planned but not yet in words, and how to say it in English and in French.

pyrealb only inflects words: order, negation, clitics and agreement are done here, which is much faster and covers what
it gets wrong.
"""

import re
from typing import NamedTuple

from pyrealb import getLemma

from lib.data.french.forms import KNOWN, NOUNS, PEOPLE, TABLES, Phrase, en_form, fr_verb, joined, pro, strong


class Verb(NamedTuple):
    """For instance wash one's hands, "se laver les mains", or think about, "penser à"."""

    en: list[str]
    reflexive: bool
    fr: str  # the word that is inflected
    fr_more: list[str]
    preposition: str  # French, before the object
    complements: list[str]  # [""] where it takes none
    flags: list[str]


class Tense(NamedTuple):
    """The words before the verb and the form, by language; kind of time adverbs; flags barred; weight."""

    en: list[str]
    fr: list[str]
    time: str
    barred: set[str]
    weight: int


class Clause(NamedTuple):
    subject: Phrase
    verb: Verb
    tense: str
    negation: str  # "" or not, never, no longer, anymore, yet, nothing, nobody
    object: Phrase | None
    recipient: Phrase | None
    gap: Phrase | None  # what a question or a relative clause took out of it
    middle: Phrase = Phrase("", "")  # the adverbs inside it
    end: Phrase = Phrase("", "")  # and those that end it

    @property
    def negative(self) -> bool:
        return bool(self.negation) or self.subject.fr == "personne"


def read_verb(en: str, fr: str, complements: str = "", flags: str = "") -> Verb:
    """The cells of a row of the verbs."""
    words = fr.split(" ")
    reflexive = words[0] == "se"
    preposition = words[-1] if words[-1] in ("à", "de", "avec") else ""
    head, *more = words[reflexive : len(words) - bool(preposition)]
    return Verb(en.split(" "), reflexive, head, more, preposition, complements.split(" "), flags.split())


def read_tense(en: str, fr: str, time: str, barred: str, weight: str) -> Tense:
    """The cells of a row of the tenses."""
    return Tense(en.split(" "), fr.split(" "), time, set(barred.split()), int(weight))


VERBS = {name: [read_verb(*row) for row in rows] for name, rows in TABLES["verbs"].items()}
VERBS["act"] = [verb for name in ("do", "people", "dative", "intr", "motion") for verb in VERBS[name]]
for _verb in [verb for verbs in VERBS.values() for verb in verbs]:
    VERBS.setdefault("_".join(_verb.en), [_verb])  # to be found by its name
TENSES = {name: read_tense(*rows[0]) for name, rows in TABLES["tenses"].items()}
AUXILIARIES = {name: rows[0] for name, rows in TABLES["auxiliaries"].items()}
EN_NEGATED: dict[str, str] = dict(TABLES["negation"]["english"])
FR_NEGATION: dict[str, str] = dict(TABLES["negation"]["french"])
COMPOUND = {"pc": "p", "pq": "i", "cp": "c"}  # tenses with a participle, and the tense of its auxiliary
INDEFINITE = re.compile(r"^(?:une? (?!peu)|des |du |de la |de l')")  # becomes "de" after a negation


def can_ask(verb: Verb, complement: str, gap: str) -> bool:
    """Whether a question or relative clause with this `gap` (see the rows) can take a complement out of its clause."""
    if gap == "who":
        return complement == "person"
    if gap and (complement not in NOUNS or (gap == "the" and verb.preposition)):
        return False
    return not (gap == "howmany" and NOUNS[complement][0].mark == KNOWN)


def english(c: Clause, how: str = "") -> str:
    """A clause in English, where "+" marks what may be contracted.

    `how`: "" statement, y yes-no or q other question, i imperative, b base, g -ing, t and s with "to" (s keeps the
    subject before it).
    """
    if how in ("i", "b", "g", "t", "s", "n"):
        return english_infinite(c, how)
    head = c.verb.en[0]
    aux, *between, form = TENSES[c.tense].en
    words = [*between, en_form(head, form)]
    if words == ["be"] and aux in ("do", "did"):  # be is its own auxiliary
        aux, words = {"do": "be", "did": "was"}[aux], []
    if aux in AUXILIARIES:
        aux = AUXILIARIES[aux][c.subject.person - 1]
    by_not = c.negation not in ("", "never", "no longer")
    if aux in ("do", "does", "did") and not how and not by_not:  # "he does eat" is "he eats"
        words[0] = en_form(words[0], {"do": "b", "does": "s", "did": "d"}[aux])
        aux = ""
    adverb = c.middle.en if by_not or not c.negation else c.negation
    words = [adverb, *words, *english_rest(c, how)]
    if how:
        inverted = EN_NEGATED.get(aux, aux + "n't") if by_not else "+" + aux
        return " ".join([inverted, c.subject.en, *words])
    return " ".join([c.subject.en, "+" + aux if aux else "", "+not" if by_not else "", *words])


def english_infinite(c: Clause, how: str) -> str:
    """An English clause without a finite verb: imperative, infinitive or -ing form."""
    lead, negation, to = "", "not", ""
    if how == "i" and c.subject.person == 4:
        lead = "let's"
    elif how == "i":
        negation = "+do +not"
    elif how == "s":
        lead = strong(c.subject)[0]
    if how in ("t", "s"):
        to = "to"
    verb = en_form(c.verb.en[0], "g" if how == "g" else "b")
    return " ".join([lead, negation if c.negation else "", to, verb, *english_rest(c, how)])


def english_rest(c: Clause, how: str) -> list[str]:
    """What follows an English verb: its other words, particle, object, recipient, adverbs."""
    words = [pro(c.subject).en_possessive if word == "one's" else word for word in c.verb.en[1:]]
    rest = [word for word in words if word[0] != "~"]
    particle = [word[1:] for word in words if word[0] == "~"]
    short = c.object and c.object.is_pronoun
    if c.object:
        obj = strong(c.object)[0]
        if c.negative or how == "y":
            obj = re.sub("^some ", "any ", obj)
        particle.insert(0 if short else len(particle), obj)  # take it off, take off the coat
    rest += particle
    if c.recipient:
        to = strong(c.recipient)[0]
        if c.recipient.is_pronoun and c.object and not short and "to" not in c.verb.flags:
            rest.insert(-1, to)  # give him the book
        else:
            rest += ["to", to]
    return [*rest, c.end.en, c.negation if c.negation in ("yet", "anymore") else ""]


def french(c: Clause, how: str = "") -> str:
    """A clause in French. `how`: i imperative, b, g and t infinitive, n past infinitive, else a statement (also in
    questions)."""
    verb, person = c.verb, c.subject.person
    clitics, rest = french_complements(c)
    no = FR_NEGATION.get(c.negation, "")
    if how == "i":
        form = fr_verb(verb.fr, "ip", person)
        if c.negation:
            return " ".join(["ne", *clitics, form, no, *rest])
        clitics.sort(key=lambda w: w not in ("le", "la", "les"))
        clitics[-1:] = [{"me": "moi", "te": "toi"}.get(w, w) for w in clitics[-1:]]
        return " ".join(["-".join([form, *clitics]), *rest])
    aux, participle = french_participle(c)
    infinitive = fr_verb(verb.fr, "b")
    if how in ("b", "g", "t", "n"):
        forms = [fr_verb(aux, "b"), participle] if how == "n" else [infinitive]
        return " ".join(["ne pas" if c.negation else "", *clitics, *forms, *rest])
    *before, tense = TENSES[c.tense].fr
    if tense == "past":
        tense = "i" if "imparfait" in verb.flags else "pc"
    head = verb.fr
    if before:  # another verb is the finite one: je veux le voir
        head, *more = before
        aux, participle = "avoir", fr_verb(head, "pp")
        rest = [*more, *clitics, infinitive, *rest]
        clitics = []
    if tense in COMPOUND:
        finite = fr_verb(aux, COMPOUND[tense], person)
    else:
        finite, participle = fr_verb(head, tense, person), ""
    ne = "ne" if c.negative else ""
    return " ".join([c.subject.fr, ne, *clitics, finite, no, c.middle.fr, participle, *rest])


def french_complements(c: Clause) -> tuple[list[str], list[str]]:
    """The clitics of a French clause, in their order, and what follows the verb."""
    verb, subject, obj = c.verb, c.subject, c.object
    preposition = verb.preposition
    bare = c.negative and verb.fr not in ("être", "jouer")  # je n'ai pas de pain, but: ce n'est pas du pain
    clitics = []
    if verb.reflexive:
        clitics.append("se" if subject.person in (3, 6) else pro(subject).direct)
    words = verb.fr_more
    if "one's" in verb.en:
        own: dict[str, str] = dict(zip(("son", "sa", "ses"), pro(subject).possessives.split(" "), strict=True))
        words = [own.get(word, word) for word in words]
    more = " ".join(words)
    rest = [INDEFINITE.sub("de ", more) if bare else more]
    if obj and obj.is_pronoun and preposition and obj.kind not in PEOPLE:
        clitics.append("en" if preposition == "de" else "y")
    elif obj and obj.is_pronoun and not preposition:
        clitics.append(pro(obj).direct)
    elif obj and obj.is_pronoun and preposition == "à" and "strong" not in verb.flags:
        clitics.append(pro(obj).indirect)
    elif obj and c.negation != "nothing":  # whose "rien" stands where "pas" does
        fr = strong(obj)[1]
        if preposition:
            fr = joined(preposition, fr)
        elif bare:
            fr = INDEFINITE.sub("de ", fr)
        rest.append(fr)
    if c.recipient and c.recipient.is_pronoun:
        clitics.append(pro(c.recipient).indirect)
    elif c.recipient:
        rest.append(joined("à", c.recipient.fr))
    rest.append(c.end.fr)
    order = {"le": 1, "la": 1, "les": 1, "lui": 2, "leur": 2}
    return sorted(clitics, key=lambda clitic: order.get(clitic, 0)), rest


def french_participle(c: Clause) -> tuple[str, str]:
    """The auxiliary of a French verb, and its participle, which agrees with the subject after être, else with a direct
    object that stands before the verb."""
    verb, head = c.verb, c.verb.fr
    lemma = (getLemma(head, "fr") or {})["V"]
    agree: Phrase | None = None
    if verb.reflexive or lemma["aux"] == "êt" or head in ("sortir", "rentrer"):
        aux = "être"
        if not (verb.reflexive and verb.fr_more):  # elle s'est lavé les mains
            agree = c.subject
    else:
        aux = "avoir"
        if c.object and c.object.is_pronoun and not verb.preposition:
            agree = c.object
        elif c.gap and c.gap.kind and not verb.preposition:
            agree = c.gap
    participle = fr_verb(head, "pp")
    if agree and agree.gender == "f":
        participle += "e"
    if agree and agree.person in (4, 6) and participle[-1] != "s":
        participle += "s"
    return aux, participle
