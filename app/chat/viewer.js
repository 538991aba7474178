// The document viewer: a click on a citation or a source opens the passage in its document, in a dialog over the page.
// What a document says is only ever set as text; places on a page come from the server, which has checked them.
(() => {
  "use strict";

  const words = fetch("/documents/words", { headers: { accept: "application/json" } }).then((answer) => answer.json());
  const fill = (sentence, values) => sentence.replace(/\{(\w+)\}/g, (whole, name) => (name in values ? values[name] : whole));
  const make = (tag, name, text) => {
    const element = document.createElement(tag);
    if (name) element.className = name;
    if (text !== undefined) element.textContent = text;
    return element;
  };
  const button = (name, label, sign) => {
    const element = make("button", name, sign || label);
    element.type = "button";
    if (sign) { element.title = label; element.setAttribute("aria-label", label); }
    return element;
  };
  const calm = () => matchMedia("(prefers-reduced-motion: reduce)").matches;

  let view = null; // the dialog and its parts, made at the first use
  let shown = null; // what is open; replaced at each opening, so that late answers know that they are late

  const build = (say) => {
    const dialog = make("dialog", "viewer");
    dialog.setAttribute("aria-labelledby", "viewer-title");
    const head = make("header", "viewer-head");
    const names = make("div", "viewer-names");
    const title = make("h2", "viewer-title");
    title.id = "viewer-title";
    title.dir = "auto";
    const where = make("div", "viewer-where");
    where.dir = "auto";
    names.append(title, where);
    const close = button("viewer-close", say.close, "✕");
    const tools = make("div", "viewer-tools");
    const image = button("viewer-switch", say.image);
    const text = button("viewer-switch", say.text);
    const before = button("viewer-step", say.previous_page, "‹");
    const number = make("span", "viewer-number");
    number.setAttribute("aria-live", "polite");
    const after = button("viewer-step", say.next_page, "›");
    tools.append(image, text, before, number, after);
    head.append(names, tools, close);
    const note = make("p", "viewer-note");
    note.setAttribute("role", "status");
    const body = make("div", "viewer-body");
    body.tabIndex = 0;
    dialog.append(head, note, body);
    document.body.append(dialog);

    close.addEventListener("click", () => dialog.close());
    dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });
    dialog.addEventListener("close", () => {
      shown = null;
      body.replaceChildren();
      if (document.activeElement === document.body) document.querySelector("#question textarea")?.focus();
    });
    image.addEventListener("click", () => showPage(shown.page));
    text.addEventListener("click", () => showText());
    before.addEventListener("click", () => showPage(shown.page - 1));
    after.addEventListener("click", () => showPage(shown.page + 1));
    dialog.addEventListener("keydown", (event) => {
      if (!shown || shown.mode !== "image" || event.altKey || event.ctrlKey || event.metaKey) return;
      if (event.key === "ArrowLeft" && !before.disabled) showPage(shown.page - 1);
      if (event.key === "ArrowRight" && !after.disabled) showPage(shown.page + 1);
    });
    body.addEventListener("scroll", () => {
      if (!shown || shown.mode !== "text" || !shown.settled) return;
      if (body.scrollTop < 300) more(-1);
      if (body.scrollHeight - body.scrollTop - body.clientHeight < 300) more(1);
    }, { passive: true });
    return { dialog, title, where, image, text, before, number, after, tools, note, body };
  };

  // --- asking the server --------------------------------------------------------------------------------------------

  const address = (now, rest) => `/documents/${encodeURIComponent(now.collection)}/${now.id}${rest}`;
  const ask = async (url) => {
    let answer;
    try {
      answer = await fetch(url);
    } catch {
      throw Object.assign(new Error(shown ? shown.say.lost : ""), { reason: "lost" });
    }
    const data = await answer.json();
    if (!answer.ok) throw Object.assign(new Error(data.error || String(answer.status)), { reason: data.reason || "" });
    return data;
  };
  const tell = (sentence) => { view.note.textContent = sentence; view.note.hidden = !sentence; };
  const failed = (error) => {
    view.body.replaceChildren();
    tell(error.reason === "gone" ? shown.say.gone : fill(shown.say.failed, { reason: error.message }));
  };

  // --- opening ------------------------------------------------------------------------------------------------------

  const placeOf = (article) => {
    const { collection, document: id, start, end, quotes = "" } = article.dataset;
    if (!collection || !/^\d{1,15}$/.test(id || "") || !/^\d+$/.test(start || "") || !/^\d+$/.test(end || "")) return null;
    const spans = quotes.split(",").map((part) => /^(\d+)-(\d+)$/.exec(part)).filter(Boolean);
    return {
      collection, id, start: Number(start), end: Number(end),
      quotes: spans.map((found) => [Number(found[1]), Number(found[2])]).sort((a, b) => a[0] - b[0]),
    };
  };

  const open = async (article) => {
    const place = placeOf(article);
    if (!place) return;
    const say = await words;
    view = view || build(say);
    const now = shown = { ...place, say, mode: "", settled: false, busy: false };
    view.title.textContent = article.querySelector(".title")?.textContent || "";
    view.where.textContent = "";
    view.tools.hidden = true;
    tell(say.loading);
    view.body.replaceChildren();
    if (!view.dialog.open) view.dialog.showModal();
    view.body.focus({ preventScroll: true });
    try {
      const at = now.quotes.length ? now.quotes[0][0] : now.start;
      const [data, first] = await Promise.all([
        ask(address(now, `?start=${now.start}&end=${now.end}`)),
        at === now.start ? null : ask(address(now, `?start=${at}&end=${at}&low=${at}&high=${at}`)),
      ]);
      if (shown !== now) return;
      now.data = data;
      now.page = (first || data).page;
      describe(now);
      if (data.format === "pdf" && data.pages) await showPage(now.page);
      else showText();
    } catch (error) {
      if (shown === now) failed(error);
    }
  };

  const describe = (now) => {
    const { data, say } = now;
    view.title.textContent = data.title || data.uri;
    view.where.replaceChildren();
    const parts = data.title && data.title !== data.uri ? [data.uri] : [];
    if (data.page) parts.push(fill(say.page, { page: now.page }));
    const path = data.path.filter((heading) => heading !== data.title);
    if (path.length) parts.push(path.join(" › "));
    parts.forEach((part, number) => {
      if (number) view.where.append(" · ");
      view.where.append(make("bdi", "", part));
    });
    view.tools.hidden = !(data.format === "pdf" && data.pages);
  };

  const choose = (mode) => {
    shown.mode = mode;
    view.dialog.dataset.mode = mode;
    view.image.setAttribute("aria-pressed", String(mode === "image"));
    view.text.setAttribute("aria-pressed", String(mode === "text"));
    for (const part of [view.before, view.number, view.after]) part.hidden = mode !== "image";
  };

  // --- a page as an image -------------------------------------------------------------------------------------------

  const showPage = async (page) => {
    const now = shown, { say } = now;
    const ticket = now.ticket = {};
    now.page = Math.min(Math.max(page, 1), now.data.pages);
    choose("image");
    view.number.textContent = fill(say.page_of, { page: now.page, pages: now.data.pages });
    view.before.disabled = now.page <= 1;
    view.after.disabled = now.page >= now.data.pages;
    const spans = now.quotes.map((span) => span.join("-")).join(",");
    let found;
    try {
      found = await ask(address(now, `/pages/${now.page}?passage=${now.start}-${now.end}&quotes=${spans}`));
    } catch (error) {
      if (shown !== now || now.ticket !== ticket) return;
      if (error.reason === "gone" || error.reason === "lost") { failed(error); return; }
      const known = say.no_original[error.reason] || say.no_original[""];
      if (error.reason in say.no_original) view.tools.hidden = true;
      showText(fill(known, { reason: error.message }));
      return;
    }
    if (shown !== now || now.ticket !== ticket) return;
    tell(found.unplaced ? say.not_placed : "");
    const sheet = make("div", "viewer-page");
    sheet.style.aspectRatio = String(found.ratio);
    const picture = make("img");
    picture.alt = fill(say.page_image, { page: now.page });
    sheet.append(picture);
    const draw = (boxes, name) => {
      for (const [left, top, right, bottom] of boxes) {
        const mark = make("div", name);
        Object.assign(mark.style, {
          left: `${left * 100}%`, top: `${top * 100}%`, width: `${(right - left) * 100}%`, height: `${(bottom - top) * 100}%`,
        });
        sheet.append(mark);
      }
    };
    draw(found.passage, "viewer-shade");
    draw(found.quotes, "viewer-mark");
    view.body.replaceChildren(sheet);
    view.body.scrollTop = 0;
    const wide = Math.ceil((sheet.clientWidth || 800) * (window.devicePixelRatio || 1) / 200) * 200;
    picture.addEventListener("error", () => {
      if (shown === now && now.ticket === ticket) showText(fill(say.no_original[""], { reason: String(now.page) }));
    });
    picture.src = address(now, `/pages/${now.page}.png?width=${Math.min(2000, wide)}&v=${now.data.version}`);
    const target = sheet.querySelector(".viewer-mark") || sheet.querySelector(".viewer-shade");
    if (target) target.scrollIntoView({ block: "center", inline: "center" });
  };

  // --- the text -----------------------------------------------------------------------------------------------------

  // Offsets count characters, JavaScript counts halves of some: the text is cut as a list of characters.
  const pieces = (now, data) => {
    const characters = Array.from(data.text);
    const cuts = new Set([data.from, data.to]);
    const inside = (at) => at > data.from && at < data.to;
    const lines = data.headings.map(([start]) => {
      const length = characters.slice(start - data.from).indexOf("\n");
      return [start, length < 0 ? data.to : start + length];
    });
    for (const [a, b] of [[now.start, now.end], ...now.quotes, ...lines]) {
      if (inside(a)) cuts.add(a);
      if (inside(b)) cuts.add(b);
    }
    const pages = new Map(data.page_starts);
    for (const at of pages.keys()) cuts.add(at);
    const within = (at, spans) => spans.some(([a, b]) => a <= at && at < b);
    const fragment = document.createDocumentFragment();
    const places = [...cuts].sort((a, b) => a - b);
    places.forEach((at, number) => {
      if (pages.has(at)) fragment.append(make("div", "viewer-pagebreak", fill(now.say.page, { page: pages.get(at) })));
      if (number + 1 >= places.length) return;
      const quoted = within(at, now.quotes);
      const names = [];
      if (at >= now.start && at < now.end) names.push("viewer-passage");
      if (within(at, lines)) names.push("viewer-heading");
      const text = characters.slice(at - data.from, places[number + 1] - data.from).join("");
      fragment.append(make(quoted ? "mark" : "span", names.join(" "), text));
    });
    return fragment;
  };

  const showText = (note = "") => {
    const now = shown;
    now.ticket = {};
    choose("text");
    tell(note);
    const { data } = now;
    now.low = data.from;
    now.high = data.to;
    now.settled = false;
    const sheet = make("div", "viewer-text");
    sheet.dir = "auto";
    sheet.classList.toggle("viewer-code", !/^(txt|md|rst|html|pdf|docx|pptx|epub|eml|ipynb|markdown)$/.test(data.format));
    const earlier = button("viewer-more", now.say.earlier);
    const later = button("viewer-more", now.say.later);
    earlier.addEventListener("click", () => more(-1));
    later.addEventListener("click", () => more(1));
    earlier.hidden = data.from <= 0;
    later.hidden = data.to >= data.length;
    sheet.append(pieces(now, data));
    view.body.replaceChildren(earlier, sheet, later);
    const target = sheet.querySelector("mark") || sheet.querySelector(".viewer-passage");
    if (target) target.scrollIntoView({ block: "center" });
    else view.body.scrollTop = 0;
    setTimeout(() => { now.settled = true; }, calm() ? 0 : 300);
  };

  const STEP = 8000;
  const more = async (side) => {
    const now = shown;
    if (!now || now.busy || (side < 0 ? now.low <= 0 : now.high >= now.data.length)) return;
    now.busy = true;
    const low = side < 0 ? Math.max(0, now.low - STEP) : now.high;
    const high = side < 0 ? now.low : now.high + STEP;
    try {
      const data = await ask(address(now, `?start=${now.start}&end=${now.end}&low=${low}&high=${high}`));
      const sheet = view.body.querySelector(".viewer-text");
      if (shown !== now || now.mode !== "text" || !sheet) return;
      const [earlier, later] = view.body.querySelectorAll(".viewer-more");
      if (side < 0) {
        const fromBottom = view.body.scrollHeight - view.body.scrollTop;
        sheet.prepend(pieces(now, data));
        now.low = data.from;
        earlier.hidden = now.low <= 0;
        view.body.scrollTop = view.body.scrollHeight - fromBottom;
      } else {
        sheet.append(pieces(now, data));
        now.high = data.to;
        later.hidden = now.high >= data.length;
      }
    } catch (error) {
      if (shown === now) tell(error.reason === "gone" ? now.say.gone : fill(now.say.failed, { reason: error.message }));
    } finally {
      now.busy = false;
    }
  };

  // --- from the chat page -------------------------------------------------------------------------------------------

  document.addEventListener("click", (event) => {
    const target = event.target instanceof Element ? event.target : null;
    if (!target || event.ctrlKey || event.metaKey || event.shiftKey) return;
    const citation = target.closest("a.cite");
    if (citation) {
      const article = document.getElementById((citation.getAttribute("href") || "").slice(1));
      if (article && article.matches(".source[data-document]")) {
        event.preventDefault();
        open(article);
      }
      return;
    }
    const source = target.closest(".open-document, .source .title");
    const article = source && source.closest(".source[data-document]");
    if (article) open(article);
  });

  // Gradio draws the sources anew as they change, so the button is given to each article that has none yet.
  const equip = (say) => {
    for (const article of document.querySelectorAll(".source[data-document]")) {
      if (article.querySelector(".open-document") || !placeOf(article)) continue;
      article.append(button("open-document", say.open));
    }
  };
  words.then((say) => {
    let due = false;
    const soon = () => {
      if (due) return;
      due = true;
      requestAnimationFrame(() => { due = false; equip(say); });
    };
    new MutationObserver(soon).observe(document.documentElement, { childList: true, subtree: true, attributeFilter: ["data-document"] });
    soon();
  });
})();
