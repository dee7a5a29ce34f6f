"use strict";
const SVG = "http://www.w3.org/2000/svg";
const WINDOW = 60, EVERY = 500;
const by = (id) => document.getElementById(id);
let points = [], rows = new Map(), last = 0, offset = 0, wanted = null, sending = null, unit = "";
const answers = [], loads = [];

const ms = (s) => s == null ? "–" : s >= 1 ? s.toFixed(2) + " s" : s >= 0.1 ? (1e3 * s).toFixed(0) + " ms"
  : s >= 1e-3 ? (1e3 * s).toFixed(s >= 0.01 ? 1 : 2) + " ms" : (1e6 * s).toFixed(s >= 1e-5 ? 0 : 1) + " µs";
const scaled = (n, units) => {
  let place = 0;
  while (n >= 999.5 && place < units.length - 1) { n /= 1000; place++; }
  return n == null ? "–" : (place ? n.toPrecision(3) : String(Math.round(n))) + " " + units[place];
};
const bytes = (n) => scaled(n, ["B", "kB", "MB", "GB"]);
const count = (n) => scaled(n, ["", "k", "M", "G", "T"]);
const share = (x) => x == null ? "–" : (100 * x).toFixed(0) + " %";
const scoreWords = (x) => unit === "points" ? (100 * x).toFixed(2) + " %" : x.toPrecision(4);

function make(name, attributes, words) {
  const node = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
  if (words != null) node.textContent = words;
  return node;
}
function put(id, words) { const node = by(id); if (node.textContent !== words) node.textContent = words; }
function cell(kind, words) { const node = document.createElement(kind); node.textContent = words; return node; }
function path(pairs) { return pairs.map(([x, y], i) => (i ? "L" : "M") + x.toFixed(1) + " " + y.toFixed(1)).join(""); }
function place(label) { return points.findIndex((row) => row.point === label); }

async function ask(route, method = "GET", body) {
  const options = { method, headers: body ? { "content-type": "application/json" } : {} };
  if (body) options.body = JSON.stringify(body);
  const response = await fetch(route, options);
  const found = await response.json();
  if (!response.ok) throw new Error(found.error ? found.error.message : "status " + response.status);
  return found;
}
function problem(words) { by("problem").hidden = !words; put("problem", words || ""); }

async function begin() {
  const found = await ask("points");
  points = found.points;
  unit = found.conditions.unit || "";
  const slider = by("slider");
  slider.max = points.length - 1;
  by("places").replaceChildren(...points.map((row, i) => { const o = document.createElement("option"); o.value = i; return o; }));
  put("smallest", points[0].point);
  put("largest", points.length > 1 ? points[points.length - 1].point : "");
  put("score-name", found.conditions.score || "score");
  put("conditions", [found.conditions.task, found.conditions.score, "batch of " + (found.conditions.batch || "?"),
    (found.conditions.passes || "?") + " passes each"].filter(Boolean).join(" · "));
  for (const row of points) {
    const line = document.createElement("tr");
    const name = cell("th", row.point);
    name.scope = "row";
    const now = cell("td", "–");
    line.append(name, cell("td", scoreWords(row.score)), cell("td", ms(row.cost.latency)), cell("td", ms(row.p95)), now,
      cell("td", bytes(row.cost.bytes)), cell("td", count(row.cost.macs)), cell("td", bytes(row.memory)), cell("td", ms(row.switch)));
    line.classList.toggle("beaten", !row.frontier);
    rows.set(row.point, { line, now });
    by("rows").append(line);
  }
  drawProfile(found.point, null);
  by("timeline").parentNode.scrollLeft = 1e4;
}

function show(state) {
  offset = state.time - performance.now() / 1000;
  for (const one of state.recent) { answers.push(one); last = Math.max(last, one.number); }
  loads.push({ at: state.time, cpu: state.signals.cpu, others: state.signals.others });
  const old = state.time - WINDOW;
  while (answers.length && answers[0].at < old) answers.shift();
  while (loads.length && loads[0].at < old) loads.shift();

  const point = state.forced || state.point, newest = answers[answers.length - 1];
  put("point", point || "–");
  put("who", state.forced ? "forced by hand" : state.point ? "chosen by the governor" : "no request yet");
  put("latency", newest ? ms(newest.seconds) : "–");
  put("against", newest && newest.deadline != null ? "of " + ms(newest.deadline) : state.deadline ? "deadline " + ms(state.deadline) : "no deadline");
  by("latency").parentNode.classList.toggle("late", Boolean(newest && newest.deadline != null && newest.seconds > newest.deadline));
  put("missed", state.deadlines ? (100 * state.missed / state.deadlines).toFixed(1) + " %" : "–");
  put("counted", state.predictions ? state.missed + " of " + state.deadlines + " with a deadline" : "no request yet");
  put("cpu", share(state.signals.cpu));
  const more = [];
  if (state.signals.others != null) more.push("others " + share(state.signals.others));
  if (state.signals.battery != null) more.push("battery " + share(state.signals.battery));
  if (state.signals.temperature != null) more.push(state.signals.temperature.toFixed(0) + " °C");
  put("others", more.join(", ") || "not known");
  put("pace", state.slowdown.toFixed(2) + "×");
  for (const [label, { line, now }] of rows) {
    line.classList.toggle("active", label === point);
    now.textContent = ms(state.expected[label]);
  }
  follow(state, point);
  decided(state.decisions);
  drawTimeline(state);
  drawProfile(point, newest && newest.deadline != null ? newest.deadline : state.deadline);
}

function follow(state, point) {
  const slider = by("slider");
  if (wanted == null && point) slider.value = place(point);
  const words = points.length ? points[Number(slider.value)].point : "";
  put("chosen", (state.forced ? "forced: " : "") + (point || wanted != null ? words : "the governor has not chosen yet"));
  slider.setAttribute("aria-valuetext", words);
  slider.classList.toggle("forced", Boolean(state.forced));
  by("release").disabled = !state.forced;
}

function decided(found) {
  const list = found.slice().reverse().map((one) => {
    const line = document.createElement("li");
    const ago = cell("span", one.ago < 60 ? one.ago.toFixed(0) + " s ago" : (one.ago / 60).toFixed(0) + " min ago");
    const why = cell("span", one.reason);
    ago.className = "ago"; why.className = "why";
    line.append(ago, cell("span", one.point), why);
    return line;
  });
  if (list.length) by("decisions").replaceChildren(...list);
}

function nice(top) {
  const power = 10 ** Math.floor(Math.log10(top || 1e-3));
  return [1, 1.5, 2, 3, 4, 5, 6, 8, 10].map((n) => n * power).find((n) => n >= top) || 10 * power;
}

function drawTimeline(state) {
  const chart = by("timeline"), left = 92, right = 946;
  const x = (at) => right - (state.time - at) / WINDOW * (right - left);
  const parts = [], texts = (y, words) => parts.push(make("text", { x: left - 10, y: y + 4, class: "end tick" }, words));
  const frame = (top, bottom) => parts.push(make("rect", { x: left, y: top, width: right - left, height: bottom - top, class: "frame" }));

  const times = answers.map((a) => a.seconds).sort((a, b) => a - b);
  const usual = times.length ? times[Math.floor(0.95 * (times.length - 1))] : 0;
  const top = nice(Math.max(1e-4, 1.1 * usual, ...answers.map((a) => 1.3 * (a.deadline || 0))));
  const y = (s) => 190 - Math.min(1, s / top) * 180;
  frame(10, 190);
  for (const s of [0, top / 2, top]) { texts(y(s), s ? ms(s) : "0"); parts.push(make("line", { x1: left, x2: right, y1: y(s), y2: y(s), class: "grid" })); }
  const due = answers.filter((a) => a.deadline != null);
  if (due.length > 1) parts.push(make("path", { d: path(due.map((a) => [x(a.at), y(a.deadline)])), class: "deadline" }));
  for (const a of answers) {
    const late = a.deadline != null && a.seconds > a.deadline;
    parts.push(make("circle", { cx: x(a.at).toFixed(1), cy: y(a.seconds).toFixed(1), r: late ? 3.5 : 2.5, class: late ? "late" : "met" }));
  }

  const z = (label) => 290 - (points.length > 1 ? place(label) / (points.length - 1) : 0.5) * 70;
  frame(208, 302);
  texts(z(points[0].point), short(points[0].point));
  if (points.length > 1) texts(z(points[points.length - 1].point), short(points[points.length - 1].point));
  const steps = [];
  for (const a of answers) { if (steps.length) steps.push([x(a.at), steps[steps.length - 1][1]]); steps.push([x(a.at), z(a.point)]); }
  if (steps.length) parts.push(make("path", { d: path([...steps, [right, steps[steps.length - 1][1]]]), class: "step" }));

  const v = (load) => 398 - load * 76;
  frame(320, 400);
  texts(v(0), "0"); texts(v(1), "100 %");
  const known = loads.filter((l) => l.cpu != null), others = loads.filter((l) => l.others != null);
  if (known.length > 1) parts.push(make("path", { class: "area",
    d: path([[x(known[0].at), v(0)], ...known.map((l) => [x(l.at), v(l.cpu)]), [x(known[known.length - 1].at), v(0)]]) + "Z" }));
  if (others.length > 1) parts.push(make("path", { class: "others", d: path(others.map((l) => [x(l.at), v(l.others)])) }));
  parts.push(make("text", { x: left, y: 416, class: "tick" }, WINDOW + " s ago"), make("text", { x: right, y: 416, class: "end tick" }, "now"));
  chart.replaceChildren(...parts);
  chart.setAttribute("aria-label", answers.length + " answers in the last minute, " +
    answers.filter((a) => a.deadline != null && a.seconds > a.deadline).length + " late; load " + share(state.signals.cpu));
}
function short(label) { return label.length > 12 ? label.slice(0, 11) + "…" : label; }

function drawProfile(point, deadline) {
  const left = 62, right = 440, top = 14, bottom = 272, parts = [];
  const most = nice(Math.max(...points.map((row) => row.cost.latency)));
  const scores = points.map((row) => row.score), low = Math.min(...scores), high = Math.max(...scores);
  const pad = (high - low || 0.01) * 0.15;
  const x = (s) => left + s / most * (right - left);
  const y = (score) => bottom - (score - low + pad) / (high - low + 2 * pad || 1) * (bottom - top);
  for (let i = 0; i <= 2; i++) {
    const score = low + (high - low) * i / 2, s = most * i / 2;
    parts.push(make("line", { x1: left, x2: right, y1: y(score), y2: y(score), class: "grid" }));
    if (high > low || i === 1) parts.push(make("text", { x: left - 8, y: y(score) + 4, class: "end tick" }, unit === "points" ? (100 * score).toFixed(1) : score.toPrecision(3)));
    parts.push(make("text", { x: x(s), y: bottom + 20, class: "middle tick" }, s ? ms(s) : "0"));
  }
  parts.push(make("text", { x: (left + right) / 2, y: bottom + 40, class: "middle axis" }, "median latency as profiled"));
  if (deadline && deadline <= most) parts.push(make("path", { d: path([[x(deadline), top], [x(deadline), bottom]]), class: "deadline" }));
  const best = points.filter((row) => row.frontier).sort((a, b) => a.cost.latency - b.cost.latency);
  parts.push(make("path", { d: path(best.map((row) => [x(row.cost.latency), y(row.score)])), class: "line" }));
  for (const row of points) {
    const at = { cx: x(row.cost.latency), cy: y(row.score) };
    const dot = make("circle", { ...at, r: 5, class: row.frontier ? "dot best" : "dot" });
    dot.append(make("title", {}, row.point + ": " + scoreWords(row.score) + ", " + ms(row.cost.latency)));
    parts.push(dot);
    if (row.point === point) parts.push(make("circle", { ...at, r: 10, class: "now" }));
  }
  by("profile").replaceChildren(...parts);
  by("profile").setAttribute("aria-label", points.length + " points, score against latency; " + (point || "none") + " runs");
}

async function force() {
  const label = points[Number(by("slider").value)].point;
  wanted = label;
  by("slider").setAttribute("aria-valuetext", label);
  put("chosen", "forced: " + label);
  try { await ask("point", "PUT", { point: label }); problem(""); } catch (error) { problem(error.message); }
  if (wanted === label) wanted = null;
  await refresh();
}
async function release() {
  try { await ask("point", "DELETE"); problem(""); } catch (error) { problem(error.message); }
  await refresh();
}

async function refresh() {
  try {
    show(await ask("state?since=" + last));
    by("connection").className = "flag good"; put("connection", "live");
  } catch (error) { by("connection").className = "flag bad"; put("connection", "no connection"); }
}

async function send() {
  if (sending) { clearTimeout(sending.timer); sending = null; by("send").setAttribute("aria-pressed", "false"); put("send", "Send requests"); return; }
  const mine = sending = { timer: 0 };
  by("send").setAttribute("aria-pressed", "true"); put("send", "Stop");
  try {
    const { inputs } = await ask("example");
    const next = () => {
      if (sending !== mine) return;
      const deadline = Number(by("deadline").value), rate = Math.min(100, Math.max(1, Number(by("rate").value) || 1));
      ask("predict", "POST", deadline > 0 ? { inputs, deadline_ms: deadline } : { inputs }).then(() => problem(""), (e) => problem(e.message));
      mine.timer = setTimeout(next, 1000 / rate);
    };
    next();
  } catch (error) { problem(error.message); }
}

by("slider").addEventListener("input", force);
by("slider").addEventListener("keydown", (event) => { if (event.key === "Enter") force(); });
by("release").addEventListener("click", release);
by("send").addEventListener("click", send);
(async function run() {
  try { if (!points.length) await begin(); await refresh(); } catch (error) { by("connection").className = "flag bad"; put("connection", "no connection"); }
  setTimeout(run, EVERY);
})();
