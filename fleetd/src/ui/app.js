// The dashboard. Reads everything once the events say `reset`, then applies each change.
"use strict";

const units = new Map();
const states = new Map(); // unit -> Map(machine -> state)
const machines = new Map();
const changed = new Set(); // units to be highlighted
let shown = "all";
let limit = 200;
let machineLimit = 60;
let loaded = false;
let open = null; // the unit in the dialog

const $ = (id) => document.getElementById(id);

/** Makes an element. Text only ever becomes text nodes, so no name or log line is ever markup. */
function make(tag, props = {}, ...children) {
  const element = document.createElement(tag);
  for (const [key, value] of Object.entries(props)) {
    if (key === "class") element.className = value;
    else if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (value !== false) element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children.filter((c) => c !== null && c !== undefined));
  return element;
}

// ---- reading ----

async function get(path) {
  const answer = await fetch(path, { headers: { Accept: "application/json" } });
  if (!answer.ok) {
    let message = `${answer.status} ${answer.statusText}`;
    try {
      message = (await answer.json()).error.message || message;
    } catch {
      // Not one of ours; the status must do.
    }
    throw Object.assign(new Error(message), { status: answer.status });
  }
  const type = answer.headers.get("content-type") || "";
  return type.startsWith("application/json") ? answer.json() : answer.text();
}

async function pages(path, list) {
  const all = [];
  let token = "";
  do {
    const page = await get(token ? `${path}?nextPageToken=${encodeURIComponent(token)}` : path);
    all.push(...(page[list] || []));
    token = page.nextPageToken || "";
  } while (token);
  return all;
}

let loading = null;
let again = false;

/** Reads everything. A second wish while one is under way is granted after it. */
async function load() {
  if (loading) {
    again = true;
    return loading;
  }
  loading = (async () => {
    try {
      const [us, ss, ms] = await Promise.all([
        pages("/fleet/v1/units", "units"),
        pages("/fleet/v1/state", "states"),
        get("/flotilla/v1/machines"),
      ]);
      units.clear();
      us.forEach((u) => units.set(u.name, u));
      states.clear();
      ss.forEach(setState);
      machines.clear();
      (ms.machines || []).forEach((m) => machines.set(m.id, m));
      loaded = true;
      notice("");
    } catch (error) {
      notice(`The cluster cannot be read: ${error.message}`);
    }
    draw();
  })();
  await loading;
  loading = null;
  if (again) {
    again = false;
    await load();
  }
}

function setState(state) {
  const of = states.get(state.name) || new Map();
  if (state.removed) of.delete(state.machineID);
  else of.set(state.machineID, state);
  states.set(state.name, of);
}

function notice(text) {
  $("notice").textContent = text;
  $("notice").hidden = !text;
}

function live(state, text) {
  $("live").dataset.state = state;
  $("live").textContent = text;
}

function listen() {
  const events = new EventSource("/flotilla/v1/events");
  const on = (kind, apply) =>
    events.addEventListener(kind, (event) => {
      apply(JSON.parse(event.data));
      if (!loading) soon();
      else again = true;
    });
  events.addEventListener("reset", () => {
    live("good", "live");
    load();
  });
  on("units", (unit) => {
    if (unit.removed) units.delete(unit.name);
    else {
      units.set(unit.name, unit);
      changed.add(unit.name);
    }
  });
  on("states", (state) => {
    setState(state);
    changed.add(state.name);
  });
  on("machines", (machine) => {
    if (machine.removed) machines.delete(machine.id);
    else machines.set(machine.id, machine);
  });
  events.onerror = () => {
    live("bad", "connection lost, trying again");
    if (events.readyState === EventSource.CLOSED) {
      // Refused, not broken: the browser does not try again by itself.
      load();
      setTimeout(listen, 5000);
    }
  };
}

// ---- what it means ----

/** State of a unit for people: a class, a word, details. */
function judge(unit) {
  const all = [...(states.get(unit.name) || new Map()).values()];
  if (!unit.currentState) {
    const active = all.filter((s) => s.systemdActiveState === "active").length;
    const failed = all.filter((s) => s.systemdActiveState === "failed").length;
    const word = `${active} of ${machines.size} active`;
    if (unit.desiredState === "inactive") return ["idle", "inactive", "global"];
    if (failed) return ["bad", `${word}, ${failed} failed`, "global"];
    return [active ? "good" : "wait", word, "global"];
  }
  if (unit.desiredState === "inactive" && !unit.machineID) return ["idle", "inactive", ""];
  if (!unit.machineID) return ["wait", "waiting for a machine", ""];
  const state = all.find((s) => s.machineID === unit.machineID);
  if (!state) return ["wait", "being handed over", ""];
  const word = `${state.systemdActiveState} (${state.systemdSubState})`;
  if (state.systemdActiveState === "failed") return ["bad", word, ""];
  if (state.systemdActiveState === "active") return ["good", word, ""];
  return [unit.desiredState === "launched" ? "wait" : "idle", word, ""];
}

const short = (id) => (id.length > 12 ? `${id.slice(0, 8)}…` : id);

function place(id) {
  const machine = machines.get(id);
  return machine && machine.ip ? `${short(id)} / ${machine.ip}` : short(id);
}

function amount(bytes) {
  const names = ["B", "KiB", "MiB", "GiB", "TiB"];
  let at = 0;
  while (bytes >= 1024 && at < names.length - 1) {
    bytes /= 1024;
    at += 1;
  }
  return `${bytes < 10 && at > 0 ? bytes.toFixed(1) : Math.round(bytes)} ${names[at]}`;
}

// ---- drawing ----

let pending = false;

function soon() {
  if (pending) return;
  pending = true;
  // A hidden page draws nothing until it is looked at; a busy cluster not more than 10 times a second.
  setTimeout(() => {
    pending = false;
    draw();
  }, 100);
}

function draw() {
  const rows = [...units.values()]
    .sort((a, b) => (a.name < b.name ? -1 : 1))
    .map((unit) => ({ unit, verdict: judge(unit) }));
  drawTiles(rows);
  drawMachines(rows);
  drawUnits(rows);
  changed.clear();
  if (open) drawFacts();
}

const KINDS = [
  ["all", "units"],
  ["good", "active"],
  ["wait", "waiting"],
  ["bad", "failed"],
  ["idle", "at rest"],
];

function drawTiles(rows) {
  const focused = document.activeElement && document.activeElement.dataset.kind;
  const tile = ([kind, word]) => {
    const count = kind === "all" ? rows.length : rows.filter((r) => r.verdict[0] === kind).length;
    const pick = () => {
      shown = shown === kind ? "all" : kind;
      limit = 200;
      draw();
    };
    return make(
      "button",
      { type: "button", "data-kind": kind, "aria-pressed": String(shown === kind), onclick: pick },
      make("b", { class: count && kind !== "all" ? kind : "" }, loaded ? String(count) : "–"),
      make("span", {}, word),
    );
  };
  $("tiles").replaceChildren(...KINDS.map(tile));
  if (focused) $("tiles").querySelector(`[data-kind="${focused}"]`)?.focus();
}

function track(label, used, offered, text, limited = true) {
  const share = offered ? Math.min(1, used / offered) : 0;
  const bar = make("i", { class: limited && share > 0.9 ? "full" : "" });
  bar.style.width = `${share * 100}%`;
  return [
    make("span", {}, label),
    make("span", { class: "track", role: "img", "aria-label": `${label}: ${text}` }, bar),
    make("span", {}, text),
  ];
}

function drawMachines(rows) {
  const all = [...machines.values()].sort((a, b) => (a.id < b.id ? -1 : 1));
  $("machine-count").textContent = loaded ? all.length : "";
  if (loaded && all.length === 0) {
    const text = "No machine is present. A machine appears when its fleetd reaches etcd.";
    $("machines").replaceChildren(make("p", { class: "empty" }, text));
    return;
  }
  const carried = new Map();
  for (const { unit } of rows) {
    const on = unit.currentState
      ? [unit.machineID].filter(Boolean)
      : (states.get(unit.name) || new Map()).keys();
    for (const id of on) carried.set(id, (carried.get(id) || 0) + 1);
  }
  const most = Math.max(1, ...carried.values());
  const focused = document.activeElement && document.activeElement.dataset.machine;
  const card = (machine) => {
    const count = carried.get(machine.id) || 0;
    const load = make("div", { class: "load" }, ...track("units", count, most, String(count), false));
    if (machine.memory_bytes) {
      const used = machine.reserved_memory_bytes || 0;
      const text = `${amount(used)} / ${amount(machine.memory_bytes)}`;
      load.append(...track("memory", used, machine.memory_bytes, text));
    }
    if (machine.cpus) {
      const used = machine.reserved_cpus || 0;
      load.append(...track("CPU", used, machine.cpus, `${used} / ${machine.cpus}`));
    }
    const filter = () => {
      $("filter").value = machine.id.slice(0, 8);
      limit = 200;
      draw();
      $("filter").focus();
    };
    const chips = Object.entries(machine.metadata || {}).map(([k, v]) =>
      make("span", { class: "chip" }, `${k}=${v}`),
    );
    if (machine.draining) chips.unshift(make("span", { class: "chip warn" }, "draining"));
    else if (machine.cordoned) chips.unshift(make("span", { class: "chip warn" }, "cordoned"));
    return make(
      "article",
      { class: machine.cordoned ? "card off" : "card" },
      make(
        "h3",
        {},
        make(
          "button",
          { type: "button", title: `${machine.id}: show its units`, "data-machine": machine.id, onclick: filter },
          short(machine.id),
        ),
        make("span", { class: "ip" }, machine.ip || ""),
      ),
      load,
      chips.length ? make("div", { class: "chips" }, ...chips) : null,
    );
  };
  const more = () => {
    machineLimit += 300;
    draw();
  };
  $("machines").replaceChildren(
    ...all.slice(0, machineLimit).map(card),
    ...(all.length > machineLimit
      ? [make("button", { type: "button", class: "more", onclick: more }, `Show more (${all.length - machineLimit} are left)`)]
      : []),
  );
  if (focused) $("machines").querySelector(`[data-machine="${CSS.escape(focused)}"]`)?.focus();
}

function drawUnits(rows) {
  const words = $("filter").value.toLowerCase().split(/\s+/).filter(Boolean);
  const fits = ({ unit, verdict }) => {
    if (shown !== "all" && verdict[0] !== shown) return false;
    if (words.length === 0) return true;
    const on = [...(states.get(unit.name) || new Map()).keys()].map(place).join(" ");
    const text =
      `${unit.name} ${verdict[1]} ${verdict[2]} ${unit.desiredState} ${unit.machineID || ""} ${place(unit.machineID || "")} ${on}`.toLowerCase();
    return words.every((word) => text.includes(word));
  };
  const hits = rows.filter(fits);
  $("unit-count").textContent = !loaded ? "" : hits.length === rows.length ? rows.length : `${hits.length} of ${rows.length}`;
  if (!loaded) {
    $("unit-list").replaceChildren(make("p", { class: "empty" }, "Reading the cluster…"));
    return;
  }
  if (hits.length === 0) {
    const empty = rows.length
      ? [make("span", {}, "No unit fits the filter.")]
      : [
          make("span", {}, "There are no units yet. Start one: "),
          make("br"),
          make("code", {}, "fleetctl start hello.service"),
        ];
    $("unit-list").replaceChildren(make("p", { class: "empty" }, ...empty));
    return;
  }
  const focused = document.activeElement && document.activeElement.dataset.unit;
  const row = ({ unit, verdict }) =>
    make(
      "tr",
      { class: changed.has(unit.name) ? "new" : "" },
      make(
        "td",
        { class: "name" },
        make("button", { type: "button", "data-unit": unit.name, onclick: () => show(unit.name) }, unit.name),
      ),
      make("td", {}, make("span", { class: `state ${verdict[0]}` }, verdict[1])),
      make("td", { class: "place mono" }, verdict[2] || (unit.machineID ? place(unit.machineID) : "–")),
      make("td", { class: "wish" }, unit.desiredState),
    );
  const head = ["Unit", "State", "Machine", "Wanted"].map((t) => make("th", { scope: "col" }, t));
  head[3].className = "wish";
  const table = make(
    "table",
    { class: "units" },
    make("thead", {}, make("tr", {}, ...head)),
    make("tbody", {}, ...hits.slice(0, limit).map(row)),
  );
  const more = () => {
    limit += 500;
    draw();
  };
  $("unit-list").replaceChildren(
    table,
    ...(hits.length > limit
      ? [make("button", { type: "button", class: "more", onclick: more }, `Show more (${hits.length - limit} are left)`)]
      : []),
  );
  if (focused) $("unit-list").querySelector(`[data-unit="${CSS.escape(focused)}"]`)?.focus();
}

// ---- one unit ----

function show(name) {
  open = name;
  $("detail-title").textContent = name;
  const log = make("pre", { id: "log", tabindex: "0" }, "…");
  $("detail-body").replaceChildren(
    make("dl", { class: "facts", id: "facts" }),
    make("h3", {}, "Why it is where it is"),
    make("div", { id: "why" }, "…"),
    make(
      "div",
      { class: "log-bar" },
      make("h3", {}, "Log"),
      make("button", { type: "button", onclick: () => readLog(name) }, "Read again"),
    ),
    log,
    make("h3", {}, "Unit file"),
    make("pre", { id: "text", tabindex: "0" }, "…"),
  );
  drawFacts();
  readText(name);
  readWhy(name);
  readLog(name);
  if (!$("detail").open) $("detail").showModal();
  history.replaceState(null, "", `#unit=${encodeURIComponent(name)}`);
}

function drawFacts() {
  const unit = units.get(open);
  const facts = [];
  const fact = (name, ...value) => facts.push(make("dt", {}, name), make("dd", {}, ...value));
  if (!unit) {
    fact("State", "destroyed");
  } else {
    const [kind, word] = judge(unit);
    fact("State", make("span", { class: `state ${kind}` }, word));
    fact("Wanted", unit.desiredState);
    if (unit.machineID) fact("Machine", make("span", { class: "mono" }, unit.machineID), ` ${machines.get(unit.machineID)?.ip || ""}`);
    if (!unit.currentState) {
      for (const state of (states.get(open) || new Map()).values()) {
        fact(place(state.machineID), `${state.systemdActiveState} (${state.systemdSubState})`);
      }
    }
  }
  $("facts").replaceChildren(...facts);
  // A new place or a new wish has a new reason.
  const now = unit ? `${unit.machineID} ${unit.desiredState}` : "";
  if ($("facts").dataset.now !== undefined && $("facts").dataset.now !== now) readWhy(open);
  $("facts").dataset.now = now;
}

async function readText(name) {
  const lines = [];
  try {
    const unit = await get(`/fleet/v1/units/${encodeURIComponent(name)}`);
    const sections = [...new Set((unit.options || []).map((o) => o.section))];
    for (const section of sections) {
      if (lines.length) lines.push("");
      lines.push(`[${section}]`);
      for (const o of unit.options) if (o.section === section) lines.push(`${o.name}=${o.value}`);
    }
  } catch (error) {
    lines.push(error.message);
  }
  if (open === name) $("text").textContent = lines.join("\n");
}

async function readLog(name) {
  let text;
  try {
    text = await get(`/flotilla/v1/units/${encodeURIComponent(name)}/journal?lines=200`);
    text = text.trimEnd() || "Nothing has been logged.";
  } catch (error) {
    text = error.message;
    if (error.status === 504) text += `\nfleetctl journal ${name}`;
  }
  if (open !== name) return;
  $("log").textContent = text;
  $("log").scrollTop = $("log").scrollHeight;
}

async function readWhy(name) {
  const out = [];
  try {
    const why = await get(`/flotilla/v1/explain/${encodeURIComponent(name)}`);
    out.push(make("p", {}, why.waiting || why.reason));
    const row = (m) => {
      const here = m.id === why.machine;
      const verdict = here ? "runs here" : !m.fits ? m.obstacle : m.failures ? "fits, but has failed there" : "fits";
      return make(
        "tr",
        {},
        make("td", { class: "mono" }, m.ip ? `${short(m.id)} / ${m.ip}` : short(m.id)),
        make("td", { class: here ? "good" : m.fits ? "" : "bad" }, verdict),
        make("td", {}, String(m.load)),
      );
    };
    if ((why.machines || []).length) {
      const head = ["Machine", "For this unit", "Load"].map((t) => make("th", { scope: "col" }, t));
      const body = why.machines.slice(0, 50).map(row);
      out.push(make("table", {}, make("thead", {}, make("tr", {}, ...head)), make("tbody", {}, ...body)));
    }
  } catch (error) {
    out.push(make("p", {}, error.message));
  }
  if (open === name) $("why").replaceChildren(...out);
}

// ---- the page ----

function fromHash() {
  const name = /^#unit=(.+)$/.exec(location.hash);
  if (name) show(decodeURIComponent(name[1]));
}

function theme(next) {
  if (next) document.documentElement.dataset.theme = next;
}

document.addEventListener("DOMContentLoaded", () => {
  try {
    theme(localStorage.getItem("theme"));
  } catch {
    // Storage may be forbidden; the system's choice is fine.
  }
  $("theme").addEventListener("click", () => {
    const dark = document.documentElement.dataset.theme
      ? document.documentElement.dataset.theme === "dark"
      : matchMedia("(prefers-color-scheme: dark)").matches;
    theme(dark ? "light" : "dark");
    try {
      localStorage.setItem("theme", document.documentElement.dataset.theme);
    } catch {
      // As above.
    }
  });
  $("filter").addEventListener("input", () => {
    limit = 200;
    draw();
  });
  $("close").addEventListener("click", () => $("detail").close());
  $("detail").addEventListener("click", (event) => {
    if (event.target === $("detail")) $("detail").close();
  });
  $("detail").addEventListener("close", () => {
    const name = open;
    open = null;
    history.replaceState(null, "", location.pathname);
    if (name) $("unit-list").querySelector(`[data-unit="${CSS.escape(name)}"]`)?.focus();
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "/" && document.activeElement !== $("filter") && !open) {
      event.preventDefault();
      $("filter").focus();
    }
  });
  window.addEventListener("hashchange", fromHash);
  get("/flotilla/v1/whoami")
    .then((who) => ($("who").textContent = `${who.name} · ${who.role}`))
    .catch(() => {});
  draw();
  listen();
  fromHash();
});
