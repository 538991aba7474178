// What the page does by itself. Everything is delegated from the document: the parts it works on come and go.
// A button with data-do="word" in the server's HTML becomes a command: its data attributes as JSON, put into a hidden
// text field and sent by a hidden button. Words that begin with "ui-" stay in the browser.
(() => {
  "use strict";

  const $ = (selector, root = document) => root.querySelector(selector);
  const narrow = () => matchMedia("(max-width: 820px)").matches;
  const box = () => $("#question textarea");
  const typing = (node) => node instanceof Element && node.closest("input, textarea, select, [contenteditable]");
  const stored = (key) => { try { return localStorage.getItem(key); } catch { return null; } };
  const store = (key, value) => { try { localStorage.setItem(key, value); } catch { /* a private window */ } };

  // --- commands --------------------------------------------------------------------------------------------------
  const setField = (selector, value) => {
    const input = $(`${selector} textarea, ${selector} input`);
    if (!input) return null;
    input.value = value;
    input.dispatchEvent(new Event("input", { bubbles: true }));
    return input;
  };
  const send = (command) => {
    if (setField("#command", JSON.stringify(command))) $("#act").click();
  };
  const opened = () => $(".here[data-chat]")?.dataset.chat || "";

  // --- panels: the list of conversations, the sources, the options, the keys -----------------------------------------
  // As attributes of #body and #help: Gradio repeats every rule of the style sheet with its own container in front, which
  // outweighs a rule that begins at <body>.
  const holder = (name) => $(name === "show-help" ? "#help" : "#body");
  const shows = (name) => Boolean(holder(name)?.hasAttribute(`data-${name}`));
  const toggle = (name, on) => holder(name)?.toggleAttribute(`data-${name}`, on);
  const closePanels = () => {
    let closed = false;
    for (const name of ["show-help", "show-sources", "show-chats"]) {
      if (shows(name)) { toggle(name, false); closed = true; }
    }
    const asking = $(".chat.asking");
    if (asking) { asking.classList.remove("asking"); closed = true; }
    return closed;
  };
  const toggleChats = () => {
    if (narrow()) { toggle("show-sources", false); toggle("show-chats"); }
    else store("fathom-chats", toggle("hide-chats") ? "hidden" : "shown");
  };
  const openHelp = () => {
    toggle("show-help", true);
    $("#help .close")?.focus();
  };

  // --- sources ---------------------------------------------------------------------------------------------------
  let wanted = null; // a source whose card is on its way
  const showSource = (id) => {
    const source = document.getElementById(id);
    if (!source) return false;
    if (narrow()) toggle("show-sources", true);
    for (let node = source.parentElement; node; node = node.parentElement) {
      if (node.tagName === "DETAILS") node.open = true;
    }
    source.scrollIntoView({ behavior: "smooth", block: narrow() ? "start" : "center" });
    source.classList.remove("flash");
    void source.offsetWidth; // restarts the animation when the same number is clicked twice
    source.classList.add("flash");
    return true;
  };
  const followCitation = (citation) => {
    const id = (citation.getAttribute("href") || "").slice(1);
    if (showSource(id)) return;
    wanted = id;
    send({ do: "sources", turn: citation.dataset.turn });
  };

  // --- the list of conversations ------------------------------------------------------------------------------------
  const rename = (item) => {
    const link = $("a.open", item);
    const field = document.createElement("input");
    field.type = "text";
    field.maxLength = 200;
    field.className = "renaming";
    field.value = link.title;
    field.setAttribute("aria-label", $(".tool.rename", item)?.title || "");
    let over = false;
    const end = (keep) => {
      if (over) return;
      over = true;
      const text = field.value.trim();
      field.remove();
      link.hidden = false;
      if (keep && text && text !== link.title) send({ do: "rename", chat: item.dataset.chat, text });
    };
    field.addEventListener("keydown", (event) => {
      if (event.isComposing) return;
      if (event.key === "Enter" || event.key === "Escape") {
        event.preventDefault();
        event.stopPropagation();
        end(event.key === "Enter");
      }
    });
    field.addEventListener("blur", () => end(true));
    link.hidden = true;
    item.prepend(field);
    field.focus();
    field.select();
  };

  // --- answers ---------------------------------------------------------------------------------------------------
  const copyAnswer = async (button) => {
    const answer = $(".answer", button.closest(".exchange"));
    if (!answer) return;
    await navigator.clipboard.writeText(answer.innerText);
    button.classList.add("copied");
    setTimeout(() => button.classList.remove("copied"), 1200);
  };
  const openDetails = new Set(); // what was unfolded under an answer stays so when the messages are drawn anew
  document.addEventListener("toggle", (event) => {
    const details = event.target;
    if (!(details instanceof HTMLDetailsElement) || !details.id.startsWith("how-")) return;
    if (details.open) openDetails.add(details.id); else openDetails.delete(details.id);
  }, true);

  const local = {
    "ui-rename": (button) => rename(button.closest(".chat")),
    "ui-delete": (button) => {
      const item = button.closest(".chat");
      for (const other of document.querySelectorAll(".chat.asking")) other.classList.remove("asking");
      item.classList.add("asking");
      $(".sure .keep", item)?.focus();
    },
    "ui-keep": (button) => button.closest(".chat").classList.remove("asking"),
    "ui-close": () => closePanels(),
    "ui-key": (button) => setField("#condition", `${button.textContent}=`)?.focus(),
  };

  document.addEventListener("click", (event) => {
    const target = event.target instanceof Element ? event.target : null;
    if (!target) return;
    const on = (selector) => target.closest(selector);
    if (on("#act")) return; // our own click, see send
    const citation = on("a.cite");
    if (citation) { event.preventDefault(); followCitation(citation); return; }
    const link = on("a.open");
    if (link) {
      if (event.ctrlKey || event.metaKey || event.shiftKey || event.button) return; // a tab of its own
      event.preventDefault();
      toggle("show-chats", false);
      send({ do: "open", chat: link.closest(".chat").dataset.chat });
      return;
    }
    const button = on("button[data-do]");
    if (button) {
      const action = local[button.dataset.do];
      if (action) { action(button); return; }
      const text = button.dataset.do === "ask" ? { text: button.textContent } : {};
      if (button.dataset.do === "edit") atEnd = true;
      send({ ...button.dataset, ...text });
      if (["edit", "cancel"].includes(button.dataset.do)) box()?.focus();
      return;
    }
    if (on("button.copy")) { copyAnswer(on("button.copy")); return; }
    if (on("#new")) { toggle("show-chats", false); newChat(); return; }
    if (on("#show-chats")) { toggleChats(); return; }
    if (on("#show-sources")) { toggle("show-chats", false); toggle("show-sources"); return; }
    if (on("#show-options")) { toggle("show-options"); return; }
    if (on("#show-help")) { if (shows("show-help")) closePanels(); else openHelp(); return; }
    if (on("#theme")) { store("fathom-theme", document.body.classList.toggle("dark") ? "dark" : "light"); return; }
    if (shows("show-help") && !on(".help")) { closePanels(); return; }
    // The dimmed page behind a drawer belongs to nobody but the body.
    if ((shows("show-chats") && !on("#chats-side")) || (shows("show-sources") && narrow() && !on("#side"))) closePanels();
  });

  const newChat = () => {
    send({ do: "new" });
    box()?.focus();
  };

  // --- keys ------------------------------------------------------------------------------------------------------
  document.addEventListener("keydown", (event) => {
    if (event.isComposing || event.defaultPrevented) return; // Enter and Esc of an input method are its own
    const { key } = event;
    if ((event.ctrlKey || event.metaKey) && !event.shiftKey && !event.altKey && key.toLowerCase() === "k") {
      event.preventDefault();
      newChat();
      return;
    }
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (key === "Escape") {
      const dialog = $("dialog[open]");
      if (dialog || closePanels()) return;
      const stop = $("#question .stop-button");
      if (stop) stop.click();
      else if ($("#notice .cancel")) $("#notice .cancel").click();
    } else if (key === "/" && !typing(event.target)) {
      event.preventDefault();
      box()?.focus();
    } else if (key === "?" && !typing(event.target)) {
      event.preventDefault();
      openHelp();
    } else if (key === "ArrowUp" && event.target === box() && !box().value && !$("#question .stop-button")) {
      const last = [...document.querySelectorAll("#past .exchange")].pop();
      if (last) {
        event.preventDefault();
        send({ do: "edit", turn: last.dataset.turn });
      }
    }
  });

  // --- what is drawn: the address, the title, the scroll position ---------------------------------------------------
  let atEnd = true; // the newest text stays in view unless the reader scrolled away from it
  const scroller = () => $("#messages");
  document.addEventListener("scroll", (event) => {
    const node = event.target;
    if (node === scroller()) atEnd = node.scrollHeight - node.scrollTop - node.clientHeight < 60;
  }, true);

  let shown = null; // the conversation that the address names
  let followed = "";
  const drawn = () => {
    const here = $(".here[data-chat]");
    if (here && here.dataset.chat !== shown) {
      shown = here.dataset.chat;
      atEnd = true;
      const address = new URL(location.href);
      if (shown) address.searchParams.set("chat", shown); else address.searchParams.delete("chat");
      if (address.href !== location.href) history.replaceState(null, "", address);
    }
    const name = shown ? $(".chat.current .name")?.textContent : "";
    const title = name ? `${name} · Fathom` : "Fathom";
    if (document.title !== title) document.title = title;
    if (wanted && showSource(wanted)) wanted = null;
    for (const id of openDetails) {
      const details = document.getElementById(id);
      if (details && !details.open) details.open = true;
    }
    const newest = $("#live .exchange")?.id || "";
    if (newest && newest !== followed) atEnd = true; // a question was asked
    followed = newest;
    const node = scroller();
    if (node && atEnd) node.scrollTop = $("#past .teach") ? 0 : node.scrollHeight;
    const count = document.querySelectorAll("#sources .turn:first-of-type .source").length;
    const button = $("#show-sources");
    if (button && button.dataset.count !== String(count)) button.dataset.count = String(count);
  };

  // --- labels of Gradio's own parts that have no text ----------------------------------------------------------------
  const named = () => {
    for (const label of document.querySelectorAll("#help .labels [data-here]")) {
      const node = $(`#${label.dataset.here}`);
      const field = node && (node.matches("button") ? node : $("textarea, input", node));
      if (field && field.getAttribute("aria-label") !== label.textContent) {
        field.setAttribute("aria-label", label.textContent);
        if (field.matches("button")) field.title = label.textContent;
      }
    }
  };

  // Gradio sets the class itself while it starts, from the system's setting; the person's own choice wins.
  const themed = () => {
    const choice = stored("fathom-theme");
    if (choice) document.body.classList.toggle("dark", choice === "dark");
  };

  document.addEventListener("visibilitychange", () => {
    if (document.visibilityState === "visible") send({ do: "look" });
  });
  window.addEventListener("online", () => send({ do: "look" }));
  window.addEventListener("popstate", () => {
    const chat = new URL(location.href).searchParams.get("chat") || "";
    if (chat !== opened()) send(chat ? { do: "open", chat } : { do: "new" });
  });

  const begin = () => {
    themed();
    let left = 20;
    const timer = setInterval(() => { themed(); if (--left <= 0) clearInterval(timer); }, 100);
    let begun = false;
    let planned = false;
    new MutationObserver(() => {
      if (planned) return;
      planned = true;
      requestAnimationFrame(() => {
        planned = false;
        if (!begun && $("#body")) { begun = true; toggle("hide-chats", stored("fathom-chats") === "hidden"); }
        drawn();
        named();
      });
    }).observe(document.body, { childList: true, subtree: true, characterData: true });
  };
  // Gradio puts this script into the page when that may have been read already.
  if (document.readyState === "loading") document.addEventListener("DOMContentLoaded", begin); else begin();
})();
