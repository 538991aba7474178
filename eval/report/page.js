"use strict";
// Theme, and the list of questions: some rows at a time, a question's inside when it is opened.
// Everything from the data goes in as textContent.
(() => {
  const root = document.documentElement;
  const byId = (id) => document.getElementById(id);

  // --- theme ---
  const theme = byId("theme");
  const dark = () => (root.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
  const name = () => { theme.textContent = dark() ? "Light" : "Dark"; theme.setAttribute("aria-label", theme.textContent + " theme"); };
  theme.addEventListener("click", () => { root.dataset.theme = dark() ? "light" : "dark"; name(); });
  theme.hidden = false;
  name();

  // --- contents: which section is being read ---
  const links = new Map([...document.querySelectorAll("nav a")].map((a) => [a.getAttribute("href").slice(1), a]));
  const watch = new IntersectionObserver((seen) => {
    for (const entry of seen) if (entry.isIntersecting) {
      for (const a of links.values()) a.removeAttribute("aria-current");
      links.get(entry.target.id)?.setAttribute("aria-current", "true");
    }
  }, { rootMargin: "0px 0px -70% 0px" });
  for (const id of links.keys()) { const section = byId(id); if (section) watch.observe(section); }

  // --- parts of a large run are folded: whoever goes to one, or prints, wants to see it ---
  const unfold = () => { const at = byId(decodeURIComponent(location.hash.slice(1)))?.querySelector("details.fold"); if (at) at.open = true; };
  addEventListener("hashchange", unfold);
  addEventListener("beforeprint", () => { for (const at of document.querySelectorAll("details.fold")) at.open = true; });
  unfold();

  // --- questions ---
  const { parts, items, open } = JSON.parse(byId("data").textContent);
  byId("without").hidden = true;
  if (!items.length) return;
  const make = (tag, kind, text) => {
    const node = document.createElement(tag);
    if (kind) node.className = kind;
    if (text !== undefined) node.textContent = text;
    return node;
  };
  const CHUNK = 40;
  const list = byId("list"), more = byId("more"), words = byId("words"), part = byId("part"), show = byId("show"), sort = byId("sort"), turn = byId("turn");
  const mainOf = (item) => { const metric = parts[item.p].main; return metric === null ? null : item.m?.[metric] ?? null; };
  const rightOf = (item) => parts[item.p].right === null ? null : item.m?.[parts[item.p].right] ?? null;
  const poor = (item) => parts[item.p].share && rightOf(item) !== null && rightOf(item) < 0.5;
  const SHOWS = {
    all: ["All", () => true],
    poor: ["Wrong or poor", poor],
    refused: ["Refused", (item) => item.r],
    error: ["Errors", (item) => item.e !== undefined],
    worse: ["Got worse", (item) => item.d < 0],
    better: ["Got better", (item) => item.d > 0],
  };
  const figure = (value, fixed) => value === null || value === undefined ? "–" : fixed && Math.abs(value) < 10 ? value.toFixed(3) : Math.abs(value) >= 100 ? value.toLocaleString("en", { maximumFractionDigits: 0 }) : String(Number(value.toFixed(3)));
  const option = (select, value, text) => { const node = make("option", "", text); node.value = value; select.append(node); };

  let found = items, shown = 0;
  const texts = new Map();
  const textOf = (item) => {
    let text = texts.get(item);
    if (text === undefined) {
      const pieces = [item.i, item.q, item.b, item.e, ...(item.g || [])];
      for (const piece of item.a || []) if (typeof piece === "string") pieces.push(piece);
      for (const passage of item.ps || []) { pieces.push(passage.h); for (const segment of passage.s) pieces.push(segment[0]); }
      texts.set(item, text = pieces.join("\n").toLowerCase());
    }
    return text;
  };

  option(part, "", "All parts");
  parts.forEach((one, place) => { if (items.some((item) => item.p === place)) option(part, String(place), one.name); });
  for (const [key, [label, fits]] of Object.entries(SHOWS)) {
    const number = items.filter(fits).length;
    if (key === "all" || number) option(show, key, `${label} (${number.toLocaleString("en")})`);
  }
  const metricsNow = () => {
    const chosen = part.value === "" ? parts.map((_, place) => place) : [Number(part.value)];
    return [...new Set(chosen.flatMap((place) => parts[place].metrics))];
  };
  const fillSort = () => {
    const before = sort.value;
    sort.replaceChildren();
    option(sort, "", "order of the run");
    option(sort, "main", "main measure");
    if (items.some((item) => item.d !== undefined)) option(sort, "change", "difference to before");
    option(sort, "time", "time taken");
    for (const metric of metricsNow()) option(sort, "m:" + metric, metric);
    sort.value = [...sort.options].some((one) => one.value === before) ? before : "";
  };
  const keyOf = (item) => {
    const by = sort.value;
    if (by === "main") { const value = mainOf(item); return value === null ? null : parts[item.p].lower.includes(parts[item.p].main) ? -value : value; }
    if (by === "change") return item.d ?? null;
    if (by === "time") { const spent = Object.values(item.t || {}); return spent.length ? -(item.t.total ?? spent.reduce((a, b) => a + b, 0)) : null; }
    const value = item.m?.[by.slice(2)] ?? null;
    return value === null ? null : parts[item.p].lower.includes(by.slice(2)) ? -value : value;
  };

  function select() {
    const wanted = words.value.toLowerCase().split(/\s+/).filter(Boolean);
    const fits = (SHOWS[show.value] || SHOWS.all)[1];
    found = items.filter((item) => (part.value === "" || item.p === Number(part.value)) && fits(item) && wanted.every((word) => textOf(item).includes(word)));
    turn.hidden = sort.value === "";
    if (sort.value !== "") {
      const sign = turn.getAttribute("aria-pressed") === "true" ? -1 : 1;
      const keyed = found.map((item) => [keyOf(item), item]);
      keyed.sort(([a], [b]) => a === null ? (b === null ? 0 : 1) : b === null ? -1 : sign * (a - b));
      found = keyed.map(([, item]) => item);
    }
    byId("count").textContent = `${found.length.toLocaleString("en")} of ${items.length.toLocaleString("en")} questions`;
    list.replaceChildren();
    shown = 0;
    grow();
  }

  // Each time as many again: the sections below stay within reach, and five thousand questions are seven steps away.
  function grow(until = Math.max(CHUNK, 2 * shown)) {
    const rows = document.createDocumentFragment();
    for (; shown < Math.min(until, found.length); shown++) rows.append(row(found[shown]));
    list.append(rows);
    more.hidden = shown >= found.length;
    more.textContent = `Show ${Math.min(found.length - shown, Math.max(CHUNK, shown)).toLocaleString("en")} more`;
  }

  function row(item) {
    const line = make("li"), box = make("details", "item"), head = make("summary");
    const [sign, kind, said] = item.e !== undefined ? ["!", "error", "error"] : item.r ? ["–", "refused", "refused"] : rightOf(item) === null || !parts[item.p].share ? ["·", "none", ""] : poor(item) ? ["×", "poor", "wrong or poor"] : ["✓", "", "good"];
    const state = make("span", "state " + kind, sign);
    if (said) { state.title = said; state.setAttribute("role", "img"); state.setAttribute("aria-label", said); }
    const question = make("span", "question", item.q || item.i);
    question.dir = "auto";
    const score = make("span", "score"), main = mainOf(item);
    if (item.d !== undefined) score.append(make("small", item.d > 0 ? "up" : item.d < 0 ? "down" : "", item.d ? (item.d > 0 ? "+" : "−") + figure(Math.abs(item.d), true) : "="));
    score.append(make("span", "", parts[item.p].share && main !== null ? main.toFixed(3) : figure(main)));
    if (part.value === "" && parts.length > 1) score.append(make("small", "name", parts[item.p].name));
    head.append(state, question, score);
    box.append(head);
    box.addEventListener("toggle", () => { if (box.open && box.childElementCount === 1) box.append(inside(item)); });
    line.append(box);
    return line;
  }

  function inside(item) {
    const body = make("div", "body");
    const titled = (title, node) => { body.append(make("h4", "", title), node); return node; };
    const text = (kind, words) => { const node = make("p", "text " + kind, words); node.dir = "auto"; return node; };
    const numbers = new Map();
    if (item.e !== undefined) titled("Error", text("errors", item.e));
    if (item.a) {
      const answer = text("answer");
      for (const piece of item.a) answer.append(typeof piece === "string" ? piece : badge(piece, () => numbers.get(piece[0])));
      titled(item.r ? "Answer (refused)" : "Answer", answer);
    }
    if (item.g) {
      if (item.g.length === 1) titled("Expected", text("", item.g[0]));
      else { const options = titled("Expected, one of", make("ul")); for (const gold of item.g) { const one = make("li", "", gold); one.dir = "auto"; options.append(one); } }
    }
    if (item.b !== undefined) titled("Answer before", text("", item.b));
    if (item.ps) {
      const passages = titled("Passages", make("ol", "passages"));
      for (const passage of item.ps) {
        const entry = make("li");
        entry.tabIndex = -1;
        entry.append(make("span", "badge", String(passage.n)));
        if (passage.h) entry.append(make("span", "title", passage.h));
        if (passage.g) entry.append(make("span", "tag", "gold"));
        if (passage.w) entry.append(make("span", "where", passage.w));
        const words = text("words");
        for (const [piece, marks] of passage.s) {
          if (!marks) { words.append(piece); continue; }
          const mark = make("mark", marks === "g" ? "gold" : marks === "cg" ? "both" : "", piece);
          mark.title = { c: "cited", g: "gold", cg: "cited, and gold" }[marks] || "";
          words.append(mark);
        }
        entry.append(words);
        for (const quote of passage.x || []) { const apart = text("where"); apart.append("cited, outside of what is shown: ", make("mark", "", quote)); entry.append(apart); }
        passages.append(entry);
        if (!numbers.has(passage.n)) numbers.set(passage.n, entry);
      }
    }
    const pairs = (entries) => {
      const lines = make("dl", "pairs-line");
      for (const [key, value] of entries) { const pair = make("div"); pair.append(make("dt", "", key), make("dd", "", value)); lines.append(pair); }
      return lines;
    };
    if (item.m) titled(item.w !== undefined ? `Measures (${parts[item.p].main} before: ${figure(item.w)})` : "Measures", pairs(Object.entries(item.m).map(([key, value]) => [key, figure(value)])));
    if (item.t) titled("Milliseconds", pairs(Object.entries(item.t).map(([key, value]) => [key, figure(value)])));
    for (const [key, value] of item.f || []) titled(key, text("", value));
    titled("Id", text("", item.i));
    return body;
  }

  function badge([number, support], target) {
    const node = make("button", "badge " + support, String(number));
    node.type = "button";
    node.setAttribute("aria-label", `passage ${number}` + ({ yes: ", supports this", partly: ", supports this in part", no: ", does not support this" }[support] || ""));
    node.addEventListener("click", () => {
      const entry = target();
      if (!entry) return;
      entry.scrollIntoView({ block: "nearest" });
      entry.focus({ preventScroll: true });
      entry.classList.remove("flash");
      void entry.offsetWidth;
      entry.classList.add("flash");
    });
    return node;
  }

  function jump() {
    const wanted = /^#item-(\d{1,7})$/.exec(location.hash);
    const item = wanted && items[Number(wanted[1])];
    if (!item) return;
    words.value = ""; part.value = ""; show.value = "all"; sort.value = "";
    select();
    const place = found.indexOf(item);
    grow(place + CHUNK);
    const box = list.children[place].firstElementChild;
    box.open = true;
    box.scrollIntoView({ block: "start" });
    box.firstElementChild.focus({ preventScroll: true });
  }

  let waiting = 0;
  words.addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(select, 120); });
  byId("controls").addEventListener("submit", (event) => { event.preventDefault(); select(); });
  part.addEventListener("change", () => { fillSort(); select(); });
  show.addEventListener("change", select);
  sort.addEventListener("change", select);
  turn.addEventListener("click", () => {
    const best = turn.getAttribute("aria-pressed") !== "true";
    turn.setAttribute("aria-pressed", String(best));
    turn.textContent = best ? "Best first" : "Worst first";
    select();
  });
  more.addEventListener("click", () => grow());
  addEventListener("hashchange", jump);
  byId("browser").hidden = false;
  fillSort();
  select();
  for (const box of [...list.querySelectorAll("details")].slice(0, open)) box.open = true;
  jump();
})();
