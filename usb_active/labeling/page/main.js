// The page: what is shown, and what keys, clicks and touches do. Names of classes and keys of samples are text, never markup.

import { drawCurve } from "./curve.js";
import { Grid } from "./grid.js";
import { meant } from "./keys.js";
import { PENDING, SKIP, Samples } from "./samples.js";
import { Refused, everything, send, stored } from "./talk.js";
import { Zoom } from "./zoom.js";

const $ = (id) => document.getElementById(id);
const PER_PAGE = 60;
const MOST_BUTTONS = 60;
// So few classes are seen at once, and need not be looked for.
const FEW = 12;

let told = {};
let samples = null;
let place = -1;
let isGrid = false;
let firstTile = 0;
let version = -1;
// Whether an answer is under way, and whether the image is "seen", "broken", or not there yet ("").
let busy = false;
let imageState = "";
// Whether keys of one character do something.
let hasKeys = true;
// What went wrong: with what was wanted last, until such a thing succeeds, and with what will be asked again by itself.
const problems = { act: "", passing: "" };
const ACTS = new Set(["answer", "undo", "accept", "train", "finish"]);
let paces = [];
let lastAnswer = 0;
const zoom = new Zoom($("frame"), $("image"));
const grid = new Grid($("tiles"), (one) => show(one), () => toggleGrid(false));

// ------------------------------------------------------------------------------------------------ what the server says
async function load() {
  told = await everything();
  version = told.version ?? -1;
  document.title = `${told.title} – usb-active`;
  $("title").textContent = told.classes ? `${told.title} · query ${told.cycle}` : told.title;
  samples = told.classes ? new Samples(told) : null;
  place = -1;
  if (samples) {
    makeClasses();
    makeFilters();
    firstTile = 0;
    await goTo(samples.shown);
  }
  showAll();
}

// Asks for something; what has changed meanwhile comes with it. fails: where it is said why there is no reply.
async function ask(what, message = {}, fails = (text, kind) => fail(text, kind)) {
  try {
    const news = await send(what, { round: told.round ?? 0, version, ...message });
    fail("", "passing");
    if (ACTS.has(what)) fail("", "act");
    if (news.round !== told.round) return await load();
    take(news);
    return news;
  } catch (error) {
    if (error instanceof Refused && error.moved) return await load().catch((why) => fail(why.message));
    const isRefused = error instanceof Refused;
    const lost = "no connection: what was not confirmed is not saved; start usb-active label again and open its new address";
    fails(isRefused ? error.message : lost, isRefused && ACTS.has(what) ? "act" : "passing");
    return null;
  }
}

function take(news) {
  const before = told.stage;
  const missing = ["starts_in", "seconds", "lines", "curve"].filter((name) => !(name in news));
  for (const name of missing) delete told[name];
  Object.assign(told, news);
  if (samples && news.version !== undefined) {
    version = news.version;
    samples.take(news.changes, news.others);
    if (isGrid) grid.renew(samples, place);
  }
  if (before !== told.stage) showAll();
}

async function listen() {
  const news = await ask("news");
  if (news) showAll();
  await lookAgain();
  setTimeout(listen, told.stage === "training" || told.starts_in !== undefined ? 700 : 2000);
}

// Where there was no image left: somebody may have let go of one.
async function lookAgain() {
  if (!samples || busy || place >= 0 || told.stage === "training" || !samples.left) return;
  samples.order();
  const wants = samples.after(0, true);
  if (wants.length) await goTo(wants);
}

// ------------------------------------------------------------------------------------------------ which image
// The first of these that nobody else looks at becomes the one that is shown.
async function goTo(wants) {
  if (isGrid) return goToGrid(wants[0] ?? -1);
  const news = wants.length ? await ask("hold", { wants: wants.slice(0, 500), most: 1 }) : null;
  if (news) show(news.held.length ? news.held[0] : -1);
  else if (!wants.length) show(-1);
}

async function goToGrid(wanted) {
  const at = Math.max(0, samples.shown.indexOf(wanted));
  firstTile = Math.floor(at / PER_PAGE) * PER_PAGE;
  const tiles = samples.shown.slice(firstTile, firstTile + PER_PAGE);
  const news = await ask("hold", { wants: tiles, most: PER_PAGE });
  if (!news) return;
  const free = tiles.filter((one) => !samples.others.has(one));
  show(free.includes(wanted) ? wanted : free[0] ?? tiles[0] ?? -1);
}

function show(next) {
  if (next !== place) {
    zoom.reset();
    imageState = "";
    if (next >= 0) announce(samples.suggested(next) ? `${samples.key(next)}, suggestion ${samples.suggested(next)}` : samples.key(next));
  }
  place = next;
  // What is hidden takes no focus.
  showAll();
  if (isGrid) showGrid();
  else if (place >= 0) showImage();
}

function showImage() {
  const image = $("image");
  const source = `image/${told.round}/${place}`;
  if (image.getAttribute("src") === source) {
    if (image.complete && !imageState) imageState = image.naturalWidth > 0 ? "seen" : "broken";
    return;
  }
  image.hidden = false;
  $("no-image").hidden = true;
  image.alt = `sample ${samples.key(place)}`;
  image.setAttribute("src", source);
  // The next ones are fetched while this one is looked at.
  for (const ahead of samples.after(samples.shown.indexOf(place) + 1, true).slice(0, 3)) new Image().src = `image/${told.round}/${ahead}`;
}

$("image").addEventListener("load", () => {
  const image = $("image");
  image.classList.toggle("pixels", Math.max(image.naturalWidth, image.naturalHeight) <= 128);
  imageState = "seen";
});

$("image").addEventListener("error", async () => {
  const source = $("image").getAttribute("src");
  if (!source) return;
  const response = await fetch(source).catch(() => null);
  const reason = !response ? "no connection" : response.ok ? "the browser cannot show this image" : await response.text();
  // Somebody may be at the next image by now.
  if ($("image").getAttribute("src") !== source) return;
  $("no-image").textContent = reason;
  $("image").hidden = true;
  $("no-image").hidden = false;
  imageState = "broken";
});

const position = () => samples.shown.indexOf(place);

async function step(by) {
  if (!samples || busy) return;
  const at = Math.min(samples.shown.length - 1, Math.max(0, position() + by));
  if (isGrid && at >= firstTile && at < firstTile + PER_PAGE) return show(samples.shown[at]);
  if (isGrid) return goToGrid(samples.shown[at]);
  const order = by > 0 ? samples.shown.slice(at) : samples.shown.slice(0, at + 1).reverse();
  if (order.length && order[0] !== place) await goTo(order);
}

// ------------------------------------------------------------------------------------------------ answers
async function answer(label) {
  if (!samples || busy || place < 0 || told.stage === "training") return;
  const state = isGrid ? grid.state(place) : imageState;
  if (isGrid && samples.others.has(place)) return say("somebody else looks at this image");
  if (!state) return;
  if (state === "broken" && label !== SKIP) return say("what cannot be seen can only be skipped: s");
  busy = true;
  const [given, at, before] = [place, position(), samples.answer(place)];
  const rest = samples.after(at + 1, true).filter((other) => other !== given);
  const hold = isGrid ? { wants: samples.shown.slice(firstTile, firstTile + PER_PAGE), most: PER_PAGE } : { wants: rest.slice(0, 500), most: 1 };
  const news = await ask("answer", { place: given, label, ...hold });
  busy = false;
  if (!news || news.saved !== given) return;
  samples.keep(given);
  if (before === PENDING) pace();
  say(`${samples.key(given)}: ${samples.name(label)}`);
  $("search").value = "";
  narrow();
  if (isGrid) {
    const [here] = samples.after(at + 1, true).filter((other) => !samples.others.has(other));
    const isHere = here !== undefined && samples.shown.indexOf(here) >= firstTile && samples.shown.indexOf(here) < firstTile + PER_PAGE;
    await (here === undefined ? show(given) : isHere ? show(here) : goToGrid(here));
  } else if (before !== PENDING && news.held.length === 0) {
    await step(1);
    showAll();
  } else show(news.held.length ? news.held[0] : given);
}

async function undo() {
  if (!samples || busy) return;
  busy = true;
  const news = await ask("undo");
  busy = false;
  if (!news) return;
  if (!news.undone.length) return say("nothing to undo");
  const [first] = news.undone;
  say(news.undone.length === 1 ? `undone: ${samples.key(first)}` : `undone: ${news.undone.length} images`);
  if (!samples.shown.includes(first)) samples.order();
  await goTo(samples.shown.includes(first) ? [first, ...samples.shown] : samples.shown);
}

function pace() {
  const now = performance.now() / 1000;
  // A pause is no pace.
  if (lastAnswer && now - lastAnswer < 120) paces = [...paces.slice(-29), now - lastAnswer];
  lastAnswer = now;
}

function timeLeft(left) {
  if (paces.length < 3 || !left) return "";
  const seconds = left * [...paces].sort((one, other) => one - other)[Math.floor(paces.length / 2)];
  if (seconds < 90) return `, about ${Math.max(1, Math.round(seconds))} s left`;
  return seconds < 5400 ? `, about ${Math.round(seconds / 60)} min left` : `, about ${(seconds / 3600).toFixed(1)} h left`;
}

// ------------------------------------------------------------------------------------------------ what is shown
function showAll() {
  const isWorking = Boolean(samples) && told.stage !== "training";
  const isEmpty = isWorking && place < 0;
  const waits = !isWorking || told.stage !== "labeling" || told.complete || !told.asking;
  $("one").hidden = !isWorking || isGrid || isEmpty;
  $("grid").hidden = !isWorking || !isGrid || isEmpty;
  $("answers").hidden = !isWorking;
  $("rest").hidden = !(waits || isEmpty);
  for (const id of ["grid-button", "filter-button", "accept-button"]) $(id).disabled = !isWorking;
  if (!isWorking) $("filters").hidden = true;
  showCounts();
  if (isWorking && place >= 0) showSample();
  if (!$("rest").hidden) showRest(isEmpty);
}

function showCounts() {
  if (!samples) {
    $("counts").textContent = told.stage;
    return $("progress").removeAttribute("value");
  }
  const [left, all] = [samples.left, samples.batch];
  $("progress").max = all;
  $("progress").value = all - left;
  $("counts").textContent = `${all - left} of ${all}${timeLeft(left)}`;
}

function showSample() {
  $("key").textContent = samples.key(place);
  const label = samples.answer(place);
  $("stands").textContent = label === PENDING ? "" : `✓ ${samples.name(label)}`;
  const suggested = samples.suggested(place);
  $("suggestion").textContent = suggested ? `suggestion: ${suggested}` : "";
  for (const button of $("classes").children) {
    const own = Number(button.dataset.label);
    button.classList.toggle("suggested", own === samples.suggestion(place));
    button.classList.toggle("stands", own === label);
    button.setAttribute("aria-pressed", String(own === label));
  }
}

function showRest(isEmpty) {
  const seconds = Math.round(told.seconds ?? 0);
  const last = told.curve?.points.at(-1)?.[2];
  const trainings = { labeling: "The batch is complete", training: "Training …", done: "The run is done", failed: "That did not work" };
  let title = trainings[told.stage];
  let text = "";
  if (told.stage === "labeling" && !told.complete) [title, text] = ["No image here", "Nothing matches the filter, or somebody else has the rest."];
  else if (told.stage === "labeling" && told.starts_in !== undefined) text = `Training starts in ${Math.ceil(told.starts_in)} s. u takes the last answer back.`;
  else if (told.stage === "labeling" && !told.asking) [title, text] = ["Nothing is asked now", `Labels may be corrected. Then: ${told.command}`];
  else if (told.stage === "failed" && samples) text = "Labels can be given and corrected; then try again.";
  else if (told.stage === "labeling") text = `Every label is saved. End this page, and then: ${told.command}`;
  else if (told.stage === "training") text = `for ${seconds} s${last ? `; the last training took ${Math.round(last)} s` : ""}. The next images come by themselves.`;
  else if (told.stage === "done") text = "All queries are answered and trained on. Labels may still be corrected.";
  $("rest-title").textContent = title;
  $("rest-text").textContent = text;
  const lines = told.stage === "training" ? (told.lines ?? []) : told.problem;
  $("rest-lines").hidden = !lines.length;
  $("rest-lines").textContent = lines.join("\n");
  $("train").hidden = !(told.loop && (told.stage === "failed" || (told.stage === "labeling" && told.complete)));
  $("train").textContent = told.stage === "failed" ? "Try again" : told.asking ? "Train now" : "Go on";
  $("finish").hidden = told.stage === "training" || isEmpty && !told.complete;
  if (told.curve) drawCurve($("curve"), $("curve-text"), told.curve);
  else $("curve").hidden = true;
}

function showGrid() {
  const tiles = samples.shown.slice(firstTile, firstTile + PER_PAGE);
  grid.show(told.round, tiles, samples, place);
  const pages = Math.max(1, Math.ceil(samples.shown.length / PER_PAGE));
  $("page-number").textContent = `page ${Math.floor(firstTile / PER_PAGE) + 1} of ${pages}, ${samples.shown.length} images`;
}

// ------------------------------------------------------------------------------------------------ classes and filters
function makeClasses() {
  const buttons = told.classes.map((name, label) => {
    const button = document.createElement("button");
    const shown = document.createElement("span");
    button.type = "button";
    button.dataset.label = label;
    if (told.keys[label]) {
      const key = document.createElement("kbd");
      key.textContent = told.keys[label];
      button.append(key);
    }
    shown.className = "name";
    shown.textContent = name;
    button.append(shown);
    button.addEventListener("click", (event) => {
      // Enter is to be the suggestion again, not this class for the next image.
      if (event.detail) button.blur();
      answer(label);
    });
    return button;
  });
  $("classes").replaceChildren(...buttons);
  document.querySelector(".search").hidden = told.classes.length <= FEW;
  narrow();
}

// The classes whose name holds what was typed, those that begin with it first.
function found() {
  const typed = $("search").value.trim().toLowerCase();
  const names = told.classes.map((name, label) => [name.toLowerCase().indexOf(typed), label]);
  return names.filter(([at]) => at >= 0).sort(([one], [other]) => Math.min(one, 1) - Math.min(other, 1)).map(([, label]) => label);
}

function narrow() {
  const labels = found();
  const shown = new Set(labels.slice(0, MOST_BUTTONS));
  const buttons = new Map([...$("classes").children].map((button) => [Number(button.dataset.label), button]));
  for (const [label, button] of buttons) button.hidden = !shown.has(label);
  // Tab goes through them as they are seen; where nothing moves, the focus stays.
  const ordered = [...labels, ...[...buttons.keys()].filter((label) => !labels.includes(label))].map((label) => buttons.get(label));
  if (ordered.some((button, at) => button !== $("classes").children[at])) $("classes").replaceChildren(...ordered);
  const isMore = labels.length > MOST_BUTTONS;
  $("more-classes").hidden = !isMore;
  $("more-classes").textContent = isMore ? `${MOST_BUTTONS} of ${labels.length} shown; type to find others` : "";
  if ($("search").value.trim()) announce(labels.length ? `Enter gives ${told.classes[labels[0]]}; ${labels.length} found` : "no such class");
}

function makeFilters() {
  const all = new Option("any", "-1");
  $("filter-class").replaceChildren(all, ...told.classes.map((name, label) => new Option(name, label)));
  $("filter-status").value = samples.filter.status;
  [$("filter-from").value, $("filter-to").value] = [0, 100];
}

async function filter() {
  const [from, to] = [Number($("filter-from").value) / 100, Number($("filter-to").value) / 100];
  samples.choose({ status: $("filter-status").value, label: Number($("filter-class").value), from, to });
  say(`${samples.shown.length} images`);
  await goTo(samples.shown);
}

async function toggleGrid(on) {
  if (!samples) return;
  isGrid = on;
  $("grid-button").setAttribute("aria-pressed", String(on));
  imageState = "";
  if (!on) $("image").removeAttribute("src");
  await goTo(place >= 0 ? [place, ...samples.shown] : samples.shown);
}

// ------------------------------------------------------------------------------------------------ many at once
// Of what the person has read how many it is; null until then.
let counted = null;
let asked = 0;

async function countSure() {
  counted = null;
  $("accept-yes").disabled = true;
  const [percent, number] = [$("accept-least").valueAsNumber, ++asked];
  const tell = (text) => { if (number === asked) $("accept-count").textContent = text; };
  if (!(percent >= 0 && percent <= 100)) return tell("from which confidence? 0 to 100 %");
  const news = await ask("sure", { least: percent / 100 }, tell);
  // Of several counts under way only the last is of what the field says.
  if (!news || number !== asked) return;
  tell(`${news.sure} of ${samples.left} images without a label get the class that the model suggests.`);
  if (!news.sure) return;
  counted = percent / 100;
  $("accept-yes").disabled = false;
}

$("accept-button").addEventListener("click", async () => {
  $("accept").returnValue = "";
  $("accept-count").textContent = "";
  $("accept").showModal();
  await countSure();
});
$("accept-least").addEventListener("input", countSure);
$("accept").addEventListener("close", async () => {
  const least = counted;
  [counted, asked] = [null, asked + 1];
  if ($("accept").returnValue !== "yes" || least === null) return;
  const news = await ask("accept", { least });
  if (!news) return;
  say(`accepted: ${news.accepted} images; u takes them back`);
  samples.order();
  await goTo(samples.shown);
});

// ------------------------------------------------------------------------------------------------ what is said
function say(text) { $("said").textContent = text; }

// For those who hear the page.
function announce(text) { $("heard").textContent = text; }

function fail(text, kind = "passing") {
  problems[kind] = text;
  const all = [problems.act, problems.passing].filter(Boolean).join("; ");
  if ($("error").textContent !== all) $("error").textContent = all;
  $("error").hidden = !all;
}

// ------------------------------------------------------------------------------------------------ keys and buttons
const KEYS = {
  ArrowRight: () => step(1),
  ArrowLeft: () => step(-1),
  ArrowDown: () => isGrid && step(grid.columns),
  ArrowUp: () => isGrid && step(-grid.columns),
  PageDown: () => isGrid && step(PER_PAGE),
  PageUp: () => isGrid && step(-PER_PAGE),
  "+": () => zoom.by(1.4),
  "-": () => zoom.by(1 / 1.4),
  "/": () => told.classes?.length > FEW && $("search").focus(),
  "?": () => $("help").showModal(),
  Escape: () => isGrid && toggleGrid(false),
  Enter: () => samples && place >= 0 && samples.suggestion(place) !== null && answer(samples.suggestion(place)),
  s: () => answer(SKIP),
  u: () => undo(),
};

const PAN = { ArrowLeft: [60, 0], ArrowRight: [-60, 0], ArrowUp: [0, 60], ArrowDown: [0, -60] };

document.addEventListener("keydown", (event) => {
  const where = event.target;
  // A key that is held down gives one answer, whatever it is pressed on.
  if (event.repeat && where.closest("button, dialog") && ["Enter", " "].includes(event.key)) return event.preventDefault();
  if (event.ctrlKey || event.altKey || event.metaKey || document.querySelector("dialog[open]")) return;
  if (where.matches("input, select") || (where.matches("button") && ["Enter", " "].includes(event.key))) return;
  if (event.shiftKey && PAN[event.key] && !isGrid && zoom.scale > 1) {
    event.preventDefault();
    return zoom.pan(...PAN[event.key]);
  }
  if (event.key.length === 1 && !hasKeys) return;
  const key = meant(event, (one) => one in KEYS || Boolean(told.keys?.includes(one)));
  const label = told.keys ? told.keys.indexOf(key) : -1;
  const act = label >= 0 ? () => answer(label) : KEYS[key];
  if (!act) return;
  event.preventDefault();
  if (!event.repeat || event.key.startsWith("Arrow")) act();
});

$("search").addEventListener("input", narrow);
$("search").addEventListener("keydown", (event) => {
  if (event.key !== "Enter" && event.key !== "Escape") return;
  event.preventDefault();
  const [first] = found();
  const typed = $("search").value.trim();
  $("search").value = "";
  $("search").blur();
  narrow();
  if (event.key === "Enter" && typed && first !== undefined) answer(first);
});

const CLICKS = {
  previous: () => step(-1),
  next: () => step(1),
  "zoom-in": () => zoom.by(1.4),
  "zoom-out": () => zoom.by(1 / 1.4),
  "page-back": () => step(-PER_PAGE),
  "page-on": () => step(PER_PAGE),
  skip: () => answer(SKIP),
  undo: () => undo(),
  "grid-button": () => toggleGrid(!isGrid),
  "help-button": () => $("help").showModal(),
  train: () => ask("train").then(showAll),
  finish: () => ask("finish").then((news) => news && say("ended; this page can be closed")),
  "filter-button": () => {
    $("filters").hidden = !$("filters").hidden;
    $("filter-button").setAttribute("aria-expanded", String(!$("filters").hidden));
  },
  "filter-reset": () => {
    $("filter-status").value = "todo";
    $("filter-class").value = "-1";
    [$("filter-from").value, $("filter-to").value] = [0, 100];
    filter();
  },
};
for (const [id, act] of Object.entries(CLICKS)) {
  $(id).addEventListener("click", (event) => {
    act();
    // The keys are the page's again.
    if (event.detail) event.currentTarget.blur();
  });
}
function switchKeys(on) {
  hasKeys = on;
  $("has-keys").checked = on;
  document.body.classList.toggle("keys-off", !on);
  stored("setItem", "keys", on ? "on" : "off");
}
$("has-keys").addEventListener("change", () => switchKeys($("has-keys").checked));
switchKeys(stored("getItem", "keys") !== "off");
for (const id of ["filter-status", "filter-class", "filter-from", "filter-to"]) $(id).addEventListener("change", filter);

load().then(listen, (error) => fail(error.message));
