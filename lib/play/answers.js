// How each kind of answer is shown, whatever experiment it is of. Everything is text but what is made here.
export function make(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name in node && name !== "list") node[name] = value;
    else node.setAttribute(name, value);
  }
  node.append(...children);
  return node;
}

const kinds = { png: "image/png", gif: "image/gif", svg: "image/svg+xml", wav: "audio/wav", mid: "audio/midi" };

// `asked`: what the answer is of, and `write`, where a text can be written on, which does it.
export function display(answer, place, asked) {
  const type = kinds[answer.name?.split(".").pop()] ?? "application/octet-stream";
  const url = answer.base64 && `data:${type};base64,${answer.base64}`;
  const save = url && make("a", { href: url, download: answer.name }, answer.name);
  const caption = url && make("figcaption", {}, answer.caption ?? "", save);
  if (answer.kind === "text") {
    if (place.lastChild?.className !== "said") place.append(make("pre", { className: "said" }));
    place.lastChild.append(answer.text);
  } else if (answer.kind === "call") {
    const given = answer.arguments.flatMap(([name, words]) => [make("dt", {}, name), make("dd", {}, words)]);
    place.append(make("div", { className: "call" }, make("b", {}, answer.tool), make("dl", {}, ...given)));
  } else if (answer.kind === "note") place.append(make("p", { className: "note" }, answer.text));
  else if (answer.kind === "error") place.append(make("p", { className: "bad" }, answer.message));
  else if (answer.kind === "table") place.append(table(answer));
  else if (answer.kind === "picture") {
    const image = make("img", { src: url, alt: answer.caption || asked.of });
    const figure = make("figure", {}, image, caption);
    image.onload = () => {
      if (answer.frames > 1 || answer.versions > 1) stage(answer, image, figure);
      if (image.naturalWidth >= 400) return;
      image.width = image.naturalWidth * Math.ceil(400 / image.naturalWidth);
      image.className = "small"; // whose pixels are meant to be seen
    };
    place.append(figure);
  } else if (answer.kind === "steps") {
    place.append(steps(answer, (place.querySelector("pre.said")?.textContent ?? "").replace(/\n$/, ""), asked.write));
  } else if (answer.kind === "sound") {
    place.append(make("figure", {}, make("audio", { controls: true, src: url, "aria-label": answer.name }), caption));
  } else if (answer.kind === "document") place.append(make("figure", {}, caption));
}

// A sheet whose columns follow one another is shown one column at a time, and one whose rows are versions of the same
// pictures as one row that is wiped over the one before it, by a slider in front of the sheet.
function stage({ frames, versions, gap }, image, figure) {
  const n = frames || versions, { naturalWidth: width, naturalHeight: height } = image;
  const w = frames ? (width - gap) / n : width - gap, h = frames ? height - gap : (height - gap) / n;
  const canvas = make("canvas", { width: w + gap, height: h + gap, className: "small" }), brush = canvas.getContext("2d");
  canvas.style.width = `${Math.min(832, (w + gap) * Math.max(1, Math.round(256 / h)))}px`;
  const bar = make("input", { type: "range", min: 0, max: n - 1, step: frames ? 1 : 0.01, value: 0 });
  bar.setAttribute("aria-label", frames ? "which of the columns" : "how far the next row is wiped over this one");
  bar.oninput = () => {
    const at = Math.min(Math.floor(+bar.value), frames ? n - 1 : n - 2), part = frames ? 0 : +bar.value - at;
    brush.drawImage(image, frames ? at * w : 0, frames ? 0 : at * h, w + gap, h + gap, 0, 0, w + gap, h + gap);
    const over = part * w;
    if (over > 0) brush.drawImage(image, 0, (at + 1) * h, over, h + gap, 0, 0, over, h + gap);
  };
  bar.oninput();
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", frames ? "one column of the picture below" : "one row of the picture below");
  figure.prepend(make("div", { className: "stage" }, canvas, bar));
}

// A text's tokens, the darker the less probable; the one in focus shows what else was likely, and what was looked at.
function steps({ tokens, p, likeliest, begins, read, looked }, said, write) {
  const source = read.map((word) => make("span", { className: "read" }, word));
  const others = make("div", { className: "others" });
  others.setAttribute("aria-live", "off"); // who goes along the tokens hears the token
  const look = (i) => {
    for (const other of words) {
      other.tabIndex = other === words[i] ? 0 : -1;
      other.setAttribute("aria-current", String(other === words[i]));
    }
    const most = Math.max(...(looked[i] ?? []));
    source.forEach((word, j) => word.style.setProperty("--looked", looked[i][j] / most));
    others.replaceChildren(make("p", { className: "note" }, `${shown(tokens[i])} had ${percent(p[i])}; likeliest here:`),
      make("ul", {}, ...likeliest[i].map(([word, share]) => {
        const on = write && begins.length && !word.includes("\ufffd");
        const name = make(on ? "button" : "span", {}, shown(word));
        if (on) {
          Object.assign(name, { type: "button", title: "write on with this one" });
          name.onclick = () => write([...said].slice(0, begins[i]).join("") + word);
        }
        return make("li", {}, name, meter(share), percent(share));
      })));
  };
  let pinned = false; // by focus: what the mouse passes on its way to the list does not change it
  const words = tokens.map((token, i) => {
    const word = make("button", { type: "button", tabIndex: i ? -1 : 0, title: percent(p[i]) }, read.length ? token : shown(token));
    word.style.setProperty("--surprise", Math.min(1, -Math.log2(Math.max(p[i] ?? 1, 1e-9)) / 10));
    word.setAttribute("aria-label", `${token.trim() || "space"}, ${percent(p[i])}`);
    word.onmouseenter = () => { if (!pinned) look(i); };
    word.onfocus = word.onclick = () => { pinned = true; look(i); };
    return word;
  });
  const line = make("div", { className: "tokens", role: "group" }, ...words);
  line.setAttribute("aria-label", "Tokens; arrow keys go from one to the next");
  line.onkeydown = (event) => {
    const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!by) return;
    event.preventDefault();
    words[words.indexOf(document.activeElement) + by]?.focus();
  };
  const hint = "The darker a token, the less probable the model found it. Click on one, or go along them with the arrow keys.";
  const section = make("section", { className: "steps" }, make("p", { className: "note" }, hint), line,
    ...(read.length ? [make("p", { className: "note" }, "Where it looked:"), make("div", { className: "tokens" }, ...source)] : []), others);
  section.addEventListener("focusout", (event) => { pinned = section.contains(event.relatedTarget); });
  return section;
}

const meter = (x, max = 1) => {
  const found = make("meter", { value: x ?? 0, max });
  found.setAttribute("aria-hidden", "true"); // its number stands beside it
  return found;
};
const percent = (x) => x === null ? "–" : `${(100 * x).toPrecision(x < 0.001 ? 1 : 3)} %`;
const shown = (token) => token.replaceAll("\n", "↵") || "∅";

function table({ columns, rows }) {
  const best = Math.max(...rows.map((row) => row[columns.indexOf("score")] ?? -Infinity)); // log-probabilities
  const share = columns.map((name) => /percent|probability|^p\(|in %/.test(name));
  const cell = (x, i) => {
    const number = typeof x === "number";
    const shown = make("td", { className: number ? "number" : "" }, number ? String(+x.toPrecision(5)) : String(x ?? "–"));
    if (number && columns[i] === "score") shown.append(" ", meter(Math.exp(x - best)));
    if (number && share[i]) shown.append(" ", meter(x, x > 1 || /%|percent/.test(columns[i]) ? 100 : 1));
    return shown;
  };
  return make("table", {}, make("thead", {}, make("tr", {}, ...columns.map((name) => make("th", { scope: "col" }, name)))),
    make("tbody", {}, ...rows.map((row) => make("tr", {}, ...row.map(cell)))));
}
