// The explorer's page: what is open, its sliders, the map. The server computes; see server.py.
"use strict";

const $ = (id) => document.getElementById(id);
const LIMIT = 6; // standard deviations, to either side
let about = null;
let picture = null; // the open one, as the server described it
let groups = 0; // directions between groups of pictures
let state = { moves: {}, other: null, weight: 0 }; // what undo goes back to; other: the second picture
let past = [], future = [];
let turn = 0; // the last wish to open a picture, which alone is shown
let current = "", comparing = false; // the edited picture; whether the original is in its place
const chosen = { first: new Set(), second: new Set(), examples: new Set() };

// Asking

let asking = 0;

async function ask(name, body, raw = false, query = "") {
  if (["open", "upload", "group", "generate", "few_shot", "save"].includes(name)) $("error").hidden = true;
  const busy = setTimeout(() => { $("busy").hidden = false; }, 150);
  asking += 1;
  document.body.dataset.asking = asking;
  try {
    const answer = await fetch(`/api/${name}${query}`, {
      method: "POST", headers: { "X-Explorer": "1" }, body: raw ? body : JSON.stringify(body || {}),
    });
    if (!answer.ok) throw new Error((await answer.json()).error);
    return await (name === "save" ? answer.blob() : answer.json());
  } catch (error) {
    const gone = error instanceof TypeError; // no answer at all
    say(gone ? "The explorer does not answer: is its command still running?" : error.message);
    throw error;
  } finally {
    clearTimeout(busy);
    asking -= 1;
    document.body.dataset.asking = asking;
    if (!asking) $("busy").hidden = true;
  }
}

function say(words) {
  $("error").textContent = words;
  $("error").hidden = false;
}

// A click's work: its errors were said already.
const on = (id, event, does) => $(id).addEventListener(event, (e) => { Promise.resolve(does(e)).catch(() => {}); });

// The edited picture: one request at a time, and the last wish wins.

let wish = null, working = false;

function show(preview) {
  wish = { preview };
  if (!working) work().catch(() => {});
}

async function work() {
  working = true;
  while (wish && picture) {
    const { preview } = wish, of = picture;
    wish = null;
    try {
      const found = await ask("edit", { ...asked(), preview });
      if (of !== picture) continue;
      current = found.image;
      $("edited").dataset.preview = preview ? "1" : "";
      $("lines").textContent = found.lines;
      classes(found.classes);
      look();
    } catch { /* said already, and the next wish may go well */ }
  }
  working = false;
}

const asked = () => ({ picture: picture.picture, moves: moves(), hold: $("hold").checked,
  noise: $("noise").checked, other: state.other && state.other.picture, weight: state.weight });

function look() { // the edited picture, or what it is compared with
  $("edited").src = comparing && picture.original ? picture.original : current;
}

const moves = () => Object.entries(state.moves).filter(([, amount]) => amount).map(([key, amount]) => {
  const [kind, ...which] = key.split(" ");
  return { kind, which: kind === "attribute" ? which.join(" ") : Number(which[0]), amount };
});

function classes(found) {
  for (const [name, p] of Object.entries(found)) {
    const mark = document.querySelector(`[data-key="attribute ${CSS.escape(name)}"] small`);
    if (mark) mark.textContent = ` ${Math.round(100 * p)} %`;
  }
}

// Undo

const copy = () => ({ ...state, moves: { ...state.moves } });
const remember = () => { past.push(copy()); future = []; buttons(); };

function travel(from, to) {
  if (!from.length) return;
  to.push(copy());
  state = from.pop();
  sliders();
  show(false);
}

function buttons() {
  $("undo").disabled = !past.length;
  $("redo").disabled = !future.length;
  $("reset").disabled = !moves().length && !state.weight;
  $("between-groups").disabled = !(chosen.first.size && chosen.second.size);
  $("more").disabled = !chosen.examples.size;
  $("clear").disabled = !(chosen.first.size + chosen.second.size + chosen.examples.size);
  const n = chosen.examples.size;
  $("more").textContent = n ? `More like the ${n} example${n > 1 ? "s" : ""}` : "More like the examples";
}

function sliders() {
  for (const row of document.querySelectorAll("#sliders .slider")) {
    const amount = state.moves[row.dataset.key] || 0;
    row.querySelector("input").value = amount;
    row.querySelector("output").textContent = amount ? `${amount > 0 ? "+" : "−"}${Math.abs(amount).toFixed(1)}` : "0";
  }
  $("two").hidden = !state.other;
  if (state.other) $("other").src = state.other.original || state.other.alone;
  $("weight").value = state.weight;
  $("weight-value").textContent = `${Math.round(100 * state.weight)} %`;
  buttons();
}

function addSlider(key, words, title = "") {
  const row = document.createElement("label");
  row.className = "slider";
  row.dataset.key = key;
  row.title = title;
  const name = document.createElement("span");
  name.append(words, document.createElement("small"));
  const input = Object.assign(document.createElement("input"),
    { type: "range", min: -LIMIT, max: LIMIT, step: 0.1, value: 0, disabled: !picture });
  input.setAttribute("aria-label", words);
  row.append(name, input, document.createElement("output"));
  let moving = false;
  const begin = () => { if (!moving) { moving = true; remember(); } };
  input.addEventListener("input", () => {
    begin();
    state.moves[key] = Number(input.value);
    state.weight = 0;
    sliders();
    show(true);
  });
  input.addEventListener("change", () => { moving = false; show(false); });
  input.addEventListener("dblclick", () => { remember(); state.moves[key] = 0; sliders(); show(false); });
  $("sliders").append(row);
  return row;
}

function heading(words) {
  const h3 = document.createElement("h3");
  h3.textContent = words;
  $("sliders").append(h3);
}

// Opening pictures

async function opened(found) {
  picture = found;
  state = { moves: {}, other: state.other, weight: 0 };
  past = []; future = [];
  $("opened").hidden = false;
  $("welcome").hidden = true;
  $("stage-title").textContent = found.name;
  $("alone").src = current = found.alone;
  look();
  for (const id of ["original", "exact"]) $(id).parentElement.hidden = !found.original;
  $("exact").removeAttribute("src");
  if (found.original) $("original").src = found.original;
  $("noise").parentElement.hidden = $("compare").hidden = !found.original;
  for (const input of document.querySelectorAll("#sliders input")) input.disabled = false;
  classes(found.classes);
  sliders();
  draw();
  if (found.original) {
    const { exact } = await ask("exact", { picture: found.picture });
    if (picture === found) $("exact").src = exact;
  }
  if (picture !== found) return;
  show(false);
  const near = await ask("neighbours", { picture: found.picture });
  if (picture !== found) return;
  $("near").hidden = !near.points.length;
  $("neighbours").replaceChildren(...near.points.map((point) => {
    const button = document.createElement("button");
    button.title = about.map.words[point].join("; ");
    button.setAttribute("aria-label", `open ${about.map.words[point][0]}`);
    button.append(thumbnail(point, 56));
    button.addEventListener("click", () => take(point, "open").catch(() => {}));
    return button;
  }));
}

// Of several wishes to open something the last is shown, whichever is answered first.
async function last(found) {
  const mine = ++turn, one = await found;
  if (mine === turn) await opened(one);
}

async function upload(file) {
  if (file) await last(ask("upload", file, true, `?name=${encodeURIComponent(file.name)}`));
}

function made(pictures) {
  $("made").prepend(...pictures.map((one) => {
    const button = document.createElement("button");
    button.title = one.name;
    button.append(Object.assign(new Image(), { src: one.alone, alt: one.name }));
    button.addEventListener("click", () => {
      if (mode() === "other") second(one);
      else last(one).catch(() => {});
    });
    return button;
  }));
}

function second(found) {
  remember();
  state.other = found;
  state.weight = 0;
  sliders();
  if (picture) show(false);
}

async function take(point, how) {
  if (how === "open") return last(ask("open", { point }).then((found) => ({ ...found, point })));
  if (how === "other") return second(await ask("open", { point }));
  if (!chosen[how].delete(point)) chosen[how].add(point);
  buttons();
  draw();
}

// The map

const mode = () => document.querySelector("[name=mode]:checked").value;
const HINTS = {
  open: "A click opens a picture.",
  other: "A click takes the second picture, to go towards from the open one.",
  first: "Draw around pictures, or click them, for group A.",
  second: "Draw around pictures, or click them, for group B; then take the slider from A to B.",
  examples: "Click some ten pictures of a kind, then have more of it made.",
};
let places = [], hovered = -1, lasso = null;

function thumbnail(point, size) {
  const { columns, height, width, rows } = about.map.sheet, zoom = size / Math.max(height, width);
  const found = document.createElement("i");
  found.style.cssText = `width:${width * zoom}px;height:${height * zoom}px;` +
    `background-image:url(/thumbnails.png);background-size:${columns * width * zoom}px ${rows * height * zoom}px;` +
    `background-position:${-(point % columns) * width * zoom}px ${-Math.floor(point / columns) * height * zoom}px`;
  return found;
}

function colour(css) { // with variables put in
  const probe = Object.assign(document.createElement("i"), { hidden: true });
  probe.style.color = css;
  document.body.append(probe);
  const found = getComputedStyle(probe).color;
  probe.remove();
  return found;
}

function layout() {
  const points = about.map.planes[$("plane").value].points, canvas = $("map");
  const scale = window.devicePixelRatio || 1, box = canvas.getBoundingClientRect();
  canvas.width = Math.round(box.width * scale);
  canvas.height = Math.round(box.height * scale);
  const xs = points.map((p) => p[0]), ys = points.map((p) => p[1]);
  const [x0, x1, y0, y1] = [Math.min(...xs), Math.max(...xs), Math.min(...ys), Math.max(...ys)];
  const zoom = Math.min(0.92 * canvas.width / (x1 - x0 || 1), 0.92 * canvas.height / (y1 - y0 || 1));
  places = points.map(([x, y]) => [canvas.width / 2 + (x - (x0 + x1) / 2) * zoom,
    canvas.height / 2 - (y - (y0 + y1) / 2) * zoom]);
}

function draw() {
  if (!about.map) return;
  const canvas = $("map"), to = canvas.getContext("2d"), scale = window.devicePixelRatio || 1;
  const { kinds, which } = about.map.colourings[$("colouring").value];
  const colours = kinds.map((kind) => colour(kind.colour));
  const marks = { first: colour("var(--c0)"), second: colour("var(--c1)"), examples: colour("var(--c2)") };
  to.clearRect(0, 0, canvas.width, canvas.height);
  const size = (places.length > 400 ? 3.2 : 4.5) * scale;
  const dot = (k, radius, fill, edge) => {
    to.beginPath();
    to.arc(...places[k], radius, 0, 7);
    if (fill) { to.fillStyle = fill; to.fill(); }
    if (edge) { to.strokeStyle = edge; to.lineWidth = 2 * scale; to.stroke(); }
  };
  places.forEach((_, k) => dot(k, size, colours[which[k]]));
  for (const [name, mark] of Object.entries(marks)) for (const k of chosen[name]) dot(k, size + 2.5 * scale, null, mark);
  const ink = colour("var(--ink)");
  if (picture && picture.point !== undefined) dot(picture.point, size + 4 * scale, null, ink);
  if (hovered >= 0) dot(hovered, size + 1.5 * scale, colours[which[hovered]], ink);
  if (lasso && lasso.length > 1) {
    to.beginPath();
    lasso.forEach(([x, y], k) => (k ? to.lineTo(x, y) : to.moveTo(x, y)));
    to.closePath();
    to.strokeStyle = ink; to.lineWidth = scale; to.setLineDash([4 * scale, 3 * scale]); to.stroke();
    to.setLineDash([]);
  }
}

function legend() {
  const { kinds } = about.map.colourings[$("colouring").value], plane = about.map.planes[$("plane").value];
  $("legend").replaceChildren(...kinds.map((kind) => {
    const item = document.createElement("li"), mark = document.createElement("i");
    mark.style.background = kind.colour;
    item.append(mark, kind.name);
    return item;
  }));
  $("x-label").textContent = [plane.x, plane.y].filter(Boolean).join(" (right), ") + (plane.y ? " (up)" : "");
}

function at(event) { // pixels of the canvas
  const box = $("map").getBoundingClientRect(), scale = $("map").width / box.width;
  return [(event.clientX - box.left) * scale, (event.clientY - box.top) * scale];
}

function nearest([x, y]) {
  let best = -1, least = (14 * (window.devicePixelRatio || 1)) ** 2;
  places.forEach(([a, b], k) => {
    const d = (a - x) ** 2 + (b - y) ** 2;
    if (d < least) { least = d; best = k; }
  });
  return best;
}

function hover(point) {
  hovered = point;
  $("hover").hidden = point < 0;
  if (point >= 0) {
    const box = $("plot").getBoundingClientRect(), scale = $("map").width / box.width;
    const [x, y] = places[point].map((v) => v / scale), words = about.map.words[point];
    $("hover").querySelector("i").replaceWith(thumbnail(point, 96));
    $("hover").querySelector("b").textContent = words[0].split("/").pop();
    $("hover").querySelector("small").textContent = words[1];
    $("hover").style.left = `${x > box.width / 2 ? x - 12 - $("hover").offsetWidth : x + 12}px`;
    $("hover").style.top = `${Math.max(0, y > box.height / 2 ? y - $("hover").offsetHeight : y)}px`;
  }
  draw();
}

function inside([x, y], path) {
  let found = false;
  for (let i = 0, j = path.length - 1; i < path.length; j = i++) {
    const [a, b] = path[i], [c, d] = path[j];
    if (b > y !== d > y && x < ((c - a) * (y - b)) / (d - b) + a) found = !found;
  }
  return found;
}

function pointers() {
  const canvas = $("map");
  canvas.addEventListener("pointerdown", (event) => {
    canvas.setPointerCapture(event.pointerId);
    lasso = [at(event)];
  });
  canvas.addEventListener("pointermove", (event) => {
    if (lasso && mode() in chosen) { lasso.push(at(event)); draw(); } else hover(nearest(at(event)));
  });
  canvas.addEventListener("pointerup", (event) => {
    const path = lasso;
    lasso = null;
    if (!path) return;
    const [[x0, y0], [x, y]] = [path[0], at(event)];
    if (mode() in chosen && path.length > 3 && Math.hypot(x - x0, y - y0) + path.length > 8) {
      places.forEach((place, k) => { if (inside(place, path)) chosen[mode()].add(k); });
      buttons();
      draw();
      return;
    }
    const point = nearest([x, y]);
    if (point >= 0) take(point, mode()).catch(() => {});
  });
  canvas.addEventListener("pointerleave", () => { if (!lasso) hover(-1); });
  canvas.addEventListener("keydown", (event) => {
    const way = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[event.key];
    if (way) {
      event.preventDefault();
      const [x, y] = hovered < 0 ? [canvas.width / 2, canvas.height / 2] : places[hovered];
      let best = -1, least = Infinity;
      places.forEach(([a, b], k) => {
        const ahead = (a - x) * way[0] + (b - y) * way[1], aside = Math.abs((a - x) * way[1]) + Math.abs((b - y) * way[0]);
        if (k !== hovered && ahead > 0 && aside <= ahead && ahead + 2 * aside < least) { least = ahead + 2 * aside; best = k; }
      });
      if (best >= 0) hover(best);
    } else if (event.key === "Enter" && hovered >= 0) take(hovered, mode()).catch(() => {});
  });
}

// Start

function options(id, names) {
  $(id).replaceChildren(...names.map((name, k) => new Option(name, k)));
  $(id).parentElement.hidden = names.length < 2;
}

async function start() {
  about = await ask("about");
  document.title = $("title").textContent = about.title;
  $("about").textContent = about.words;
  document.body.classList.toggle("pixels", about.shape[0] < 128);
  $("from-nothing").hidden = !about.generate;
  $("mode-examples").hidden = $("more").hidden = !about.generate;
  if (about.attributes.length) heading("Attributes");
  for (const name of about.attributes) addSlider(`attribute ${name}`, name, "beside its name what the classifier says of the picture");
  if (about.shares.length) heading("Principal components");
  about.shares.forEach((share, k) => addSlider(`component ${k}`, `component ${k + 1}`)
    .querySelector("small").append(` ${(100 * share).toFixed(0)} %`));
  $("hold-label").hidden = !about.attributes.length;
  $("moves").hidden = !(about.attributes.length + about.shares.length);
  $("with-map").hidden = !about.map;
  $("without-map").hidden = Boolean(about.map);
  if (about.map) {
    options("plane", about.map.planes.map((one) => one.name));
    options("colouring", about.map.colourings.map((one) => one.name));
    pointers();
    const again = () => { layout(); legend(); draw(); };
    for (const id of ["plane", "colouring"]) $(id).addEventListener("change", again);
    new ResizeObserver(again).observe($("plot"));
    matchMedia("(prefers-color-scheme: dark)").addEventListener("change", draw);
    for (const radio of document.querySelectorAll("[name=mode]"))
      radio.addEventListener("change", () => { $("hint").textContent = HINTS[mode()]; });
    $("hint").textContent = HINTS.open;
    again();
    const middle = places.map(([x, y]) => Math.hypot(x - $("map").width / 2, y - $("map").height / 2));
    take(middle.indexOf(Math.min(...middle)), "open").catch(() => {}); // something to see at once
  }
  sliders();
  on("file", "change", () => upload($("file").files[0]));
  const stage = $("stage");
  for (const kind of ["dragover", "dragleave", "drop"])
    stage.addEventListener(kind, (event) => { event.preventDefault(); stage.classList.toggle("drop", kind === "dragover"); });
  stage.addEventListener("drop", (event) => upload(event.dataTransfer.files[0]).catch(() => {}));
  on("undo", "click", () => travel(past, future));
  on("redo", "click", () => travel(future, past));
  on("reset", "click", () => { remember(); state = { moves: {}, other: state.other, weight: 0 }; sliders(); show(false); });
  for (const id of ["noise", "hold"]) on(id, "change", () => show(false));
  const compare = (begins) => () => { comparing = begins; look(); };
  for (const name of ["pointerdown", "pointerup", "pointerleave", "blur"])
    $("compare").addEventListener(name, compare(name === "pointerdown"));
  $("compare").addEventListener("keydown", (event) => { if (event.key === " " && !event.repeat) compare(true)(); });
  $("compare").addEventListener("keyup", compare(false));
  let going = false;
  $("weight").addEventListener("input", () => {
    if (!going) { going = true; remember(); }
    state.weight = Number($("weight").value);
    state.moves = {};
    sliders();
    show(true);
  });
  $("weight").addEventListener("change", () => { going = false; show(false); });
  on("generate", "click", async () => {
    made((await ask("generate", { n: 8, seed: Number($("seed").value) })).pictures);
    $("seed").value = Number($("seed").value) + 1;
  });
  on("more", "click", async () => {
    made((await ask("few_shot", { points: [...chosen.examples], n: 8, seed: Number($("seed").value) })).pictures);
    $("seed").value = Number($("seed").value) + 1;
  });
  on("between-groups", "click", async () => {
    const { group } = await ask("group", { first: [...chosen.first], second: [...chosen.second] });
    if (!groups++) heading("Between groups");
    addSlider(`group ${group}`, `A to B, ${group + 1}`, `${chosen.first.size} pictures to ${chosen.second.size}`);
  });
  on("clear", "click", () => { for (const one of Object.values(chosen)) one.clear(); buttons(); draw(); });
  on("save", "click", async () => {
    const blob = await ask("save", asked());
    const link = Object.assign(document.createElement("a"), { href: URL.createObjectURL(blob), download: "explored.zip" });
    link.click();
    URL.revokeObjectURL(link.href);
  });
  document.body.dataset.ready = "1";
}

start().catch(() => {});
