// The page of the local server: a live list of events or requests, and the details of one.

import { bytes, element, exceptions, facts, shown, tree } from "./detail.js";

const PAGE = 100;
const MOST_ROWS = 500; // maximum rows while new ones arrive; a button loads older rows
const $ = (id) => document.getElementById(id);

const state = { view: "events", paused: false, chosen: null, oldest: null, filters: {}, waiting: [], connected: false };

async function ask(path, options) {
  const response = await fetch(path, options);
  if (!response.ok) throw new Error((await response.json()).error ?? response.status);
  return response.status === 204 ? null : response.json();
}

function query(more = {}) {
  const all = Object.entries({ ...state.filters, ...more }).filter(([, value]) => value !== "" && value !== undefined);
  return all.length ? `?${new URLSearchParams(all)}` : "";
}

// --- the list ---------------------------------------------------------------------------------------

function time(seconds) {
  const at = new Date(seconds * 1000);
  const text = at.toLocaleTimeString("en-GB");
  return element("time", { class: "when", datetime: at.toISOString(), title: at.toLocaleString() }, text);
}

function eventRow(event) {
  const again = event.times_received > 1 ? element("span", { class: "badge", title: "The same event arrived again. It counts once." }, `×${event.times_received}`) : null;
  return element(
    "button",
    { class: `row${event.is_exception ? " bad" : ""}`, "data-id": event.id, onclick: () => choose(`event/${event.id}`) },
    time(event.received_at),
    element("span", { class: "name" }, shown(event.event)),
    element("span", { class: "who" }, shown(event.distinct_id)),
    element("span", { class: "shown" }, shown(event.shown)),
    element("span", { class: "badges" }, again),
  );
}

function requestRow(request) {
  const isBad = request.status >= 300 || request.error !== "";
  const again = request.again.length ? `, ${request.again.length} again` : "";
  const what = request.error || `${request.events} event${request.events === 1 ? "" : "s"}${again}`;
  return element(
    "button",
    { class: `row request${isBad ? " bad" : ""}`, "data-number": request.number, onclick: () => choose(`request/${request.number}`) },
    time(request.received_at),
    element("span", { class: "name" }, String(request.status)),
    element("span", { class: "shown" }, shown(what)),
    element("span", { class: "badges" }, bytes(request.bytes)),
  );
}

const rowOf = (item) => (state.view === "events" ? eventRow(item) : requestRow(item));
const idOf = (item) => (state.view === "events" ? item.id : item.number);

async function load({ older = false } = {}) {
  const before = older && state.oldest !== null ? { before: state.oldest, limit: PAGE } : { limit: PAGE };
  const isEvents = state.view === "events";
  const wanted = JSON.stringify([state.view, state.filters]);
  const found = isEvents ? (await ask(`events/page${query(before)}`)).events : (await ask(`requests${before.before ? `?before=${before.before}` : ""}`)).requests;
  if (wanted !== JSON.stringify([state.view, state.filters])) return; // the user has changed the view meanwhile
  if (!older) $("rows").replaceChildren();
  $("rows").append(...found.map(rowOf));
  if (found.length) state.oldest = idOf(found[found.length - 1]);
  $("more").hidden = found.length < PAGE;
  if (!older) state.waiting = [];
  mark();
  count();
}

function mark() {
  for (const row of $("rows").children) {
    const id = row.dataset.id ? `event/${row.dataset.id}` : `request/${row.dataset.number}`;
    if (id === state.chosen) row.setAttribute("aria-current", "true");
    else row.removeAttribute("aria-current");
  }
  const isEmpty = !$("rows").children.length;
  $("empty").hidden = !isEmpty;
  if (isEmpty) {
    const host = location.href.split("#")[0].replace(/\/$/, "");
    const isFiltered = state.view === "events" && Object.values(state.filters).some(Boolean);
    $("empty").replaceChildren(
      ...(isFiltered ? ["No event fits the filters."] : ["Nothing has arrived yet. Set host to ", element("code", {}, host), " and api_key to any string, and capture an event."]),
    );
  }
}

let counting = 0;
async function count() {
  clearTimeout(counting);
  const found = await ask(`events/counts${query()}`);
  const refused = found.refused ? `, ${found.refused.toLocaleString("en")} refused` : "";
  const fitting = found.matching === found.events ? "" : `${found.matching.toLocaleString("en")} of `;
  $("counts").textContent = `${fitting}${found.events.toLocaleString("en")} events in ${found.requests.toLocaleString("en")} requests${refused}`;
  const names = Object.keys(found.names).map((name) => element("option", { value: name }));
  $("names").replaceChildren(...names);
}

// --- arrivals ---------------------------------------------------------------------------------------

function fits(event) {
  const { event: name, distinct_id: who, text } = state.filters;
  if ((name && event.event !== name) || (who && event.distinct_id !== who)) return false;
  return !text; // only the server can search the properties
}

let isDrawing = false;
function arrived(kind, item) {
  if (kind !== state.view) return later();
  if (kind === "events" && !fits(item)) return state.filters.text ? reloadSoon() : later();
  state.waiting.push(item);
  if (state.waiting.length > MOST_ROWS) state.waiting.shift();
  if (!isDrawing && !state.paused) {
    isDrawing = true;
    setTimeout(draw, 50);
  }
  later();
}

function draw() {
  isDrawing = false;
  if (state.paused) return;
  const rows = $("rows");
  const fresh = state.waiting.splice(0).reverse();
  const known = fresh.filter((item) => {
    const name = state.view === "events" ? "id" : "number";
    return !rows.querySelector(`[data-${name}="${idOf(item)}"]`);
  });
  const made = known.map((item) => {
    const row = rowOf(item);
    row.classList.add("fresh");
    return row;
  });
  rows.prepend(...made);
  while (rows.children.length > MOST_ROWS) {
    rows.lastChild.remove();
    const last = rows.lastChild;
    state.oldest = Number(last.dataset.id ?? last.dataset.number);
    $("more").hidden = false;
  }
  if (state.oldest === null && rows.lastChild) state.oldest = Number(rows.lastChild.dataset.id ?? rows.lastChild.dataset.number);
  mark();
}

function later() {
  if (counting) return;
  counting = setTimeout(() => ((counting = 0), count().catch(() => {})), 300);
}

let reloading = 0;
function reloadSoon() {
  if (!reloading && !state.paused) reloading = setTimeout(() => ((reloading = 0), load().catch(() => {})), 300);
}

function connect() {
  const source = new EventSource("events/stream?brief=1");
  source.onopen = () => {
    if (!state.connected) load().catch(() => {});
    state.connected = true;
    say();
  };
  source.onerror = () => {
    state.connected = false;
    say();
  };
  source.onmessage = (message) => arrived("events", JSON.parse(message.data));
  source.addEventListener("request", (message) => arrived("requests", JSON.parse(message.data)));
  source.addEventListener("clear", () => {
    state.oldest = null;
    choose(null);
    load().catch(() => {});
  });
}

function say() {
  $("state").textContent = !state.connected ? "not connected" : state.paused ? "paused" : "live";
  $("state").className = state.connected && !state.paused ? "live" : "";
}

// --- details ----------------------------------------------------------------------------------------

function choose(id) {
  const hash = id ? `#${id}` : "";
  if (location.hash !== hash) history.pushState(null, "", hash || location.pathname + location.search);
  show().catch((error) => console.error(error));
}

async function show() {
  const [kind, number] = location.hash.slice(1).split("/");
  state.chosen = number ? `${kind}/${number}` : null;
  const detail = $("detail");
  detail.hidden = !state.chosen;
  $("view").classList.toggle("split", Boolean(state.chosen));
  mark();
  if (!state.chosen) return;
  try {
    detail.replaceChildren(...(kind === "event" ? await eventDetail(Number(number)) : await requestDetail(Number(number))));
  } catch (error) {
    detail.replaceChildren(heading("Not found"), element("p", { class: "problem" }, error.message));
  }
  detail.scrollTop = 0;
  detail.focus({ preventScroll: matchMedia("(min-width: 901px)").matches });
}

function heading(title, ...buttons) {
  const close = element("button", { class: "small", onclick: back }, "Close");
  return element("header", {}, element("h2", {}, typeof title === "string" ? shown(title) : title), ...buttons, close);
}

function back() {
  const [kind, number] = (state.chosen ?? "").split("/");
  choose(null);
  const row = document.querySelector(kind === "event" ? `[data-id="${Number(number)}"]` : `[data-number="${Number(number)}"]`);
  (row ?? $("list")).focus();
}

async function eventDetail(id) {
  const event = await ask(`events/one?id=${id}`);
  const copy = element("button", { class: "small", onclick: () => copyText(copy, JSON.stringify(event, null, 2)) }, "Copy JSON");
  const link = element("a", { href: `#event/${id}` }, `#event/${id}`);
  return [
    heading(event.event, copy),
    facts([
      ["Person", event.distinct_id],
      ["Timestamp", event.timestamp],
      ["Received", `${new Date(event.received_at * 1000).toLocaleString()}${event.times_received > 1 ? `, ${event.times_received} times (counts once)` : ""}`],
      ["Request", element("a", { href: `#request/${event.request}` }, String(event.request))],
      ["uuid", element("code", {}, shown(event.uuid))],
      ["Import", event.historical_migration ? "of the past" : ""],
      ["Link", link],
    ]),
    exceptions(event.properties),
    element("h3", {}, "Properties"),
    tree(event.properties),
  ].filter(Boolean);
}

async function requestDetail(number) {
  const { requests } = await ask(`requests?before=${number + 1}`);
  const request = requests.find((each) => each.number === number);
  if (!request) throw new Error("there is no such request; it may have been cleared");
  const again = request.again.map((uuid) => element("li", {}, element("code", {}, shown(uuid))));
  return [
    heading(`Request ${number}`),
    request.error ? element("p", { class: "problem" }, shown(request.error)) : null,
    facts([
      ["Status", request.status],
      ["Received", new Date(request.received_at * 1000).toLocaleString()],
      ["Events", request.events],
      ["Size", `${bytes(request.bytes)}${request.body_bytes && request.body_bytes !== request.bytes ? `, ${bytes(request.body_bytes)} decompressed` : ""}`],
    ]),
    again.length ? element("h3", {}, "Repeated events, counted once") : null,
    again.length ? element("ul", {}, ...again) : null,
    element("h3", {}, "Headers"),
    tree(request.headers),
  ].filter(Boolean);
}

async function copyText(button, text) {
  try {
    await navigator.clipboard.writeText(text);
    button.textContent = "Copied";
  } catch {
    button.textContent = "Not allowed here";
  }
  setTimeout(() => (button.textContent = "Copy JSON"), 1500);
}

// --- controls ---------------------------------------------------------------------------------------

function select(view) {
  state.view = view;
  state.oldest = null;
  for (const each of ["events", "requests"]) {
    const tab = $(`tab-${each}`);
    tab.setAttribute("aria-selected", String(each === view));
    tab.tabIndex = each === view ? 0 : -1;
  }
  $("view").setAttribute("aria-labelledby", `tab-${view}`);
  $("list").setAttribute("aria-label", `${view === "events" ? "Events" : "Requests"}, newest first`);
  $("filters").hidden = view !== "events";
  load().catch(() => {});
}

for (const view of ["events", "requests"]) {
  $(`tab-${view}`).onclick = () => select(view);
  $(`tab-${view}`).onkeydown = (key) => {
    if (key.key !== "ArrowLeft" && key.key !== "ArrowRight") return;
    const other = view === "events" ? "requests" : "events";
    select(other);
    $(`tab-${other}`).focus();
  };
}

let typing = 0;
$("filters").oninput = () => {
  clearTimeout(typing);
  typing = setTimeout(() => {
    state.filters = Object.fromEntries(new FormData($("filters")));
    state.oldest = null;
    $("export").href = `events/export${query()}`;
    load().catch(() => {});
  }, 150);
};
$("filters").onsubmit = (event) => event.preventDefault();

$("pause").onclick = () => {
  state.paused = !state.paused;
  $("pause").setAttribute("aria-pressed", String(state.paused));
  say();
  if (!state.paused) load().catch(() => {});
};
$("clear").onclick = () => ask("events", { method: "DELETE" }).catch(() => {});
$("more").onclick = () => load({ older: true }).catch(() => {});

function playing(faults) {
  const form = $("faults").querySelector("form");
  for (const name of ["status", "delay", "reject"]) {
    const field = form.elements[name];
    if (field.tagName === "SELECT" && ![...field.options].some((each) => each.value === String(faults[name]))) {
      field.append(element("option", {}, String(faults[name])));
    }
    if (document.activeElement !== field) field.value = String(faults[name]);
  }
  const parts = [faults.reject, faults.status ? `status ${faults.status}` : "", faults.delay ? `${faults.delay} s delay` : ""].filter(Boolean);
  $("playing").textContent = parts.join(", ") || "none";
  $("faults").classList.toggle("on", parts.length > 0);
}

$("faults").querySelector("form").onchange = async (event) => {
  const form = event.currentTarget;
  const wanted = { status: Number(form.elements.status.value), delay: Number(form.elements.delay.value), reject: form.elements.reject.value };
  const options = { method: "PUT", headers: { "Content-Type": "application/json" }, body: JSON.stringify(wanted) };
  try {
    playing(await ask("faults", options));
  } catch (error) {
    $("playing").textContent = error.message;
  }
};

// Up and down move between rows; Escape closes the details.
$("rows").onkeydown = (key) => {
  const row = document.activeElement.closest(".row");
  if (!row || !["ArrowDown", "ArrowUp"].includes(key.key)) return;
  const next = key.key === "ArrowDown" ? row.nextElementSibling : row.previousElementSibling;
  if (next) next.focus();
  key.preventDefault();
};
document.addEventListener("keydown", (key) => key.key === "Escape" && state.chosen && back());
addEventListener("hashchange", () => show());
addEventListener("popstate", () => show());

ask("faults").then(playing).catch(() => {});
connect();
load().catch(() => {});
show();
