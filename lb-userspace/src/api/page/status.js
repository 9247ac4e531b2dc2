// The status page: reads the daemon's API, draws what it says, changes nothing.
"use strict";

const POLL_MS = 2000, TRAFFIC_MS = 5000, MAX_EVENTS = 120, MAX_POINTS = 720, TIMEOUT_MS = 8000;
const GLYPH = { UP: "", RAMP: "↗", SUSPECT: "!", DRAINING: "▽", DOWN: "✕" };
const RANK = { UP: 0, RAMP: 1, DRAINING: 2, SUSPECT: 3, DOWN: 4 };
const $ = (id) => document.getElementById(id);
const SVG = "http://www.w3.org/2000/svg";
const now = { status: null, domains: [], backends: [], services: [], plans: [], rates: new Map(), zones: new Map(), total: 0, bytes: 0, dropped: 0 };
const traffic = { period: 5, points: [] };
const events = [];
let before = null, spoken = "", hues = new Map(), shown = null;

// --- small things
const el = (tag, cls, text) => { const e = document.createElement(tag); if (cls) e.className = cls; if (text !== undefined) e.textContent = text; return e; };
const svg = (tag, attributes) => { const e = document.createElementNS(SVG, tag); for (const k in attributes) e.setAttribute(k, attributes[k]); return e; };
const set = (e, text) => { if (e.textContent !== text) e.textContent = text; };
const state = (e, s) => { if (e.dataset.state !== s) e.dataset.state = s; };
const si = (n) => { if (!(n > 0)) return "0"; for (const [unit, size] of [["G", 1e9], ["M", 1e6], ["k", 1e3]]) if (n >= size * 0.9995) return (n / size).toPrecision(3) + " " + unit; return n >= 99.5 ? n.toFixed(0) : n >= 9.95 ? n.toFixed(0) : n.toFixed(1); };
const pct = (x) => !(x > 0) ? "0 %" : x < 0.001 ? "<0.1 %" : (100 * x).toFixed(x < 0.0995 ? 1 : 0) + " %";
const ns = (n) => n >= 1e9 ? (n / 1e9).toPrecision(3) + " s" : n >= 1e6 ? (n / 1e6).toPrecision(3) + " ms" : n >= 1e3 ? (n / 1e3).toPrecision(3) + " µs" : n + " ns";
const span = (s) => s >= 172800 ? Math.floor(s / 86400) + " days" : s >= 7200 ? Math.floor(s / 3600) + " h" : s >= 120 ? Math.floor(s / 60) + " min" : Math.floor(s) + " s";
const clock = (t, seconds = true) => new Date(t).toLocaleTimeString([], { hour: "2-digit", minute: "2-digit", second: seconds ? "2-digit" : undefined, hour12: false });
const many = (n, one, more) => n === 1 ? "1 " + one : n + " " + (more || one + "s");
const whole = (percent) => pct(percent / 100);
const clients = (p) => p.client_region !== "default" ? p.client_region : now.plans.some((o) => o.service === p.service && o !== p) ? "all others" : "all clients";
const planName = (p) => `${p.service} for ${clients(p)}`;
const zoneOf = (rack) => rack.split("/").slice(0, 2).join("/");
const last = (path) => path.slice(path.lastIndexOf("/") + 1);

/** Makes the children of `parent` those of `items`, keeping what is there, so that focus and a reader's place stay. */
function keep(parent, items, key, make, update) {
  const known = new Map([...parent.children].map((child) => [child.dataset.key, child]));
  let place = parent.firstElementChild;
  for (const item of items) {
    const k = key(item);
    let child = known.get(k);
    if (child) known.delete(k); else { child = make(item); child.dataset.key = k; }
    if (child === place) place = place.nextElementSibling; else parent.insertBefore(child, place);
    update(child, item);
  }
  for (const child of known.values()) child.remove();
}

async function get(path) {
  const answer = await fetch(path, { cache: "no-store", signal: AbortSignal.timeout(TIMEOUT_MS) });
  if (!answer.ok) throw new Error(path + ": " + answer.status);
  return answer.json();
}

// --- what is asked for
async function look() {
  const [status, domains, backends, services, plans] = await Promise.all(["/v1/status", "/v1/domains", "/v1/backends", "/v1/services", "/v1/plans"].map(get));
  const at = performance.now();
  const sum = (list, f) => list.reduce((total, x) => total + f(x), 0);
  const drops = sum(status.traffic.reasons, (r) => r.verdict === "drop" ? r.packets : 0);
  const counts = { at, drops, bytes: status.traffic.forwarded_bytes, total: status.traffic.forwarded_packets,
    backends: new Map(backends.map((b) => [b.name, b.packets])), services: new Map(services.map((s) => [s.name, s.traffic])) };
  // Too short a time makes jumpy rates: the one before stays the measure.
  if (before && at - before.at > 900 || !before) {
    if (before) {
      const seconds = (at - before.at) / 1000, rate = (a, b) => b === undefined ? 0 : Math.max(0, a - b) / seconds;
      now.rates = new Map(backends.map((b) => [b.name, rate(b.packets, before.backends.get(b.name))]));
      now.serviceRates = new Map(services.map((s) => { const b = before.services.get(s.name) || s.traffic; return [s.name, { packets: rate(s.traffic.packets, b.packets), opening: rate(s.traffic.opening, b.opening), dropped: rate(s.traffic.dropped, b.dropped) }]; }));
      now.total = rate(counts.total, before.total); now.bytes = rate(counts.bytes, before.bytes); now.dropped = rate(drops, before.drops);
    }
    before = counts;
  }
  Object.assign(now, { status, domains, backends, services, plans });
  now.zones = new Map();
  for (const b of backends) now.zones.set(zoneOf(b.rack), (now.zones.get(zoneOf(b.rack)) || 0) + (now.rates.get(b.name) || 0));
  hues = new Map(domains.filter((d) => d.level === "zone").map((d, i) => [d.path, `var(--z${i % 8})`]));
  draw();
}

async function lookBack() {
  const history = await get("/v1/traffic?points=" + (traffic.points.length ? 6 : MAX_POINTS));
  traffic.period = history.period_s;
  const newest = traffic.points.length ? traffic.points[traffic.points.length - 1].time : "";
  traffic.points.push(...history.points.filter((p) => Date.parse(p.time) > (Date.parse(newest) || 0)));
  traffic.points.splice(0, traffic.points.length - MAX_POINTS);
  drawTraffic();
}

function take(event) {
  if (events.some((e) => e.seq === event.seq)) return;
  events.unshift(event);
  events.sort((a, b) => b.seq - a.seq).splice(MAX_EVENTS);
}

// --- verdict
function facts() {
  const { status, domains, backends } = now, list = [];
  const say = (s, text) => list.push({ s, text });
  if (status.isolated) say("DOWN", "This host hears from no target at all: states are held as they were.");
  for (const i of status.xdp.interfaces) if (!i.attached) say("DOWN", `No program on ${i.name}: what arrives there is not forwarded.`);
  const out = domains.filter((d) => d.health.state !== "UP");
  for (const d of out) if (!out.some((o) => d.path.startsWith(o.path + "/") && o.health.state === d.health.state))
    say(d.health.state, `${d.level} ${d.path} is ${d.health.state} since ${clock(d.health.since)}${why(d.health)}`);
  for (const b of backends.filter((b) => b.health.state !== "UP" && !b.limited_by).slice(0, 8)) say(b.health.state, `${b.name} is ${b.health.state}${why(b.health)}`);
  const hops = status.unresolved_next_hops;
  if (hops.length) say("SUSPECT", `No next hop for ${hops.slice(0, 4).join(", ")}${hops.length > 4 ? " and " + (hops.length - 4) + " more" : ""}.`);
  if (status.config.last_error) say("SUSPECT", "The last reload was refused: " + status.config.last_error.slice(0, 160));
  if (status.control.lost_events) say("SUSPECT", many(status.control.lost_events, "event") + " lost.");
  for (const p of now.plans) {
    if (p.panic) say("DOWN", `${planName(p)}: health is not believed, as only ${whole(p.healthy_percent)} is healthy.`);
    if (p.unfit_percent > 0) say("DOWN", `${planName(p)}: no pool has room for ${whole(p.unfit_percent)} of its new flows.`);
  }
  for (const s of status.shifts || []) say("DRAINING", `${s.domain} keeps ${s.keep_percent} % of its new flows for ${span(s.left_s)} more: ${s.reason}`);
  if (status.flows.transition_ends) say("RAMP", "A change of the configuration is in transition until " + clock(status.flows.transition_ends) + ".");
  return list;
}
const why = (health) => health.override ? `: ${health.override.action} by an operator (${health.override.reason})${health.left_s ? ", " + span(health.left_s) + " left" : ""}` : "";

function drawVerdict() {
  const { status, domains, backends } = now, list = facts();
  const down = (level) => domains.filter((d) => d.level === level && d.health.state === "DOWN");
  const taking = backends.filter((b) => b.effective.new > 0).length;
  let text, is = "good";
  const lost = [["region", down("region")], ["zone", down("zone")], ["rack", down("rack")]].find(([, l]) => l.length);
  if (taking === 0) { text = "No backend takes new flows."; is = "bad"; }
  else if (lost) { text = `${lost[1].length === 1 ? lost[0][0].toUpperCase() + lost[0].slice(1) + " " + lost[1][0].path + " is" : many(lost[1].length, lost[0]) + " are"} down; ${taking} of ${backends.length} backends carry the traffic.`; is = "bad"; }
  else if (taking < backends.length) { text = `${taking} of ${backends.length} backends take new flows.`; is = "warn"; }
  else { text = `All ${backends.length} backends take traffic.`; if (list.length) is = "warn"; }
  set($("verdict-text"), text); $("verdict-text").dataset.is = is;
  if (text !== spoken) { set($("spoken"), text); spoken = text; }
  document.title = (is === "good" ? "" : is === "bad" ? "✕ " : "! ") + "Weir " + status.node.name;
  keep($("attention"), list.slice(0, 12), (f) => f.text, () => el("li"), (e, f) => { state(e, f.s); set(e, f.text); });
  const numbers = [["packets/s", si(now.total)], ["bits/s", si(now.bytes * 8)], ["dropped/s", si(now.dropped)], ["flows away from home", si(status.flows.entries)], ["services", String(status.services)]];
  keep($("numbers"), numbers, (n) => n[0], (n) => { const d = el("div"); d.append(el("dt", "", n[0]), el("dd")); return d; }, (e, n) => set(e.lastChild, n[1]));
  set($("node"), status.node.name);
  set($("place"), `${status.node.zone || status.node.region} · up ${span(status.daemon.uptime_s)}`);
  set($("about"), `Weir ${status.daemon.version}, ABI ${status.daemon.abi} · configuration ${status.config.digest.slice(0, 12)} · ${status.xdp.interfaces.map((i) => i.name).join(", ")} (${status.xdp.mode})`);
}

// --- topology
/** What each zone carried just before the widest domain that is not up now left: the mean of three points. */
function baseline() {
  const out = now.domains.filter((d) => RANK[d.health.state] > 1).sort((a, b) => a.path.length - b.path.length)[0];
  if (!out) return null;
  const since = Date.parse(out.health.since), points = traffic.points.filter((p) => Date.parse(p.time) < since).slice(-3);
  if (!points.length) return null;
  const zones = new Map();
  for (const p of points) for (const z in p.zones) zones.set(z, (zones.get(z) || 0) + p.zones[z] / points.length);
  return { zones, since: out.health.since };
}

function drawTopology() {
  const was = baseline(), total = [...now.zones.values()].reduce((a, b) => a + b, 0);
  const inside = (path) => now.domains.filter((d) => d.path.startsWith(path + "/") && d.path.split("/").length === path.split("/").length + 1);
  const own = now.status.node.region, regions = now.domains.filter((d) => d.level === "region").sort((a, b) => (b.path === own) - (a.path === own));
  keep($("regions"), regions, (d) => d.path, () => {
    const li = el("li", "region"), h = el("h3"); h.append(el("span"), el("span", "badge quiet")); li.append(h, el("ul", "zones")); return li;
  }, (li, region) => {
    state(li, region.health.state); set(li.firstChild.firstChild, region.path); badge(li.querySelector(".badge"), region.health.state);
    keep(li.lastChild, inside(region.path), (d) => d.path, makeZone, (e, zone) => drawZone(e, zone, total, was, inside(zone.path)));
  });
  set($("edge-name"), now.status.node.name); set($("edge-rate"), si(now.total)); set($("edge-bits"), si(now.bytes * 8) + "bit/s"); set($("edge-drop"), now.dropped > 0 ? si(now.dropped) + " dropped/s" : "");
  const parts = [...now.zones].sort((a, b) => b[1] - a[1]).map(([zone, rate]) => { const d = now.domains.find((d) => d.path === zone); return `${zone} carries ${total ? pct(rate / total) : "nothing"}${d && d.health.state !== "UP" ? " and is " + d.health.state : ""}`; });
  set($("flow-text"), parts.join("; ") + ".");
  if (!$("regions").querySelector('[tabindex="0"]')) { const first = $("regions").querySelector(".tile"); if (first) first.tabIndex = 0; }
  drawRibbons(total);
}
const badge = (e, s) => { state(e, s); set(e, s); };

function makeZone(zone) {
  const li = el("li", "zone"), head = el("div"), h = el("h4");
  h.append(el("span", "", last(zone.path)), el("span", "badge quiet"));
  const line = el("p"); line.append(el("span", "share"), " ", el("span", "muted rate"), " ", el("span", "delta"));
  const bar = el("div", "bar"); bar.append(el("i"));
  head.append(h, line, bar); li.append(head, el("ul", "racks"), el("p", "why"));
  return li;
}

function drawZone(li, zone, total, was, racks) {
  const rate = now.zones.get(zone.path) || 0, s = zone.health.state;
  state(li, s); li.style.setProperty("--zc", hues.get(zone.path) || ""); li.style.setProperty("--w", total ? (100 * rate / total).toFixed(1) + "%" : "0%");
  badge(li.querySelector(".badge"), s);
  set(li.querySelector(".share"), total ? pct(rate / total) : "–"); set(li.querySelector(".rate"), si(rate) + " pps");
  const old = was && (was.zones.get(zone.path) || 0), delta = li.querySelector(".delta"), difference = was ? rate - old : 0;
  const matters = was && Math.abs(difference) > Math.max(1, 0.05 * Math.max(rate, old));
  delta.dataset.is = difference > 0 ? "more" : "less";
  set(delta, matters ? `${difference > 0 ? "+" : "−"}${si(Math.abs(difference))} pps since ${clock(was.since, false)}` : "");
  set(li.querySelector(".why"), s === "UP" ? "" : `${s} since ${clock(zone.health.since)}${why(zone.health)}`);
  const most = Math.max(...now.backends.map((b) => now.rates.get(b.name) || 0), 1e-9);
  keep(li.querySelector(".racks"), racks, (d) => d.path, () => { const r = el("li", "rack"), h = el("h5"); h.append(el("span"), el("span", "badge quiet")); r.append(h, el("div", "tiles")); return r; }, (r, rack) => {
    state(r, rack.health.state); set(r.firstChild.firstChild, last(rack.path)); badge(r.querySelector(".badge"), rack.health.state);
    const members = now.backends.filter((b) => b.rack === rack.path);
    r.classList.toggle("dense", members.length > 24);
    keep(r.lastChild, members, (b) => b.name, makeTile, (tile, b) => drawTile(tile, b, most, total));
  });
}

/** The state that decides: a domain's, if it lets less through than the backend itself. */
function effective(b) {
  const d = b.limited_by && now.domains.find((d) => d.path === b.limited_by);
  return d && RANK[d.health.state] > RANK[b.health.state] ? d.health.state : b.health.state;
}

function makeTile(b) {
  const tile = el("button", "tile"); tile.type = "button"; tile.tabIndex = -1; tile.append(el("span"));
  tile.addEventListener("click", () => { shown = b.name; drawDetail(); $("detail").showPopover(); });
  tile.addEventListener("focus", () => { for (const t of document.querySelectorAll('.tile[tabindex="0"]')) t.tabIndex = -1; tile.tabIndex = 0; });
  return tile;
}

function drawTile(tile, b, most, total) {
  const s = effective(b), rate = now.rates.get(b.name) || 0;
  state(tile, s); tile.dataset.idle = String(b.effective.new === 0); set(tile.firstChild, GLYPH[s]);
  tile.style.setProperty("--h", (100 * rate / most).toFixed(0) + "%");
  const label = `${b.name}: ${s}${b.limited_by ? " by " + b.limited_by : ""}, ${total ? pct(rate / total) : "0 %"} of the traffic, ${si(rate)} packets a second`;
  if (tile.getAttribute("aria-label") !== label) { tile.setAttribute("aria-label", label); tile.title = label; }
}

function drawDetail() {
  const b = now.backends.find((b) => b.name === shown); if (!b) return;
  set($("detail-name"), b.name);
  const rows = [["State", effective(b) + (b.limited_by ? ` (by ${b.limited_by})` : "") + why(b.health)], ["Since", new Date(b.health.since).toLocaleString()], ["Address", b.address], ["Rack", b.rack], ["Set", b.set], ["Weight", String(b.weight)],
    ["Takes", `${Math.round(b.effective.new / 2.55)} % of new, ${Math.round(b.effective.old / 2.55)} % of established flows`], ["Rate", si(now.rates.get(b.name) || 0) + " packets/s"], ["In all", `${si(b.packets)} packets, ${si(b.bytes)}B`], ["Flow table", many(b.flows, "entry", "entries")],
    ["Next hop", b.next_hop ? `${b.next_hop.interface} ${b.next_hop.mac}` : "not known"], ...b.checks.map((c) => ["Check " + c.name, `${c.state}, ${c.last}${c.last_rtt_ns ? ", " + ns(c.last_rtt_ns) : ""}; ${c.missed} of ${c.answered + c.missed} missed`])];
  keep($("detail-list"), rows.flatMap(([k, v]) => [{ k, t: "dt", v: k }, { k, t: "dd", v }]), (x) => x.t + x.k, (x) => el(x.t), (e, x) => set(e, x.v));
}

function arrows(event) {
  const step = { ArrowRight: 1, ArrowDown: 1, ArrowLeft: -1, ArrowUp: -1 }[event.key], ends = { Home: 0, End: -1 }[event.key];
  if (step === undefined && ends === undefined || !event.target.classList.contains("tile")) return;
  const tiles = [...$("regions").querySelectorAll(".tile")], at = tiles.indexOf(event.target);
  const to = ends === undefined ? tiles[at + step] : tiles.at(ends);
  if (to) { event.preventDefault(); to.focus(); }
}

/** The flows from this host to the zones, each as wide as its share. */
function drawRibbons(total) {
  const box = $("ribbons"), frame = $("flow").getBoundingClientRect(), from = $("edge").getBoundingClientRect();
  const zones = [...document.querySelectorAll(".zone")];
  box.setAttribute("viewBox", `0 0 ${frame.width} ${frame.height}`);
  const wide = Math.min(from.height - 16, 190), x0 = from.right - frame.left, shapes = [];
  let y = from.top - frame.top + from.height / 2 - wide / 2;
  for (const zone of zones) {
    const to = zone.getBoundingClientRect(), path = zone.dataset.key, share = total ? (now.zones.get(path) || 0) / total : 0;
    const x1 = to.left - frame.left, mid = (x0 + x1) / 2, middle = to.top - frame.top + to.height / 2, hue = hues.get(path);
    if (share > 0.0005) {
      const w = Math.max(share * wide, 1.5), end = Math.min(w, to.height - 4), a = middle - end / 2, c = y + w / 2;
      shapes.push({ k: "r" + path, cls: "ribbon", d: `M${x0} ${y}C${mid} ${y} ${mid} ${a} ${x1} ${a}V${a + end}C${mid} ${a + end} ${mid} ${y + w} ${x0} ${y + w}Z`, fill: hue });
      shapes.push({ k: "l" + path, cls: "ribbon-line", d: `M${x0} ${c}C${mid} ${c} ${mid} ${middle} ${x1} ${middle}`, stroke: hue });
      y += share * wide;
    } else shapes.push({ k: "n" + path, cls: "ribbon-none", s: zone.dataset.state, d: `M${x0} ${y}C${mid} ${y} ${mid} ${middle} ${x1} ${middle}` });
  }
  keep(box, shapes, (s) => s.k, (s) => svg("path", { class: s.cls }), (e, s) => { e.setAttribute("d", s.d); if (s.fill) e.style.fill = s.fill; if (s.stroke) e.style.stroke = s.stroke; if (s.s) state(e, s.s); });
}

// --- traffic
const WIDE = 1000, HIGH = 190;
function drawTraffic() {
  const points = traffic.points, zones = [...hues.keys()], chart = $("chart");
  if (points.length && points.some((p) => p.zones.others)) zones.push("others");
  const end = points.length ? Date.parse(points.at(-1).time) : Date.now(), hour = 3600e3;
  // A daemon that has run for minutes shows minutes: the scale grows up to the hour.
  const length = Math.min(hour, Math.max(300e3, points.length ? end - Date.parse(points[0].time) : 0)), start = end - length;
  const x = (t) => WIDE * (Date.parse(t) - start) / length, top = Math.max(1, ...points.map((p) => p.packets)) * 1.12, y = (v) => HIGH - HIGH * v / top;
  const base = points.map(() => 0), shapes = [1, 2, 3].map((n) => ({ k: "g" + n, tag: "line", cls: "grid", a: { x1: 0, x2: WIDE, y1: HIGH * n / 4, y2: HIGH * n / 4 } }));
  for (const zone of points.length > 1 ? zones : []) {
    const low = points.map((p, i) => `${x(p.time).toFixed(1)} ${y(base[i]).toFixed(1)}`);
    points.forEach((p, i) => { base[i] += p.zones[zone] || 0; });
    const high = points.map((p, i) => `${x(p.time).toFixed(1)} ${y(base[i]).toFixed(1)}`);
    shapes.push({ k: "z" + zone, tag: "path", cls: "area", fill: hues.get(zone) || "var(--soft)", a: { d: "M" + high.join("L") + "L" + low.reverse().join("L") + "Z" } });
  }
  if (points.length > 1 && points.some((p) => p.dropped > 0)) shapes.push({ k: "d", tag: "path", cls: "dropped", a: { d: "M" + points.map((p) => `${x(p.time).toFixed(1)} ${y(Math.min(p.dropped, top)).toFixed(1)}`).join("L") } });
  for (const e of events.filter((e) => e.kind === "domain-state" && Date.parse(e.time) > start)) shapes.push({ k: "e" + e.seq, tag: "line", cls: "mark", s: e.to, a: { x1: x(e.time), x2: x(e.time), y1: 0, y2: HIGH } });
  chart.setAttribute("viewBox", `0 0 ${WIDE} ${HIGH}`);
  keep(chart, shapes, (s) => s.k, (s) => svg(s.tag, { class: s.cls }), (e, s) => { for (const k in s.a) e.setAttribute(k, s.a[k]); if (s.fill) e.style.fill = s.fill; if (s.s) state(e, s.s); });
  keep($("axis"), [0, 1, 2, 3, 4], String, () => el("span"), (e, n) => set(e, clock(start + length * n / 4, false)));
  const legend = zones.map((z) => ({ name: z, c: hues.get(z) })).concat(points.some((p) => p.dropped > 0) ? [{ name: "dropped", c: "var(--DOWN)" }] : []);
  keep($("zones-legend"), legend, (z) => z.name, (z) => { const li = el("li"); li.append(el("i"), el("span", "", z.name)); return li; }, (e, z) => { if (z.c) e.style.setProperty("--c", z.c); });
  const most = points.reduce((a, p) => p.packets > a.packets ? p : a, { packets: 0, time: 0 }), newest = points.at(-1);
  set($("chart-text"), newest ? `Packets per second by zone over ${span(length / 1000)}: ${si(newest.packets)} now, at most ${si(most.packets)} at ${clock(most.time)}. The table below has the numbers.` : "No traffic was measured yet.");
  set($("reading"), newest ? `${si(newest.packets)} packets/s now · at most ${si(most.packets)}` : "measuring");
  table(points, zones);
}

function table(points, zones) {
  const step = Math.max(1, Math.ceil(points.length / 12)), rows = points.filter((_, i) => (points.length - 1 - i) % step === 0).reverse();
  const columns = ["time", "packets/s", "new flows/s", "dropped/s", ...zones];
  const head = $("traffic-table").tHead;
  if (!head.firstChild) head.append(el("tr"));
  keep(head.firstChild, columns, (c) => c, (c) => { const th = el("th", "", c); th.scope = "col"; return th; }, () => {});
  keep($("traffic-table").tBodies[0], rows, (p) => p.time, () => el("tr"), (tr, p) => {
    const cells = [clock(p.time), si(p.packets), si(p.new_flows), si(p.dropped), ...zones.map((z) => si(p.zones[z] || 0))];
    keep(tr, cells.map((text, i) => ({ text, i })), (c) => "c" + c.i, () => el("td"), (td, c) => set(td, c.text));
  });
}

function point(event) {
  const box = $("chart").getBoundingClientRect(), points = traffic.points;
  if (points.length < 2) return;
  const end = Date.parse(points.at(-1).time), length = Math.min(3600e3, Math.max(300e3, end - Date.parse(points[0].time)));
  const t = end - length + length * (event.clientX - box.left) / box.width;
  const p = points.reduce((a, q) => Math.abs(Date.parse(q.time) - t) < Math.abs(Date.parse(a.time) - t) ? q : a);
  set($("reading"), `${clock(p.time)}: ${si(p.packets)} packets/s, ${si(p.new_flows)} new flows/s, ${si(p.dropped)} dropped/s · ` + Object.entries(p.zones).map(([z, v]) => `${z} ${si(v)}`).join(", "));
}

// --- services and events
function drawServices() {
  keep($("service-list"), now.services, (s) => s.name, () => { const li = el("li", "card"), h = el("h3"); h.append(el("b"), el("span", "muted")); li.append(h, el("p", "facts muted"), el("div", "plans")); return li; }, (li, s) => {
    const rate = (now.serviceRates && now.serviceRates.get(s.name)) || { packets: 0, opening: 0, dropped: 0 };
    const address = s.address.includes(":") ? `[${s.address}]` : s.address;
    set(li.querySelector("b"), s.name); set(li.querySelector("h3 span"), `${address}:${s.port} ${s.protocol}`);
    set(li.querySelector(".facts"), `${si(rate.packets)} packets/s · ${si(rate.opening)} new flows/s · ${si(rate.dropped)} dropped/s · ${s.forwarding}${s.quic ? " · QUIC" : ""}`);
    const steered = now.plans.filter((p) => p.service === s.name);
    keep(li.lastChild, steered, (p) => p.client_region, makePlan, drawPlan);
  });
  const spilled = now.plans.filter((p) => p.spilled_percent >= 1), panic = now.plans.filter((p) => p.panic);
  const parts = [many(now.plans.length, "plan"), spilled.length ? many(spilled.length, "spills", "spill") : "none spills", ...(panic.length ? [`${panic.length} in panic`] : [])];
  set($("plans-text"), now.plans.length ? parts.join(", ") : "");
}

function makePlan() {
  const e = el("section", "steered"), head = el("p", "plan"), bar = el("div", "split"), list = el("ul", "plan pools"), details = el("details");
  head.append(el("span", "who"), el("span", "badge panic", "PANIC"), el("span", "muted mode"), el("span", "delta spill"));
  bar.setAttribute("aria-hidden", "true");
  list.setAttribute("aria-label", "Pools in order: their part of the new flows, and the backends that take some");
  details.append(el("summary", "", "Why"), el("ul", "reasons")); e.append(head, bar, list, details);
  return e;
}

/** Where the new flows of one client region go: a bar with a part for each pool, and the same in words. */
function drawPlan(e, plan) {
  set(e.querySelector(".who"), clients(plan));
  const panic = e.querySelector(".panic"); state(panic, plan.panic ? "DOWN" : "UP"); panic.hidden = !plan.panic;
  set(e.querySelector(".mode"), `${plan.mode} · ${whole(plan.healthy_percent)} healthy · ${si(plan.demand)} new flows/s`);
  const spill = e.querySelector(".spill"); spill.dataset.is = plan.unfit_percent > 0 ? "less" : "more";
  set(spill, plan.unfit_percent > 0 ? `${whole(plan.unfit_percent)} without room` : plan.spilled_percent >= 0.1 ? `${whole(plan.spilled_percent)} spilled` : "");
  const hue = (i) => `var(--z${i % 8})`;
  keep(e.querySelector(".split"), plan.pools, (p) => p.pool, () => el("i"), (i, p) => { i.style.setProperty("--w", p.share_percent + "%"); i.style.setProperty("--c", hue(plan.pools.indexOf(p))); });
  keep(e.querySelector(".pools"), plan.pools, (p) => p.pool, () => { const li = el("li", "pool"); li.append(el("i"), el("span")); return li; }, (li, p) => {
    const s = p.taking === 0 ? "DOWN" : p.taking < p.members ? "SUSPECT" : "UP";
    state(li, s); li.classList.toggle("first", p.share_percent >= 50); li.firstChild.style.setProperty("--c", hue(plan.pools.indexOf(p)));
    const load = p.capacity ? ` · ${si(p.arrivals)} of ${si(p.capacity)} flows/s` : "";
    set(li.lastChild, `${p.pool} ${whole(p.share_percent)} · ${p.taking}/${p.members}${load}`);
  });
  keep(e.querySelector(".reasons"), plan.why, (w) => w, () => el("li"), (li, w) => set(li, w));
}

function drawEvents() {
  keep($("events"), events, (e) => String(e.seq), (e) => {
    const li = el("li"), time = el("time", "", clock(e.time)), body = el("div"), what = el("p", "what");
    time.dateTime = e.time; time.title = new Date(e.time).toLocaleString();
    what.append(e.subject + " ");
    if (e.to) { const b = el("span", "badge", e.from ? `${e.from} → ${e.to}` : e.to); b.dataset.state = e.to; what.append(b); li.dataset.state = e.to; }
    body.append(what, el("p", "cause", e.cause));
    const took = el("p", "took");
    const part = (name, a, b) => { if (a !== undefined && b !== undefined && b >= a) { const s = el("span", "muted", name + " "); s.append(el("b", "", ns(b - a))); took.append(s); } };
    part("detected in", e.evidence_ns, e.decided_ns); part("in force after", e.decided_ns, e.stored_ns);
    if (took.firstChild) body.append(took);
    li.append(time, body); return li;
  }, () => {});
  const outs = events.filter((e) => e.evidence_ns !== undefined && e.stored_ns !== undefined && (e.to === "SUSPECT" || e.to === "DOWN")).map((e) => e.stored_ns - e.evidence_ns).sort((a, b) => a - b);
  set($("reactions"), outs.length ? `failures left the data plane in ${ns(outs[outs.length >> 1])} (median of ${outs.length})` : "");
}

function draw() { drawVerdict(); drawTopology(); drawServices(); drawEvents(); if (shown) drawDetail(); }

// --- colours
function theme(next) {
  const order = ["", "light", "dark"], root = document.documentElement;
  let choice = root.dataset.theme || "";
  if (next) { choice = order[(order.indexOf(choice) + 1) % 3]; try { localStorage.setItem("theme", choice); } catch { /* not kept, then */ } } else { try { choice = localStorage.getItem("theme") || ""; } catch { choice = ""; } }
  const asked = new URLSearchParams(location.search).get("theme");
  if (!next && order.includes(asked)) choice = asked;
  if (choice) root.dataset.theme = choice; else delete root.dataset.theme;
  const name = { "": "as the system", light: "light", dark: "dark" }[choice];
  set($("theme"), { "": "◐", light: "○", dark: "●" }[choice]); $("theme").setAttribute("aria-label", "Colours: " + name); $("theme").title = "Colours: " + name;
}

// --- all the time
function live(is, text) { $("live").dataset.is = is; set($("live-text"), text); }
async function again(work, ms) {
  for (;;) {
    if (!document.hidden) {
      try { await work(); if (work === look) live("live", "live"); } catch (error) {
        live("lost", "no answer"); console.warn(String(error));
        if (spoken !== "lost") { set($("spoken"), "The daemon does not answer. What is shown is old."); spoken = "lost"; }
      }
    }
    await new Promise((done) => setTimeout(done, before && !now.rates.size ? 1000 : ms));
  }
}
async function start() {
  theme(false);
  $("theme").addEventListener("click", () => theme(true));
  $("regions").addEventListener("keydown", arrows);
  $("chart").addEventListener("pointermove", point); $("chart").addEventListener("pointerleave", drawTraffic);
  new ResizeObserver(() => { if (now.status) drawTopology(); }).observe($("flow"));
  document.addEventListener("visibilitychange", () => { if (!document.hidden) look().catch(() => {}); });
  again(look, POLL_MS); again(lookBack, TRAFFIC_MS);
  try { (await get("/v1/events?limit=" + MAX_EVENTS)).forEach(take); } catch { /* the stream brings them */ }
  drawEvents();
  const source = new EventSource("/v1/events/stream?after=" + (events.length ? events[0].seq : 0));
  source.onmessage = (message) => {
    take(JSON.parse(message.data)); drawEvents();
    look().catch(() => {});
  };
}
start();
