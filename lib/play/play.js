// The page: forms of what can be asked, answers as they come. Everything is text but what is made here.
import { display, make } from "./answers.js";

const token = location.hash.slice(1);
const $ = (id) => document.getElementById(id);
// `turn` counts what is shown: answers to a question of another turn are not.
const here = { one: null, verbs: [], verb: null, fields: [], carried: {}, busy: false, again: false, turn: 0 };

function tell(message) { $("told").textContent = message; $("told").hidden = !message; }

async function call(path, options = {}) {
  let response;
  try {
    response = await fetch("/api/" + path, { ...options, headers: { "X-Token": token } });
  } catch {
    throw new Error("the server does not answer: start it again with `just play`");
  }
  if (!response.ok) throw new Error((await response.json()).error);
  return response;
}

async function* lines(response) {
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    const parts = (rest + (value ?? "")).split("\n");
    rest = parts.pop();
    for (const part of parts) if (part) yield JSON.parse(part);
    if (done) { if (rest) yield JSON.parse(rest); return; }
  }
}

// ---- experiments, runs, verbs ----

async function start() {
  if (!token) return tell("Open the address that `just play` printed: the word behind # is missing.");
  let experiments;
  try {
    experiments = await (await call("runs")).json();
  } catch (error) { return tell(error.message); }
  const order = experiments.sort((a, b) => (b.runs.length > 0) - (a.runs.length > 0));
  $("list").replaceChildren(...order.map((one) => {
    const button = make("button", { type: "button", className: one.runs.length ? "" : "none" },
      one.name.replace(/^exp_/, "").replaceAll("_", " "), make("small", {}, one.about));
    button.onclick = () => open(one.name, button);
    return make("li", {}, button);
  }));
  const wanted = new URLSearchParams(location.search).get("experiment");
  const first = order.findIndex((one) => (wanted ? one.name === wanted : one.runs.length));
  if (first >= 0) $("list").children[first].firstChild.click();
  else tell("No run is finished yet. Train one in a terminal, such as: just run exp_transformer_fr");
}

function turn() {
  here.carried = {};
  here.again = false;
  $("out").replaceChildren();
  return ++here.turn;
}

async function open(name, button) {
  const now = turn();
  here.verb = null;
  working(here.busy);
  for (const other of document.querySelectorAll("nav [aria-current]")) other.removeAttribute("aria-current");
  button.setAttribute("aria-current", "true");
  let one;
  try { // again, for runs that were finished or deleted meanwhile
    one = (await (await call("runs")).json()).find((other) => other.name === name);
  } catch (error) { return tell(error.message); }
  if (here.turn !== now) return;
  here.one = one;
  $("name").textContent = one.name;
  $("about").textContent = one.about + (one.about.endsWith("...") ? "" : ".");
  $("page").hidden = !one.runs.length;
  tell(one.runs.length ? "" : `No run of ${one.name} is finished yet. Make one in a terminal: just run ${one.name}`);
  if (!one.runs.length) return;
  $("run").replaceChildren(...one.runs.map((run) => make("option", {}, run.name)));
  results();
  for (const id of ["verbs", "fields", "more"]) $(id).replaceChildren();
  $("doing").textContent = "";
  $("settings").hidden = true;
  $("state").textContent = "starting the model's process …";
  try {
    for await (const answer of lines(await call("verbs/" + one.name))) {
      if (here.turn !== now) return;
      if (answer.kind === "error") throw new Error(answer.message);
      here.verbs = answer.verbs;
    }
    if (here.turn !== now) return;
    $("verbs").hidden = here.verbs.length < 2;
    $("verbs").replaceChildren(...here.verbs.map((verb) => {
      const tab = make("button", { type: "button" }, verb.verb);
      tab.onclick = () => show(verb, tab);
      return tab;
    }));
    $("verbs").firstChild.click();
  } catch (error) { if (here.turn === now) { working(here.busy); tell(error.message); } }
}

const ofRun = () => here.one.runs.find((run) => run.name === $("run").value);

function results() {
  const run = ofRun();
  $("result").replaceChildren(...Object.entries(run?.result ?? {}).map(([name, x]) =>
    make("tr", {}, make("td", {}, name), make("td", { className: "number" }, String(+x.toPrecision(5))))));
}

function show(verb, tab) {
  turn();
  here.verb = verb;
  working(here.busy);
  for (const other of $("verbs").children) other.setAttribute("aria-pressed", String(other === tab));
  $("doing").textContent = verb.about.replace(/,? with the latest finished run/, "");
  $("fresh").hidden = !verb.carried.length;
  here.fields = verb.fields.map(widget);
  const first = (field) => field.positional || field.many || field.kind === "text" || field.name === "seed" ||
    verb.fields.length < 4;
  $("fields").replaceChildren(...here.fields.filter((w) => first(w.field)).map((w) => w.node));
  $("more").replaceChildren(...here.fields.filter((w) => !first(w.field)).map((w) => w.node));
  $("settings").hidden = !$("more").children.length;
}

// ---- a widget for each kind of field: {field, node, value()}, undefined for what is left as it is ----

function widget(field) {
  const id = "f-" + field.name;
  const sliders = typeof field.many === "number" && field.low != null && field.high != null;
  const make_one = sliders ? slide : field.plane ? plane : { flag, drawing: flag, choice, source: file, file, number }[field.kind] ?? text;
  const [value, ...nodes] = make_one(field, id);
  const name = field.kind === "drawing" && field.name === "out" ? "picture" : field.name.replaceAll("_", " ");
  const title = make("label", { className: "label", htmlFor: id }, name[0].toUpperCase() + name.slice(1));
  const help = make("small", { id: id + "-help" }, field.help.replace(/ If (it is )?not given, texts.*| If it is not given, there.*/, ""));
  for (const node of nodes) node.querySelector?.(`[id="${id}"]`)?.setAttribute("aria-describedby", id + "-help");
  return { field, value, node: make("fieldset", {}, title, help, ...nodes) };
}

const same = (a, b) => JSON.stringify(a) === JSON.stringify(b);

function text(field, id) {
  const long = field.many || field.name === "text";
  const box = make(long ? "textarea" : "input", { id, value: [field.default ?? ""].flat().join("\n") });
  if (field.many) box.placeholder = "one a line";
  if (!long) box.type = "text";
  box.onkeydown = (event) => { if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) $("form").requestSubmit(); };
  const words = () => box.value.split("\n").filter((line) => line.trim());
  const chips = make("div", { className: "row chips" });
  box.oninput = () => { for (const chip of chips.children) chip.setAttribute("aria-pressed", String(words().includes(chip.textContent))); };
  const renew = () => { // of the run that is chosen
    chips.replaceChildren(...(field.named ? ofRun()?.words ?? [] : []).map((word) => {
      const chip = make("button", { type: "button" }, word);
      chip.onclick = () => {
        const others = words().filter((other) => other !== word), more = words().includes(word) ? [] : [word];
        box.value = (field.many ? [...others, ...more] : more).join("\n");
        box.oninput();
      };
      return chip;
    }));
    box.oninput();
  };
  renew();
  return [Object.assign(() => (field.many ? words() : box.value || field.default), { renew }), make("div", {}, box), chips];
}

function number(field, id) {
  const parse = (word) => {
    const x = Number(word.trim());
    if (!Number.isFinite(x) || (field.whole && !Number.isSafeInteger(x))) {
      throw new Error(`${field.name}: ${word} is no ${field.whole ? "whole " : ""}number`);
    }
    return x;
  };
  const box = make("input", { id, type: "text", inputMode: "decimal", value: [field.default ?? []].flat().join(" ") });
  const words = () => box.value.split(/[\s,]+/).filter(Boolean);
  const value = () => (field.many ? words().map(parse) : box.value.trim() ? parse(box.value) : field.default);
  if (field.name !== "seed") return [value, make("div", {}, box)];
  const dice = make("button", { type: "button" }, "Another");
  dice.onclick = () => { if (here.busy) return; box.value = Math.floor(Math.random() * 1e6); $("form").requestSubmit(); };
  return [value, make("div", { className: "row" }, box, dice)];
}

function slide(field, id) {
  const bars = Array.from({ length: field.many }, (_, i) => make("input", { id: i ? `${id}-${i}` : id, type: "range",
    min: field.low, max: field.high, step: (field.high - field.low) / 120, value: field.default?.[i] ?? 0 }));
  const shown = bars.map((bar, i) => {
    const said = make("output", {}, (+bar.value).toFixed(1));
    bar.oninput = () => { said.textContent = (+bar.value).toFixed(1); ask(true); };
    bar.setAttribute("aria-label", `${field.name} ${i + 1}`);
    return make("label", {}, String(i + 1), bar, said);
  });
  const zero = make("button", { type: "button" }, "All to 0");
  zero.onclick = () => { for (const bar of bars) bar.value = 0; bars[0].oninput(); for (const s of shown) s.lastChild.textContent = "0.0"; };
  return [() => bars.map((bar) => +(+bar.value).toFixed(3)), make("div", { className: "sliders" }, ...shown), zero];
}

function plane(field, id) { // a point: its two numbers, and the part of the plane in which it lies, to click on
  const [left, right, bottom, top] = field.plane, side = 260;
  const [value, row] = number(field, id);
  const draw = (tag, attributes, ...children) => {
    const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, x] of Object.entries(attributes)) node.setAttribute(name, x);
    node.append(...children);
    return node;
  };
  const across = (x) => ((x - left) / (right - left)) * side, up = (y) => ((top - y) / (top - bottom)) * side;
  const axis = (x, y, u, v) => draw("line", { x1: x, y1: y, x2: u, y2: v, class: "axis" });
  const spot = draw("circle", { r: 5, class: "spot" }), box = row.firstChild;
  const map = draw("svg", { width: side, height: side, class: "plane", role: "img", "aria-label": "the plane; the numbers above say the point" },
    axis(0, up(0), side, up(0)), axis(across(0), 0, across(0), side), spot);
  const place = () => {
    const [x, y] = box.value.split(/[\s,]+/).filter(Boolean).map(Number);
    spot.setAttribute("visibility", Number.isFinite(x) && Number.isFinite(y) ? "visible" : "hidden");
    if (Number.isFinite(x) && Number.isFinite(y)) { spot.setAttribute("cx", across(x)); spot.setAttribute("cy", up(y)); }
  };
  const point = (event) => {
    const rect = map.getBoundingClientRect();
    const x = left + ((event.clientX - rect.left) / rect.width) * (right - left);
    const y = top - ((event.clientY - rect.top) / rect.height) * (top - bottom);
    box.value = `${x.toFixed(2)} ${y.toFixed(2)}`;
    place();
    ask(true);
  };
  map.onpointerdown = (event) => { map.setPointerCapture(event.pointerId); point(event); };
  map.onpointermove = (event) => { if (event.buttons) point(event); };
  box.oninput = place;
  place();
  return [value, row, map];
}

function flag(field, id) {
  const box = make("input", { id, type: "checkbox", checked: field.default || field.shown });
  return [() => box.checked, make("div", {}, box)];
}

function choice(field, id) {
  const box = make("select", { id }, ...field.choices.map((one) => make("option", { selected: one === field.default }, String(one))));
  return [() => field.choices[box.selectedIndex], make("div", {}, box)];
}

function file(field, id) {
  const names = new Map(); // what the server calls a file, by what a person sees
  const box = make("input", { id, type: "text", value: [field.default ?? []].flat().join(" "), size: 24,
    placeholder: field.kind === "source" ? (field.names.length ? field.names.join(" ") : "numbers") : "no file" });
  const pick = make("input", { type: "file", multiple: Boolean(field.many), hidden: true });
  const button = make("button", { type: "button" }, "Choose a file");
  button.onclick = () => pick.click();
  const give = async (files) => {
    try {
      const given = [];
      for (const one of files) {
        const answer = await (await call("upload?name=" + encodeURIComponent(one.name), { method: "POST", body: one })).json();
        let shown = one.name.replace(/[\s,]+/g, "-");
        while (names.has(shown)) shown = "_" + shown;
        names.set(shown, answer.file);
        given.push(shown);
      }
      box.value = field.many ? given.join(" ") : given.at(-1) ?? box.value;
      tell("");
    } catch (error) { tell(error.message); }
  };
  pick.onchange = () => { give([...pick.files]); pick.value = ""; };
  const row = make("div", { className: "row" }, box, button, pick);
  row.ondragover = (event) => { event.preventDefault(); row.classList.add("drop"); };
  row.ondragleave = () => row.classList.remove("drop");
  row.ondrop = (event) => { event.preventDefault(); row.classList.remove("drop"); give([...event.dataTransfer.files]); };
  const shown = () => box.value.split(/[\s,]+/).filter(Boolean);
  const value = (words) => (field.many ? words : words[0] ?? null);
  return [Object.assign(() => value(shown().map((word) => names.get(word) ?? word)), { shown: () => value(shown()) }), row];
}

function request(shown = false) { // `shown`: with the names of files as a person sees them
  const wanted = { verb: here.verb.verb, ...here.carried };
  for (const { field, value } of here.fields) {
    const x = (shown && value.shown ? value.shown : value)();
    if (!same(x, field.default) && !(Array.isArray(x) && !x.length && field.default === null)) wanted[field.name] = x;
  }
  return wanted;
}

// ---- asking and answering ----

async function ask(live = false) {
  if (!here.verb) return;
  if (here.busy) { here.again ||= live; return; }
  const now = here.turn, talk = here.verb.carried.length > 0;
  let asked;
  try { asked = request(); tell(""); } catch (error) { return tell(error.message); }
  const box = make("div");
  const place = talk || live ? box : $("out");
  if (talk) $("out").append(make("pre", { className: "asked" }, asked.text ?? ""), box);
  else if (!live) $("out").replaceChildren();
  working(true);
  try {
    const body = JSON.stringify({ ...asked, run: $("run").value });
    for await (const answer of lines(await call("ask/" + here.one.name, { method: "POST", body }))) {
      if (here.turn !== now) continue;
      if (answer.kind === "end") here.carried = { ...here.carried, ...answer.next };
      else display(answer, place, { of: `${here.verb.verb} of ${here.one.name}`, write: talk ? null : writer() });
    }
    if (live && here.turn === now) $("out").replaceChildren(...box.childNodes);
  } catch (error) { if (here.turn === now) tell(error.message); }
  working(false);
  if (here.again) { here.again = false; ask(true); }
}

function writer() { // what writes a text on, where the verb has one
  const box = here.fields.find((w) => w.field.name === "text")?.node.querySelector("textarea");
  return box && ((text) => {
    if (here.busy) return;
    box.value = text;
    box.focus();
    $("form").requestSubmit();
  });
}

function working(on) {
  here.busy = on;
  $("go").disabled = on || !here.verb;
  $("state").textContent = on ? "working …" : "";
}

const quoted = (word) => (/^[\w.,=:/-]+$/.test(word) ? word : `'${word.replaceAll("'", `'\\''`)}'`);

function command() {
  const { verb, ...asked } = request(true);
  const words = ["just", "sample", here.one.name, ...(here.verbs.length > 1 ? [verb] : [])], flags = [];
  for (const [name, x] of Object.entries(asked)) {
    const field = here.fields.find((w) => w.field.name === name)?.field ?? {};
    const flag = "--" + (x === false ? "no-" : "") + name.replaceAll("_", "-");
    const values = field.kind === "drawing" ? [name + ".png"] : typeof x === "boolean" ? [] : [x].flat().map(String);
    if (field.positional && field.kind !== "text") words.push(...values);
    else flags.push(flag, ...values);
  }
  return [...words, "--run", `runs/${here.one.name}/${$("run").value}`, ...flags].map(quoted).join(" ");
}

$("form").onsubmit = (event) => { event.preventDefault(); ask(); };
$("stop").onclick = () => { here.again = false; call("stop", { method: "POST" }).catch((error) => tell(error.message)); };
$("fresh").onclick = turn;
$("run").onchange = () => {
  turn();
  results();
  for (const { value } of here.fields) value.renew?.();
};
$("command").onclick = () => {
  try {
    $("state").textContent = command();
    navigator.clipboard?.writeText($("state").textContent).catch(() => {}); // shown in any case
  } catch (error) { tell(error.message); }
};
start();
