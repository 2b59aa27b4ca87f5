"""Everyday English-French sentence pairs, drawn from templates and a small lexicon (everyday.txt).

A row has a template a language and says what the clauses {A} and {B} in them have to be. A clause is drawn once for
both languages (`plan`), then said in each (lib/data/french/clause.py).
"""

import random
import re
from typing import Any

from lib.data.french import forms
from lib.data.french.clause import EN_NEGATED, TENSES, VERBS, Clause, Verb, can_ask, english, french
from lib.data.french.forms import ADJECTIVES, NOUNS, PEOPLE, PHRASES, TABLES, Context, Phrase

Spec = dict[str, str]  # what a row says of a clause, by the letters that everyday.txt explains

ROWS = TABLES["rows"]["all"]
WEIGHTS = [int(row[0]) for row in ROWS]
ADVERBIALS = ("place", "company", "hour", "vehicle", "manner")  # flags of verbs, and in capitals lists of PHRASES
NUMBERS = {"num": (13, 90), "few": (2, 9), "hour": (2, 11)}
SLOT = re.compile(r"(?:\b(à|de) )?\{(\w+)(?:\.(\w))?\}")
SHORT: dict[str, str] = dict(TABLES["contractions"]["all"])
CONTRACTS = re.compile(r"\b(I|you|he|she|it|we|they|(?:there|that|what|where|who|how)(?= \+is\b)) \+(\w+)\b", re.I)


def sentences(n: int, seed: int) -> list[tuple[str, str]]:
    """n distinct (English, French) pairs, the same for the same seed."""
    rng = random.Random(seed)
    found: dict[tuple[str, str], None] = {}
    while len(found) < n:
        found[sentence(Context(rng, you=2 if rng.random() < 0.8 else 5))] = None
    return list(found)


def sentence(ctx: Context) -> tuple[str, str]:
    """One pair: a row drawn by weight, its clauses planned and its slots filled, both sides' spelling finished."""
    rng = ctx.rng
    _, en, fr, *specs = rng.choices(ROWS, WEIGHTS)[0]
    bound: dict[str, Any] = {}
    for name, options in zip("AB", specs, strict=False):
        bound[name] = plan(ctx, dict(option.split("=") for option in options.split()), bound.get("A"))
    en = re.sub(r"\((.*?)\)", r"\1" if rng.random() < 0.5 else "", en)
    en, fr = fill(ctx, en, fr, bound)
    fr = re.sub(r"\[(.*?)/(.*?)\]", r"\1" if ctx.you == 2 else r"\2", fr)
    en = re.sub(" +(?=[ ?!])", "", en)  # single spaces, which `contracted` needs
    if rng.random() < 0.67:
        en = contracted(en)
    en = en.replace("+", "").replace("can not", "cannot")
    en = re.sub(r"\b([Aa]) (?=[aeiouAEIO])", r"\1n ", en)
    return finished(en), finished(forms.elide(fr))


def contracted(en: str) -> str:
    """English text with its words after "+" contracted where they may be: it's, they don't."""
    en = re.sub(r"\+(\w+) \+not", lambda m: "+am not" if m[1] == "am" else EN_NEGATED.get(m[1], m[1] + "n't"), en)
    return CONTRACTS.sub(lambda m: m[1] + SHORT[m[2]] if m[2] in SHORT else m[0], en)


def finished(text: str) -> str:
    """No spaces before . and , and a capital at the beginning of sentences."""
    text = re.sub(r" +([.,])", r"\1", text).strip()
    return re.sub(r"(^|[.?!] )(\w)", lambda m: m[1] + m[2].upper(), text)


def fill(ctx: Context, en: str, fr: str, bound: dict[str, Any], subject: Phrase | None = None) -> tuple[str, str]:
    """Both templates with their slots filled alike: from `bound` (clauses and phrases), else by `slot`, which agree
    with `subject`. `bound` gets what was drawn."""

    def words(m: re.Match[str], language: int) -> str:
        preposition, key, how = m.groups("")
        if key not in bound:
            bound[key] = slot(ctx, key, subject)
        value = bound[key]
        if how == "w":
            value = value.gap
        elif how == "p":
            value = forms.pronoun(value)
        elif isinstance(value, Clause):
            return forms.joined(preposition, (english, french)[language](value, how))
        return forms.joined(preposition, value[language])

    return SLOT.sub(lambda m: words(m, 0), en), SLOT.sub(lambda m: words(m, 1), fr)


def slot(ctx: Context, key: str, subject: Phrase | None = None, negation: str = "") -> Phrase:
    """What fills a slot or completes a verb, drawn. `key`: a number, people ("person" or "who", which is no clitic),
    determiner_class, or a list of NOUNS or PHRASES. `subject` and `negation` are those of the clause."""
    rng = ctx.rng
    if key in NUMBERS:
        return forms.number(rng.randint(*NUMBERS[key]))
    if key == "person":
        return forms.human(ctx, 0.45, subject)
    if key == "who":
        return Phrase(*forms.strong(forms.human(ctx, 0.35, subject)))
    if key == "GEN":  # what one likes: apples, les pommes
        return forms.noun_phrase(ctx, rng.choice(("food", "staple", "drink", "hot", "animal")), "gen", True, 0)
    if key == "TO":
        there = slot(ctx, "PLACE")
        return there._replace(en=re.sub("^(at|in) ", "to ", there.en).replace("to home", "home"))
    if "_" in key:
        det, kind = key.split("_")
        if det == "q":
            return forms.noun_phrase(ctx, kind, "a", True) if negation else forms.noun_phrase(ctx, kind, "q")
        return forms.noun_phrase(ctx, kind, det, det == "howmany", 1 if det == "what" else 0.18)
    return thing(ctx, key, subject, negation) if key in NOUNS else phrase(ctx, key, subject)


def thing(ctx: Context, kind: str, subject: Phrase | None, negation: str) -> Phrase:
    """A noun of a list with any determiner that goes with it, or "it"."""
    rng = ctx.rng
    own = subject if subject and subject.kind in PEOPLE else "the"
    if rng.random() < 0.14:  # nothing says what "it" is, so it is "le"
        return forms.pronoun(forms.noun_phrase(ctx, kind, "the")._replace(gender="m"))
    if NOUNS[kind][0].mark != forms.KNOWN:
        some = "a" if negation else "q"
        return forms.noun_phrase(ctx, kind, rng.choice(("the", "the", "a", "a", "a", own, own, "this", "that", some)))
    return forms.noun_phrase(ctx, kind, "the" if kind in ("ride", "sight") else rng.choice(("the", "the", own)))


def phrase(ctx: Context, key: str, subject: Phrase | None) -> Phrase:
    """One of PHRASES, which agrees with `subject`."""
    plural = subject is not None and subject.person in (4, 6)
    if key == "JOB" and plural:  # "a teacher" has no plural here
        key = "STATUS"
    fitting = ADJECTIVES.get(subject.kind) if subject and subject.kind not in PEOPLE else None
    if fitting and key in ("ADJ", "MOOD"):
        en, fr = ctx.rng.choice([(en, "*" + fr) for en, fr in fitting if en != "new"])
    else:
        en, fr, *_ = ctx.rng.choice(PHRASES[key])
    en, fr = fill(ctx, en, fr, {}, subject)
    if subject:
        gender = subject.gender
        fr = re.sub(r"(\S+)/(\S+)", r"\2" if gender == "f" else r"\1", fr)
        fr = re.sub(r"\*(\w+)", lambda m: forms.fr_adjective(m[1], gender, plural)[0], fr)
    return Phrase(en, fr)


def plan(ctx: Context, spec: Spec, first: Clause | None) -> Clause:
    """Draw a clause as `spec` has it; `first` is the clause planned before it in the sentence, if any."""
    verb, complement, tense = draw_verb(ctx, spec)
    subject = draw_subject(ctx, spec, verb, first)
    negation = draw_negation(ctx, spec, verb, tense, subject)
    obj = gap = recipient = None
    if spec.get("o") == "A" and first and first.object:
        obj = forms.pronoun(first.object)
    elif "o" in spec:
        obj = forms.pronoun(Phrase("", "", ctx.rng.choice((1, 4))))
    elif complement and "gap" not in spec:
        obj = slot(ctx, complement, subject, negation)
        plain = (complement in NOUNS or complement == "person") and "state" not in verb.flags and not verb.preposition
        if negation == "not" and plain and "de" not in TENSES[tense].fr and ctx.rng.random() < 0.12:
            nobody = ("nobody", Phrase("anybody", "personne"))
            nothing = ("nothing", Phrase("anything", "rien"))
            negation, obj = nobody if complement == "person" else nothing
    if "gap" in spec:
        word = {"who": Phrase("who", "qui"), "what": Phrase("what", "quoi" if verb.preposition else "que")}
        gap = word.get(spec["gap"]) or slot(ctx, f"{spec['gap']}_{complement}")
        gap = gap._replace(fr=forms.joined(verb.preposition, gap.fr))
    if verb in VERBS["dative"]:
        recipient = forms.human(ctx, 0.6, subject)
    clause = Clause(subject, verb, tense, negation, obj, recipient, gap)
    middle, end = draw_adverbs(ctx, spec, clause)
    return clause._replace(middle=middle, end=end)


def draw_verb(ctx: Context, spec: Spec) -> tuple[Verb, str, str]:
    """A verb, one of its complements and the name of a tense that goes with both."""
    rng = ctx.rng
    lists = spec.get("v", "act,act,act,act,mind,be").split(",")
    tenses = spec["t"].split(",") if "t" in spec else [name for name, tense in TENSES.items() if tense.weight]
    needed, unwanted = (set(spec[key].split(",")) if key in spec else set() for key in ("f", "not"))
    holds = {"question": "q" in spec, "affirmed": spec.get("n") == "0", "negated": spec.get("n") == "1"}
    while True:
        verb = rng.choice(VERBS[rng.choice(lists)])
        complement = rng.choice(verb.complements)
        holds["unskilled"] = "skill" not in verb.flags
        flags = set(verb.flags) | {flag for flag in holds if holds[flag]}
        fitting = [name for name in tenses if not flags & TENSES[name].barred]
        meets = needed <= flags and not unwanted & flags and can_ask(verb, complement, spec.get("gap", ""))
        if fitting and meets:
            return verb, complement, rng.choices(fitting, [max(1, TENSES[name].weight) for name in fitting])[0]


def draw_subject(ctx: Context, spec: Spec, verb: Verb, first: Clause | None) -> Phrase:
    """The subject that `spec` asks for, or people."""
    rng, want = ctx.rng, spec.get("s", "")
    if want in ("same", "obj") and first:
        return forms.pronoun(first.object if want == "obj" and first.object else first.subject)
    if "impersonal" in verb.flags:
        return Phrase("it", "il", kind="thing", is_pronoun=True)
    if want in ("I", "you", "we"):
        return forms.pronoun(Phrase("", "", {"I": 1, "you": ctx.you, "we": 4}[want]))
    if want == "who":
        return Phrase("who", "qui")
    if want in NOUNS or "," in want:
        return forms.noun_phrase(ctx, rng.choice(want.split(",")), rng.choice(("the", "this", "own")), adjective=0)
    if want == "any" and "animal" in verb.flags and rng.random() < 0.25:
        return forms.noun_phrase(ctx, "animal", rng.choice(("the", "own")))
    if want == "any" and rng.random() < 0.05:
        return slot(ctx, "ONE")._replace(kind="any")
    while True:
        one, two = forms.human(ctx, 0.58), forms.human(ctx, 0)
        if not one.is_pronoun and one.fr != two.fr and rng.random() < 0.08:
            gender = "f" if one.gender == two.gender == "f" else "m"
            return Phrase(f"{one.en} and {two.en}", f"{one.fr} et {two.fr}", 6, gender)
        unlikely = (1, 4) if "q" in spec and rng.random() < 0.7 else ()  # few ask what they do themselves
        barred = {"third": (1, 2, 4, 5), "other": (first.subject.person if first else 1,)}.get(want, unlikely)
        if one.person not in barred:
            return one


def draw_negation(ctx: Context, spec: Spec, verb: Verb, tense: str, subject: Phrase) -> str:
    """How a clause is negated, "" if it is not."""
    barred = TENSES[tense].barred
    if subject.fr == "personne" or "negated" in barred:
        return ""
    if "affirmed" not in barred and ctx.rng.random() >= float(spec.get("n", 0.2)):
        return ""
    if "q" in spec:
        return "not"
    lasting = "imparfait" in verb.flags and "timed" not in verb.flags  # "he was never my friend" says little
    never = "not" if lasting else "never"
    more = {"perf": [never, "yet"], "past": ["not", never], "pres": ["not", never, "no longer", "anymore"]}
    return ctx.rng.choice(["not", "not", *more.get(tense, [])])


def draw_adverbs(ctx: Context, spec: Spec, clause: Clause) -> tuple[Phrase, Phrase]:
    """What goes inside a clause (often, already) and what ends it (place, company, manner, time)."""
    rng, flags, tense, negation = ctx.rng, clause.verb.flags, clause.tense, clause.negation
    asked, time = spec.get("x", "place time"), TENSES[tense].time
    middle, end = Phrase("", ""), []
    kinds = [flag.upper() for flag in flags if flag in ADVERBIALS and not (negation and flag == "manner")]
    if kinds and "place" in asked and rng.random() < 0.4:
        end.append(slot(ctx, rng.choice(kinds), clause.subject))
    if "state" in flags and "timed" not in flags:
        time = ""
    elif "state" in flags:
        time = "STATE" if time == "PRES" else time
    elif tense == "perf" and not negation and rng.random() < 0.3:
        middle = Phrase("already", "déjà")
    elif tense == "pres" and not negation and "time" in asked and "impersonal" not in flags and rng.random() < 0.35:
        middle, time = slot(ctx, "OFTEN"), ""
    habit = time == "PRES"
    odd = negation in ("never", "no longer", "anymore") or (habit and "once" in flags)
    if time and "time" in asked and not odd:
        when = slot(ctx, time)
        if rng.random() < (0.7 if habit else 0.4):
            end.append(when)
    return middle, Phrase(" ".join(p.en for p in end), " ".join(p.fr for p in end))
