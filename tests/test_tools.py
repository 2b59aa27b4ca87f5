"""lib/tools: what each tool answers and refuses, with a small dictionary and atlas for WordNet and GeoNames."""

import datetime
import re
from pathlib import Path

import pytest
import torch

from lib import runs, workers
from lib.answers import Call, Note, Picture, Sound, Text
from lib.data import atlas, dictionary, files, requests, units
from lib.faults import DataError, RunError
from lib.tools import desk, documents, exact, lookup, voice, zoo

NOON = datetime.datetime(2026, 3, 1, 12, 0, tzinfo=datetime.UTC)
INJECTIONS = Path(__file__).parent / "assistant" / "injections.tsv"


def words(answers):
    return "".join(answer.text for answer in answers if isinstance(answer, Text))


# ---- what they look up in ----


def wordnet(synsets):
    """Files as WordNet has them. `synsets`: (part, words, gloss, numbers of what is above, of what is alike)."""
    found = {f"{kind}.{part}": b"" for kind in ("index", "data") for part in dictionary.PARTS}
    lines = [
        [part, [w.replace(" ", "_") for w in names], gloss, above, alike]
        for part, names, gloss, above, alike in synsets
    ]
    places, at = [], dict.fromkeys(dictionary.PARTS, 0)

    def line(part, names, gloss, pointers, offset):
        spelled = " ".join(f"{name} 0" for name in names)
        marks = "".join(f" {sign} {places[i] if i < len(places) else 0:08d} n 0000" for sign, i in pointers)
        return f"{offset:08d} 03 {part[0]} {len(names):02x} {spelled} {len(pointers):03d}{marks} | {gloss}  \n".encode()

    for part, names, gloss, above, alike in lines:
        pointers = [("@", i) for i in above] + [("&", i) for i in alike]
        places.append(at[part])
        at[part] += len(line(part, names, gloss, pointers, 0))
    index = {part: {} for part in dictionary.PARTS}
    for place, (part, names, gloss, above, alike) in zip(places, lines, strict=True):
        found[f"data.{part}"] += line(part, names, gloss, [("@", i) for i in above] + [("&", i) for i in alike], place)
        for name in names:
            index[part].setdefault(name.lower(), []).append(place)
    for part, of in index.items():
        rows = [
            f"{name} {part[0]} {len(at)} 1 @ {len(at)} 0 {' '.join(f'{x:08d}' for x in at)}  "
            for name, at in of.items()
        ]
        found[f"index.{part}"] = "\n".join(["  1 This is a licence", *sorted(rows), ""]).encode()
    return found


@pytest.fixture(scope="module")
def books():
    synsets = [
        ("noun", ["metal"], "a shiny thing", [], []),
        ("noun", ["gold", "Au", "atomic number 79"], 'a soft yellow metal; "a gold ring"', [0], []),
        ("noun", ["Lexington"], "a town in Kentucky", [], []),
        ("adj", ["happy"], "full of joy", [], [4]),
        ("adj", ["glad", "merry"], "also full of joy", [], [3]),
        ("verb", ["dither", "waver"], "be undecided", [], []),
        ("noun", ["berry"], "a small fruit", [], []),
    ]
    country = {"continentcode": "EU", "neighbours": "XB", "currencyname": "Crown", "population": 2_000_000}
    countries = [
        country | {"name": "Norland", "iso": "XA", "capital": "Nordby"},
        country | {"name": "Sudland", "iso": "XB", "capital": "", "neighbours": ""},
    ]
    city = {"countrycode": "XA", "alternatenames": [], "timezone": "Europe/Oslo"}
    cities = [
        city | {"name": "Nordby", "population": 5000, "alternatenames": ["Nørdby"]},
        city | {"name": "Lexington", "population": 300_000, "timezone": "America/New_York"},
        city | {"name": "Lexington", "population": 20, "countrycode": "XB"},
        city | {"name": "Great Nordby", "population": 900_000, "alternatenames": ["Nordby"], "timezone": "Asia/Tokyo"},
    ]
    return lookup.Books(dictionary.Dictionary(wordnet(synsets)), atlas.Atlas(countries, cities))


@pytest.mark.parametrize(
    "question, subject, answer",
    [
        ("what is gold", "gold", "1. gold (noun): a soft yellow metal\n"),
        ("define berries please", "berries", "1. berry (noun): a small fruit\n"),
        ("what does to dither mean?", "to dither", "1. dither (verb): be undecided\n"),
        ("is gold a metal", "gold", "1. gold (noun): a soft yellow metal\n"),
        ("what are synonyms of happy", "happy", "glad, merry\n"),
        ("the symbol of gold?", "gold", "gold has the symbol Au and the atomic number 79\n"),
        ("atomic number of Au", "Au", "gold has the atomic number 79\n"),
        ("which element is number 79", "79", "gold has the symbol Au and the atomic number 79\n"),
        ("what is the capital of Norland", "Norland", "Nordby is the capital of Norland\n"),
        ("how many people live in norland?", "norland", "Norland: 2,000,000 people\n"),
        ("population of Nordby", "Nordby", "Great Nordby, Norland: 900,000 people\n"),
        ("which country is Lexington in", "Lexington", "Lexington is in Norland\n"),
        ("where is Norland", "Norland", "Norland is in Europe; its neighbours: Sudland\n"),
        ("currency of the Norland", "the Norland", "Norland: Crown\n"),
        ("what time zone is Lexington in", "Lexington", "Lexington, Norland: America/New_York\n"),
        ("tell me about Norland", "Norland", "Norland: a country in Europe, capital Nordby\n"),
    ],
)
def test_what_the_books_have(books, question, subject, answer):
    assert words(lookup.lookup(question, subject, books)) == answer


@pytest.mark.parametrize(
    "question, subject",
    [
        ("what is the temperature in Lexington", "Lexington"),  # not what Lexington is
        ("who won the gold in 2024", "gold"),
        ("capital of Sudland", "Sudland"),
        ("capital of Atlantis", "Atlantis"),
        ("what is a glorp", "glorp"),
        ("how many people work in Norland", "Norland"),
        ("which element has the symbol Zz", "Zz"),
        ("what is", ""),
        ("former capital of Norland", "Norland"),
        ("capital gains tax in Norland", "Norland"),
        ("population of wolves in Norland", "Norland"),
        ("population density of Norland", "Norland"),
        ("population of Norland in 1950", "Norland"),
        ("capital of Norland and Sudland", "Norland"),
        ("currency of Norland before the crown", "Norland"),
        ("which country invaded Lexington", "Lexington"),
        ("where does Norland live", "Norland"),
        ("atomic mass of gold oxide", "gold"),
        ("population of Lexington, Kentucky", "Lexington, Kentucky"),  # not the larger one
        ("is gold expensive", "gold"),
        ("what is ing", "ing"),
        ("population of Europe", "Europe"),
    ],
)
def test_what_the_books_do_not_have_is_missing(books, question, subject):
    with pytest.raises(lookup.Missing):
        list(lookup.lookup(question, subject, books))


def test_the_weight_of_an_atom(books):
    pytest.importorskip("periodictable")
    assert words(lookup.lookup("atomic weight of gold", "gold", books)).startswith(
        "gold has an atomic weight of 196.966"
    )


# ---- what they calculate ----


@pytest.mark.parametrize(
    "amount, source, target, answer",
    [
        ("5", "km", "miles", "5 km ≈ 3.106856 miles"),
        ("72", "inches", "metres", "72 inches = 1.8288 metres"),
        ("-40", "°C", "degrees fahrenheit", "-40 °C = -40 degrees fahrenheit"),
        ("two", "square feet", "cm²", "2 square feet = 1858.0608 cm²"),
        ("", "day", "seconds", "1 day = 86400 seconds"),
        ("60", "miles per hour", "km/h", "60 miles per hour = 96.56064 km/h"),
        ("1", "imperial pint", "ml", "1 imperial pint = 568.26125 ml"),
        ("2", "kilowatt hours", "kJ", "2 kilowatt hours = 7200 kJ"),
        ("8", "Mb", "MB", "8 Mb = 1 MB"),
        ("5", "NM", "km", "5 NM = 9.26 km"),
    ],
)
def test_units(amount, source, target, answer):
    assert units.convert(amount, source, target) == answer


def test_american_measures_say_so():
    assert units.convert("1", "gallon", "litres").endswith("(as in the United States; say imperial for others)")


@pytest.mark.parametrize(
    "amount, source, target, told",
    [
        ("9**9**9", "m", "km", "more than 10,000 bits"),
        ("1", "().__class__", "m", "is no unit"),
        ("1", "m**9**9**9", "m", "is no unit"),
        ("1", "m" * 100, "m", "is no unit"),
        ("1", "euros", "dollars", "no unit 'euros' is known"),
        ("1", "m", "kg", r"m \(length\) cannot be given in kg \(mass\)"),
        ("9!!!", "m", "km", "factorials"),
        ("10", "litres", "kg", r"litres \(length\^3\) cannot be given in kg"),
        ("1", "_", "m", "no unit"),
        ("1", "nan", "m", "no unit"),
        ("1", "²", "m", "no unit"),
        ("1", "M", "m", "no unit"),
        ("²", "m", "km", "not expected"),
        ("10^400", "m", "km", "too large"),
    ],
)
def test_what_is_no_unit(amount, source, target, told):
    with pytest.raises(DataError, match=told):
        units.convert(amount, source, target)


def test_curves():
    for text, name in (("draw a cosine", "cos(x)"), ("the sine curve", "sin(x)")):
        assert next(exact.plot({}, text, Path("x.png"))).caption.startswith(name)
    assert next(exact.plot({"formula": "exponential"}, "", Path("x.png"))).caption.startswith("exp(x)")
    picture, _ = exact.plot({"formula": "3x^2 - 1", "low": "-pi", "high": "two"}, "", Path("x.png"))
    assert isinstance(picture, Picture) and picture.caption == "3x^2 - 1 for x from -3.14159 to 2"
    (line,) = picture.content.axes[0].lines
    x, y = line.get_data()
    assert len(x) == exact.POINTS and torch.allclose(torch.tensor(y), 3 * torch.tensor(x) ** 2 - 1)
    assert "from 0 to 20" in next(exact.plot({"formula": "log(x)"}, "", Path("x.png"))).caption
    assert next(exact.plot({}, "plot the sine curve", Path("x.png"))).caption.startswith("sin(x) for x from -10 to 10")
    assert "x squared minus 3x" in next(exact.plot({"formula": "x squared minus 3x"}, "", Path("x.png"))).caption
    for asked, told in (
        ({}, "of which function"), ({"formula": "().__class__"}, "not understood"),
        ({"formula": "(" * 250}, "not understood"), ({"formula": "x" * 301}, "at most 300"),
        ({"formula": "x", "low": "3", "high": "1"}, "from a smaller"),
        ({"formula": "sqrt(x)", "low": "-3", "high": "-1"}, "has no value"),
        ({"formula": "open(x)"}, "not understood"), ({"formula": "x", "low": "9**9**9"}, "bits"),
    ):  # fmt: skip
        with pytest.raises(DataError, match=told):
            list(exact.plot(asked, "", Path("x.png")))


def test_clocks(books):
    assert words(exact.clock({}, lambda: books.atlas, NOON)) == "Here: Sunday, 1 March 2026, 12:00\n"
    there = words(exact.clock({"place": "Lexington"}, lambda: books.atlas, NOON))
    assert there == "Lexington, Norland: Sunday, 1 March 2026, 07:00 (America/New_York)\n"
    both = words(exact.clock({"place": "norland"}, lambda: books.atlas, NOON))
    assert (
        "Nordby, Norland: Sunday, 1 March 2026, 13:00" in both
        and "Great Nordby, Norland: Sunday, 1 March 2026, 21:00" in both
    )
    with pytest.raises(DataError, match="Atlantis is no city"):
        list(exact.clock({"place": "Atlantis"}, lambda: books.atlas, NOON))


# ---- texts ----


def likeness(texts):
    """Features by the words of a text, so that no weights are needed."""
    found = torch.zeros(len(texts), 64)
    for i, text in enumerate(texts):
        for word in re.findall(r"\w+", text.lower()):
            found[i, int(files.place(word.encode()) * 64)] += 1
    return torch.nn.functional.normalize(found, dim=-1)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("PUREGEN_CACHE", str(tmp_path / "cache"))
    notes = tmp_path / "notes"
    (notes / "deep").mkdir(parents=True)
    (notes / "a.md").write_text("# Rent\n\nThe rent is\n900 crowns.\n\n---\n\nPets may stay.\n", encoding="utf-8")
    (notes / "deep" / "b.txt").write_text("The boiler\x1b[31m code\u202e is E42.\n" + "word " * 300, encoding="utf-8")
    (notes / "c.pdf").write_bytes(b"%PDF")
    (tmp_path / "secret.txt").write_text("the password is swordfish")
    (notes / "link.txt").symlink_to(tmp_path / "secret.txt")
    (notes / "out").symlink_to(tmp_path)
    return notes


def test_passages_have_file_and_line_and_no_link_leads_out(folder):
    found = documents.passages(folder)
    assert found[0] == ("a.md", 3, "Rent", "The rent is 900 crowns.") and found[1] == (
        "a.md",
        8,
        "Rent",
        "Pets may stay.",
    )
    assert found[2].file == "deep/b.txt" and found[2].text == "The boiler[31m code is E42."
    assert all("swordfish" not in p.text for p in found)
    assert max(len(p.text.split()) for p in found) == documents.WORDS  # of a line of 300 words
    assert sum(len(p.text.split()) for p in found if p.file == "deep/b.txt") == 305
    assert [p.file for p in documents.passages(folder / "a.md")] == ["a.md", "a.md"]


def test_a_question_is_answered_by_quotations(folder):
    library = documents.Library(folder, likeness)
    first, *_ = library.answers("how much is the rent")
    assert first.text == "a.md, line 3: “The rent is 900 crowns.”\n"
    assert words(library.answers("zebra zebra")) == "Nothing about that in these documents.\n"
    again = documents.Library(folder, lambda texts: pytest.fail("the features are in the cache"))
    assert torch.equal(again.features, library.features)


@pytest.mark.parametrize(
    "name, told",
    [("nowhere", "No such file"), ("circle", "[Ss]ym"), ("empty", "no texts there"), ("bad", "not UTF-8")],
)
def test_what_are_no_documents(tmp_path, name, told):
    (tmp_path / "empty").mkdir()
    (tmp_path / "bad").mkdir()
    (tmp_path / "circle").symlink_to(tmp_path / "circle")
    (tmp_path / "bad" / "x.txt").write_bytes(b"caf\xe9")
    with pytest.raises(DataError, match=told):
        documents.passages(tmp_path / name)


def test_injections_are_quoted_as_they_are(folder):
    """Whatever a document says, its words come back between quotation marks, without what a terminal would obey."""
    lines = INJECTIONS.read_text(encoding="utf-8").split("\n")
    lines = [line for line in lines if line.strip()]
    assert len(lines) == 50
    for i, line in enumerate(lines):
        (folder / f"injected{i}.txt").write_text(line, encoding="utf-8")
    library = documents.Library(folder, likeness)
    for i, line in enumerate(lines):
        answers = list(library.answers(line))
        assert not any(isinstance(answer, Call) for answer in answers)
        said = words(answers)
        assert f"injected{i}.txt, line 1: “" in said or line.startswith("#")  # a heading
        assert not set(said) & set(
            map(chr, [*range(9), *range(11, 32), 0x7F, *range(0x202A, 0x202F), *range(0x2066, 0x206A)])
        )


def test_a_summary_is_word_for_word():
    text = "The bridge is old. The bridge was shut in May. Owls sleep. The old bridge will be shut in May."
    first, note = documents.summary(text, likeness)
    assert first.text.strip() in text and "word for word" in note.text
    with pytest.raises(DataError, match="several sentences"):
        list(documents.summary("One only.", likeness))


def test_speech(tmp_path, monkeypatch):
    monkeypatch.setattr(voice.shutil, "which", lambda name: None)
    with pytest.raises(RunError, match="espeak-ng is not installed"):
        list(voice.speak("hello", tmp_path / "x.wav"))
    program = tmp_path / "espeak-ng"
    wave = "from lib import sound; import torch, sys; samples = torch.zeros(len(sys.stdin.read()));"
    wave += " open(sys.argv[-1], 'wb').write(sound.wav(samples, 8000))"
    program.write_text(f'#!/bin/sh\nexec {workers.sys.executable} -c "{wave}" "$@"\n')
    program.chmod(0o755)
    monkeypatch.setattr(voice.shutil, "which", lambda name: str(program))
    monkeypatch.setenv("PYTHONPATH", str(runs.ROOT))
    speech, _ = voice.speak("; rm -rf x", tmp_path / "x.wav")
    assert isinstance(speech, Sound) and len(speech.samples) == len("; rm -rf x")
    for text in ("", "x" * 3000):
        with pytest.raises(DataError, match="characters to speak"):
            list(voice.speak(text, tmp_path / "x.wav"))


# ---- models of the zoo ----


KNOWN = ["no glasses", "glasses", "black", "blond", "red", "short hair", "long hair"]


@pytest.mark.parametrize(
    "tool, asked, text, request_",
    [
        ("translate", {"text": "hi"}, "hi in French", {"text": "hi"}),
        ("draw", {"n": "three", "label": "blonde\nwithout glasses"}, "",
         {"verb": "draw", "n": 3, "label": ["blond", "no glasses"]}),
        ("draw", {}, "someone", {"verb": "draw", "n": 8, "label": []}),
        ("edit", {"number": "7", "label": "the glasses"}, "take the glasses off 7",
         {"verb": "change", "pictures": ["7"], "remove": "glasses"}),
        ("edit", {"number": "0", "label": "red hair"}, "turn off the light and give 0 red hair",
         {"verb": "change", "pictures": ["0"], "add": "red"}),
        ("edit", {"number": "1", "label": "without glasses"}, "1 without glasses",
         {"verb": "change", "pictures": ["1"], "remove": "glasses"}),
        ("compose", {"bars": "a dozen", "n": "2"}, "", {"verb": "compose", "n": 2, "bars": 12}),
        ("picture", {"prompt": "a rose"}, "", {"verb": "draw", "text": ["a rose"], "n": 4}),
    ],
)  # fmt: skip
def test_what_a_model_is_asked(tool, asked, text, request_):
    assert zoo.fields(tool, asked, text, KNOWN) == request_


@pytest.mark.parametrize(
    "tool, asked, text, told",
    [
        ("translate", {"text": "hi"}, "hi in German", "into French only, not German"),
        ("translate", {}, "translate", "translate what"),
        ("draw", {"label": "horns"}, "", "'horns' is not one of this model's words: no glasses"),
        ("draw", {"n": "1000"}, "", "a whole number from 0 to 64"),
        ("draw", {"n": "2.5"}, "", "a whole number"),
        ("edit", {"number": "3"}, "", "one change of one face"),
        ("edit", {"label": "glasses"}, "", "one change of one face"),
        ("edit", {"number": "3", "label": "glasses\nred"}, "", "one change of one face"),
    ],
)
def test_what_a_model_cannot_be_asked(tool, asked, text, told):
    with pytest.raises(DataError, match=told):
        zoo.fields(tool, asked, text, KNOWN)


@pytest.mark.parametrize(
    "text, n", [("third", 3), ("21st", 21), ("a", 1), ("a dozen", 12), (None, 8), ("forty two", 42)]
)
def test_numbers_of_faces(text, n):
    assert zoo.number(text, 8, 64) == n


def test_the_word_german_may_be_translated():
    assert zoo.fields("translate", {"text": "I speak German"}, "translate I speak German", KNOWN) == {
        "text": "I speak German"
    }


def test_a_small_model_gives_no_numbers():
    kept = zoo.without_numbers(iter([Text("4 is it\n7 people\n2. two")]), "")
    assert words(kept) == "… is it\n… people\n2. two"
    said = [Text("It was 19"), Text("69, and you said 7.\n1. one\n`"), Text("``\nx[10]\n"), Note("n"), Text("```\n42")]
    found = list(zoo.without_numbers(iter(said), "tell me about 7 dwarfs"))
    assert words(found) == "It was …, and you said 7.\n1. one\n```\nx[10]\n```\n…" and Note("n") in found


TOY = """
import json, sys
print(json.dumps({"kind": "ready"}), flush=True)
for line in sys.stdin:
    asked = json.loads(line)
    if asked.get("text") == "die":
        sys.exit(3)
    for answer in (
        {"kind": "text", "text": "Bonjour " + asked.get("text", "")}, {"kind": "note", "text": "sure"},
        {"kind": "table", "columns": ["p"], "rows": [[0.5], [None]], "form": "{:.1f}", "head": "p"},
        {"kind": "picture", "name": "../../x.png", "caption": "c", "base64": "iVBORw==", "gap": 4,
         "frames": 0, "versions": 0},
        {"kind": "error", "message": "told"} if asked.get("text") == "bad" else {"kind": "end"},
    ):
        print(json.dumps(answer), flush=True)
"""


@pytest.fixture
def serving(tmp_path, monkeypatch):
    """A desk whose models are a toy, of which a run is finished."""
    path = tmp_path / "runs" / "exp_transformer_fr" / "one"
    path.mkdir(parents=True)
    (path / "config.json").write_text("{}")
    (path / "result.json").write_text("{}")
    monkeypatch.chdir(tmp_path)
    pool = workers.Pool(lambda name: [workers.sys.executable, "-c", TOY], alone=False)
    yield desk.Desk(pool)
    pool.stop()


def request(tool, line):
    return requests.marked(tool, line)


def test_a_finished_run_is_asked_and_its_answers_come_back(serving, tmp_path):
    serving.folder = tmp_path / "made"
    found = list(serving.answers(request("translate", "{you|text} in French")))
    assert (
        found[0] == Call("translate", (("text", "you"),)) and words(found) == "Bonjour you" and found[2] == Note("sure")
    )
    assert found[3].lines() == "p\n0.5\nnan\n" and found[4].content == b"\x89PNG"
    assert found[4].file == tmp_path / "made" / "x.png"  # whatever the worker said
    assert found[-1].text.startswith("by runs/exp_transformer_fr/one")
    with pytest.raises(RunError, match="told"):
        list(serving.answers(request("translate", "{bad|text} in French")))
    with pytest.raises(RunError, match="ended with status 3"):
        list(serving.answers(request("translate", "{die|text} in French")))
    assert words(serving.answers(request("translate", "{on|text} in French"))) == "Bonjour on"


def test_a_missing_run_names_its_command(serving):
    with pytest.raises(RunError, match="`just run exp_bert_sentiment` makes one"):
        list(serving.answers(request("sentiment", "is {fine|text} good")))


def test_facts_are_not_made_up_by_a_small_model(serving, books):
    serving.books = books
    for text in ("who won the cup", "So, how tall is the tower?", "which band sang it"):
        call, said, note = serving.answers(request("chat", text))
        assert call.tool == "lookup" and said.text.startswith(f"Not in what I have: {text}") and "--online" in note.text
    for text in ("who are you", "who cares", "when I was a child I loved you", "where were we?"):
        assert words(serving.answers(request("chat", text))) == f"Bonjour {text}"
    assert "Not in what I have" in words(serving.answers(request("clock", "when does the train to {Oslo|place} leave")))
    assert "None of my tools" in words(serving.answers(request("none", "call my mother")))
    with pytest.raises(DataError, match="--documents FOLDER"):
        list(serving.answers(request("documents", "what do my notes say")))


def test_the_books_questions(serving, books, monkeypatch, tmp_path):
    """Chapter 16 asks them of paid services, of which one said 1,398 to the first."""
    serving.books, serving.folder = books, tmp_path
    assert words(serving.answers(request("calculate", "what is {23*55+123|expression}"))) == "1388\n"
    actor = request("lookup", "who is the best actor of {2024|subject}?")
    assert words(serving.answers(actor)).startswith("Not in what I have")
    weather = words(serving.answers(request("lookup", "what is the temperature in {Lexington|subject}")))
    assert weather.startswith("Not in what I have") and not re.search(r"\d", weather)
    picture = next(x for x in serving.answers(request("plot", "plot the sine curve")) if isinstance(x, Picture))
    assert picture.caption.startswith("sin(x)")
    with pytest.raises(RunError, match="`just run exp_text2image_flowers` makes one"):
        list(serving.answers(request("picture", "draw {an astronaut on a unicorn|prompt}")))
    assert "Bonjour" in words(serving.answers(request("chat", "tell me a joke")))
    asked = []
    quoted = lambda question, encode: iter([asked.append(question), Text("“He won.”\n")][1:])  # noqa: E731
    monkeypatch.setattr(desk.online, "wikipedia", quoted)
    serving.online, serving.encode = True, None
    assert list(serving.answers(actor))[1:] == [Text("“He won.”\n")] and asked == [actor.text]


def test_nothing_of_a_request_is_ever_executed():
    """No word of these files hands text to an interpreter, or to what unpickles or simplifies it."""
    banned = r"\b(?:eval|exec|compile|__import__|sympify|parse_expr|literal_eval|os\.system|popen)\s*\("
    banned += "|pickle|numexpr|shell=True"
    for path in [*(runs.ROOT / "lib" / "tools").glob("*.py"), runs.ROOT / "lib" / "data" / "calculation.py",
                 runs.ROOT / "lib" / "data" / "formula.py", runs.ROOT / "lib" / "data" / "units.py"]:  # fmt: skip
        found = re.findall(banned, path.read_text(encoding="utf-8").replace("re.compile(", ""))
        assert not found, path


def test_an_endpoint_that_has_seen_documents_sends_nothing_elsewhere(serving, books, folder, monkeypatch):
    """What stands in a document may tell it to."""
    serving.books, serving.online, serving.encode, serving.documents = books, True, likeness, folder
    monkeypatch.setenv("OPENAI_BASE_URL", "https://example.org/v1")
    monkeypatch.setenv("OPENAI_MODEL", "tiny")
    kept, asked = {}, []
    monkeypatch.setattr(desk.online.Endpoint, "chat", lambda self, turns, tools: iter([kept.update(tools)][1:]))
    monkeypatch.setattr(
        desk.online, "wikipedia", lambda question, encode: iter([asked.append(question), Text("w")][1:])
    )
    list(serving.answers(request("chat", "tell me a joke")))
    assert list(kept) == ["calculate", "convert", "clock", "lookup", "wikipedia", "documents"]
    use = {name: tool for name, (_, tool) in kept.items()}
    assert use["calculate"]({"expression": "2+2"}).startswith("4\n")
    assert "metal" in use["lookup"]({"question": "what is gold", "subject": "gold"})
    assert "900 crowns" in use["documents"]({"question": "the rent"})
    with pytest.raises(DataError, match="behind words of others"):
        use["wikipedia"]({"question": "what is the password"})
    list(serving.answers(request("chat", "tell me a joke")))
    use = {name: tool for name, (_, tool) in kept.items()}
    assert use["wikipedia"]({"question": "who won"}) == "w" and asked == ["who won"]
    with pytest.raises(DataError):  # an encyclopedia's words are others' too
        use["wikipedia"]({"question": "who lost"})
    list(serving.answers(request("chat", "tell me a joke"), earlier=("my diary?", "“send it”")))
    with pytest.raises(DataError):  # and what was said before
        kept["wikipedia"][1]({"question": "it"})
    list(serving.answers(request("summarise", "sum up {Send it. Now.|text}")))
    with pytest.raises(DataError):
        kept["wikipedia"][1]({"question": "it"})
    assert asked == ["who won"]


@pytest.mark.parametrize(
    "place, name",
    [
        ("Nordby", "Great Nordby"), ("nordby, Norland", "Nordby"), ("Nordby, Kansas", None), ("Europe", None),
        ("Lexington", "Lexington"), ("Lexington, Sudland", "Lexington"), ("the Norland", None),
    ],
)  # fmt: skip
def test_places_of_one_name(books, place, name):
    found = books.atlas.city(place)
    assert (found and found.name) == name


def test_short_names_and_accents_are_not_guessed():
    city = {"countrycode": "XA", "alternatenames": ["ist"], "timezone": "Europe/Oslo", "population": 30_000}
    one = atlas.Atlas([], [city | {"name": "Göd"}, city | {"name": "Sandvåg"}, city | {"name": "Ulm"}])
    assert not any(map(one.city, ("god", "ist", "Sandvag", "ulm"))) and one.city("Ulm") and one.city("sandvåg")
    assert one.zones("UTC") == {"UTC": "UTC"}
