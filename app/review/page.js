// What the review page does by itself: keys, filters, the fields of an edit, the address. A command is JSON, put into a
// hidden text field and sent by a hidden button; where the page is comes back in another hidden field, #place.
(() => {
  "use strict";

  const PATIENCE = 6000; // milliseconds without an answer after which the page says so
  const $ = (selector, root = document) => root.querySelector(selector);
  const typing = (node) => node instanceof Element && node.closest("input, textarea, select, [contenteditable]");
  const stored = (key) => { try { return localStorage.getItem(key); } catch { return null; } };
  const store = (key, value) => { try { localStorage.setItem(key, value); } catch { /* a private window */ } };
  const hidden = (name) => $(`#${name} textarea, #${name} input`);
  const parsed = (text) => { try { return JSON.parse(text || "{}"); } catch { return {}; } };

  // On parts of the page, not on <body>: Gradio puts its own container in front of every rule of the style sheet.
  const flag = (name, on) => { for (const part of ["bar", "body", "actions"]) $(`#${part}`)?.toggleAttribute(`data-${name}`, on); };

  // --- commands: one at a time, so that a key never decides about an example that nobody has seen -----------------------
  let place = {};
  let waiting = 0; // when the last command went, or 0
  const send = (command) => {
    const field = hidden("command");
    if (!field || (waiting && performance.now() - waiting < PATIENCE)) return false;
    take();
    const { serial, kept, ...where } = place;
    field.value = JSON.stringify({ ...where, ...command });
    field.dispatchEvent(new Event("input", { bubbles: true }));
    waiting = performance.now();
    flag("waiting", true);
    $("#act").click();
    return true;
  };
  // A text field's value changes without telling anybody: it is looked at.
  const take = () => {
    const found = parsed(hidden("place")?.value);
    if (found.serial === undefined || found.serial === place.serial) return;
    const moved = !found.kept && found.id !== place.id;
    const { stays, ...where } = found;
    place = found.kept ? { ...place, serial: found.serial } : where;
    waiting = 0;
    flag("waiting", false);
    flag("stalled", false);
    if (!found.kept && !stays) leaveEdit(); // else what was written stays, to be saved once more
    if (moved) $("#body")?.scrollTo(0, 0);
    address();
  };
  const address = () => {
    const url = new URL(location.href);
    for (const name of ["id", "state", "origin", "score", "below"]) {
      if (place[name] || name === "state") url.searchParams.set(name, place[name] || ""); else url.searchParams.delete(name);
    }
    if (url.href !== location.href) history.replaceState(null, "", url);
  };

  // --- editing -------------------------------------------------------------------------------------------------------
  let edit = null; // {fields: one for each message}
  const grow = (field) => {
    field.style.height = "auto";
    field.style.height = `${Math.min(field.scrollHeight + 4, 0.6 * innerHeight)}px`;
  };
  const beginEdit = () => {
    take();
    if (edit || waiting) return;
    const texts = parsed(hidden("raw")?.value);
    const sections = [...document.querySelectorAll("#card .message[data-n]")];
    if (!Array.isArray(texts) || texts.length !== sections.length) return;
    const fields = sections.map((section, number) => {
      const field = document.createElement("textarea");
      field.className = "editing";
      field.rows = 1;
      field.dir = "auto";
      field.value = texts[number];
      field.dataset.was = field.value; // line ends as the browser writes them
      field.setAttribute("aria-label", $("h3", section).textContent);
      field.addEventListener("input", () => grow(field));
      section.append(field);
      section.classList.add("edited");
      return field;
    });
    edit = { fields };
    flag("editing", true);
    for (const field of fields) grow(field);
    const last = fields[fields.length - 1]; // the answer is what is mended most
    last.focus();
    last.setSelectionRange(last.value.length, last.value.length);
  };
  const leaveEdit = () => {
    if (!edit) return;
    for (const field of edit.fields) {
      field.closest(".message")?.classList.remove("edited");
      field.remove();
    }
    edit = null;
    flag("editing", false);
  };
  const changed = () => Boolean(edit && edit.fields.some((field) => field.value !== field.dataset.was));
  const save = () => {
    if (!edit) return;
    // What nobody touched goes back as "as it was": a browser changes line ends and the like.
    send({ do: "edit", messages: edit.fields.map((field) => (field.value === field.dataset.was ? null : field.value)), ...note() });
  };
  const note = () => ({ note: $("#actions .note")?.value || "" });

  // --- buttons, filters, keys ------------------------------------------------------------------------------------------
  const act = (word) => {
    if (word === "ui-edit") beginEdit();
    else if (word === "ui-cancel") leaveEdit();
    else if (word === "ui-save") save();
    else if (!edit) send({ do: word, ...note() });
  };
  document.addEventListener("click", (event) => {
    const target = event.target instanceof Element ? event.target : null;
    const button = target?.closest("button[data-do]");
    if (button) act(button.dataset.do);
    else if (target?.closest("#theme")) store("fathom-theme", document.body.classList.toggle("dark") ? "dark" : "light");
  });
  document.addEventListener("change", (event) => {
    const name = event.target instanceof Element ? event.target.dataset?.filter : null;
    if (!name) return;
    if (edit) { event.target.value = place[name] || ""; return; }
    send({ do: "look", [name]: event.target.value, ...(name === "score" ? { below: "" } : {}) });
    event.target.blur();
  });
  const KEYS = { a: "accept", e: "ui-edit", r: "reject", u: "take-back", arrowleft: "previous", arrowright: "next" };
  document.addEventListener("keydown", (event) => {
    if (event.isComposing || event.defaultPrevented || event.repeat) return; // a key that is held decides once
    const key = event.key.toLowerCase();
    if (edit) {
      if (key === "escape") { event.preventDefault(); leaveEdit(); }
      else if (key === "enter" && (event.ctrlKey || event.metaKey)) { event.preventDefault(); save(); }
      return;
    }
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (typing(event.target)) {
      if (key === "escape" || (key === "enter" && event.target.matches(".note"))) event.target.blur();
      return;
    }
    if (key === "n") { event.preventDefault(); $("#actions .note")?.focus(); return; }
    const word = KEYS[key];
    if (!word || (word === "take-back" && !$("#actions .take-back"))) return;
    event.preventDefault();
    act(word);
  });
  addEventListener("beforeunload", (event) => { if (changed()) event.preventDefault(); });
  document.addEventListener("visibilitychange", () => {
    if (document.visibilityState === "visible" && !edit && !$("#actions .note")?.value) send({ do: "look" });
  });

  // --- what goes on by itself ---------------------------------------------------------------------------------------
  const themed = () => {
    const choice = stored("fathom-theme");
    if (choice) document.body.classList.toggle("dark", choice === "dark");
  };
  const begin = () => {
    let left = 20;
    const timer = setInterval(() => { themed(); if (--left <= 0) clearInterval(timer); }, 100);
    setInterval(() => {
      take();
      if (waiting && performance.now() - waiting > PATIENCE) flag("stalled", true);
    }, 40);
  };
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", begin); else begin();
})();
