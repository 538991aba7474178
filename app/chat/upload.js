// Adding documents: files dropped anywhere on the page or chosen, sent one by one, then watched while they are indexed.
// File names are only ever set as text.
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
  const megabyte = 1024 * 1024;
  const sized = (bytes) => (bytes < megabyte ? `${Math.max(1, Math.round(bytes / 1024))} KB` : `${(bytes / megabyte).toFixed(1)} MB`);
  const POLL = 600; // milliseconds

  let say = null, parts = null, offer = null;
  let entries = []; // { file, name, size, state, passages, message, row }
  let phase = "choosing"; // choosing, working, ended
  let job = null, sending = null, stopped = false;

  const ask = async (url, options) => {
    const answer = await fetch(url, options);
    const data = await answer.json();
    if (!answer.ok) throw Object.assign(new Error(data.error || String(answer.status)), { reason: data.reason || "", status: answer.status });
    return data;
  };

  // --- the dialog ---------------------------------------------------------------------------------------------------

  const build = () => {
    const dialog = make("dialog", "upload");
    dialog.setAttribute("aria-labelledby", "upload-title");
    const head = make("header", "upload-head");
    const title = make("h2", "upload-title", say.add_title);
    title.id = "upload-title";
    const close = button("upload-close", say.close, "✕");
    head.append(title, close);

    const target = make("div", "upload-target");
    const label = make("label", "", say.collection);
    const picker = make("select", "upload-collection");
    label.append(picker);
    const naming = make("label", "upload-naming", say.new_name);
    const name = make("input", "upload-name");
    name.maxLength = 60;
    name.autocomplete = "off";
    naming.append(name);
    target.append(label, naming);

    const zone = make("div", "upload-zone");
    const choose = make("div", "upload-choose");
    const files = button("upload-files", say.choose_files);
    const folder = button("upload-folder", say.choose_folder);
    choose.append(make("span", "", say.drop_here), files, folder);
    const formats = make("p", "upload-formats");
    zone.append(choose, formats);
    const picked = make("input"), pickedFolder = make("input");
    for (const input of [picked, pickedFolder]) { input.type = "file"; input.multiple = true; input.hidden = true; input.tabIndex = -1; }
    picked.className = "upload-input";
    pickedFolder.webkitdirectory = true;
    folder.hidden = !("webkitdirectory" in pickedFolder);

    const list = make("ul", "upload-list");
    const note = make("p", "upload-note");
    note.setAttribute("role", "status");
    const reload = button("upload-reload", say.reload);
    note.hidden = reload.hidden = true;
    const overall = make("div", "upload-overall");
    const bar = make("progress");
    const count = make("span", "upload-count");
    overall.append(bar, count);
    const foot = make("div", "upload-foot");
    const stop = button("upload-stop", say.cancel);
    const retry = button("upload-retry", say.retry);
    const more = button("upload-more", say.more);
    const done = button("upload-done", say.close);
    const start = button("upload-start", say.start_one);
    foot.append(stop, retry, more, done, start);
    dialog.append(head, target, zone, list, note, reload, overall, foot, picked, pickedFolder);
    document.body.append(dialog);

    close.addEventListener("click", () => dialog.close());
    done.addEventListener("click", () => dialog.close());
    dialog.addEventListener("close", () => { if (phase === "ended") reset(); });
    files.addEventListener("click", () => picked.click());
    folder.addEventListener("click", () => pickedFolder.click());
    for (const input of [picked, pickedFolder]) {
      input.addEventListener("change", () => {
        add([...input.files].map((file) => [file.webkitRelativePath || file.name, file]));
        input.value = "";
      });
    }
    picker.addEventListener("change", () => { naming.hidden = picker.value !== ""; if (!naming.hidden) name.focus(); });
    start.addEventListener("click", run);
    stop.addEventListener("click", cancel);
    retry.addEventListener("click", begin);
    more.addEventListener("click", () => { reset(); draw(); files.focus(); });
    reload.addEventListener("click", () => location.reload());
    return { dialog, target, picker, naming, name, zone, files, formats, list, note, reload, overall, bar, count, stop, retry, more, done, start };
  };

  const reset = () => { entries = []; phase = "choosing"; job = null; stopped = false; if (parts) { parts.list.replaceChildren(); tell(""); parts.reload.hidden = true; } };
  const tell = (sentence) => { parts.note.textContent = sentence; parts.note.hidden = !sentence; };

  const open = async () => {
    say = await words;
    parts = parts || build();
    if (phase === "choosing") {
      try {
        offer = await ask("/uploads");
      } catch {
        offer = offer || { collections: [], default: "default", file_mb: 100, files: 2000 };
      }
      const now = document.querySelector("#collection input")?.value;
      // A dialog that is open keeps what the person chose in it: files may be added after that.
      const kept = parts.dialog.open ? parts.picker.value : null;
      parts.picker.replaceChildren(...offer.collections.map((name) => new Option(name, name)), new Option(say.new_collection, ""));
      const usual = offer.collections.includes(now) ? now : offer.collections[0] || "";
      parts.picker.value = kept === "" || offer.collections.includes(kept) ? kept : usual;
      parts.naming.hidden = parts.picker.value !== "";
      if (!parts.name.value && !offer.collections.includes(offer.default)) parts.name.value = offer.default;
      parts.formats.textContent = fill(say.formats, { mb: offer.file_mb });
    }
    if (!parts.dialog.open) parts.dialog.showModal();
    draw();
    if (phase === "choosing" && !entries.length) parts.files.focus();
  };

  const add = async (found) => {
    await open();
    if (phase === "ended") reset();
    if (phase !== "choosing") return;
    for (const [name, file] of found) {
      if (entries.some((entry) => entry.name === name && entry.size === file.size)) continue;
      if (entries.length >= offer.files) { tell(fill(say.too_many, { n: offer.files })); break; }
      const large = file.size > offer.file_mb * megabyte;
      entries.push({ file, name, size: file.size, passages: 0, state: large ? "refused" : "chosen", message: large ? fill(say.too_large, { mb: offer.file_mb }) : "" });
    }
    draw();
    (parts.start.disabled ? parts.files : parts.start).focus();
  };

  // --- drawing ------------------------------------------------------------------------------------------------------

  const stateWords = (entry) => {
    if (entry.state === "refused") return entry.message;
    if (entry.state === "indexed") return entry.passages === 1 ? say.indexed_one : fill(say.indexed, { n: entry.passages });
    return { chosen: say.chosen, sending: say.sending, queued: say.queued, reading: say.reading, read: say.embedding, cancelled: say.cancelled }[entry.state] || "";
  };

  const row = (entry) => {
    const item = make("li", "upload-file");
    const name = make("bdi", "upload-filename", entry.name);
    name.title = entry.name;
    const size = make("span", "upload-size", sized(entry.size));
    const state = make("span", "upload-state");
    const remove = button("upload-remove", fill(say.remove, { name: entry.name }), "✕");
    remove.addEventListener("click", () => { entries = entries.filter((other) => other !== entry); item.remove(); draw(); parts.files.focus(); });
    item.append(name, size, state, remove);
    return { item, state, remove };
  };

  const draw = () => {
    if (!parts) return;
    for (const entry of entries) {
      if (!entry.row) { entry.row = row(entry); parts.list.append(entry.row.item); }
      const text = stateWords(entry);
      if (entry.row.state.textContent !== text) entry.row.state.textContent = text;
      entry.row.item.dataset.state = entry.state;
      entry.row.remove.hidden = phase !== "choosing";
    }
    const ready = entries.filter((entry) => entry.state === "chosen").length;
    const busy = job && job.state === "busy";
    parts.target.hidden = parts.zone.hidden = phase !== "choosing";
    parts.start.hidden = phase !== "choosing";
    parts.start.disabled = !ready;
    parts.start.textContent = ready === 1 ? say.start_one : fill(say.start, { n: ready });
    parts.stop.hidden = phase !== "working";
    parts.retry.hidden = !(phase === "working" && busy);
    parts.more.hidden = parts.done.hidden = phase !== "ended";
    const settled = entries.filter((entry) => ["indexed", "refused", "cancelled"].includes(entry.state)).length;
    parts.overall.hidden = phase === "choosing";
    parts.bar.max = Math.max(1, entries.length);
    parts.bar.value = settled + entries.filter((entry) => entry.state === "read").length / 2;
    parts.count.textContent = fill(say.overall, { done: settled, total: entries.length });
    const opener = document.querySelector("#add-documents");
    if (opener) opener.dataset.progress = phase === "working" ? `${settled}/${entries.length}` : "";
  };

  // --- working ------------------------------------------------------------------------------------------------------

  const run = async () => {
    const collection = (parts.picker.value || parts.name.value).trim();
    tell("");
    try {
      job = await ask(`/uploads/jobs?collection=${encodeURIComponent(collection)}`, { method: "POST" });
    } catch (error) {
      tell(error.reason === "usage" ? say.bad_name : error.status ? error.message : say.interrupted);
      if (error.reason === "usage" && !parts.naming.hidden) parts.name.focus();
      return;
    }
    phase = "working";
    stopped = false;
    draw();
    parts.stop.focus();
    const sent = entries.filter((entry) => entry.state === "chosen");
    for (const entry of sent) {
      if (stopped) break;
      entry.state = "sending";
      draw();
      sending = new AbortController();
      try {
        const file = await ask(`/uploads/jobs/${job.id}/files?name=${encodeURIComponent(entry.name)}`, {
          method: "POST", body: entry.file, signal: sending.signal, headers: { "content-type": "application/octet-stream" },
        });
        entry.number = file.number;
        update(entry, file);
      } catch (error) {
        if (stopped) break;
        if (error.status === 404) { end(say.restarted); return; }
        if (error.status === 413) Object.assign(entry, { state: "refused", message: fill(say.too_large, { mb: offer.file_mb }) });
        else if (error.status) Object.assign(entry, { state: "refused", message: error.message });
        else if (await alive()) Object.assign(entry, { state: "refused", message: say.unreadable });
        else { end(say.interrupted); return; }
      }
      draw();
    }
    sending = null;
    if (!stopped) await begin();
  };

  const alive = () => fetch("/health").then((answer) => answer.ok, () => false);
  const update = (entry, file) => Object.assign(entry, { state: file.state, passages: file.passages, message: file.message });

  const begin = async () => {
    tell("");
    try {
      take(await ask(`/uploads/jobs/${job.id}/start`, { method: "POST" }));
    } catch (error) {
      end(error.status === 404 ? say.restarted : error.status ? error.message : say.interrupted);
      return;
    }
    watch(job);
  };

  // Each file knows its number in the server's list; one that never arrived has none.
  const take = (data) => {
    for (const entry of entries) if (data.files[entry.number]) update(entry, data.files[entry.number]);
    job = data;
  };

  const watch = async (watched) => {
    let failures = 0;
    while (phase === "working") {
      await new Promise((wake) => setTimeout(wake, POLL));
      if (!job || job.id !== watched.id || phase !== "working") return;
      try {
        take(await ask(`/uploads/jobs/${job.id}`));
        failures = 0;
      } catch (error) {
        if (error.status === 404) { end(say.restarted); return; }
        if (error.status || ++failures > 5) { end(error.status ? error.message : say.interrupted); return; }
        continue;
      }
      if (job.state === "busy") { tell(job.message); draw(); parts.retry.focus(); return; }
      if (!job.open) { finish(); return; }
      draw();
    }
  };

  const finish = () => {
    const refused = entries.filter((entry) => entry.state === "refused").length;
    const indexed = entries.filter((entry) => entry.state === "indexed").length;
    const values = { indexed, refused, left: entries.length - indexed };
    if (job.state === "failed") end(fill(say.collection_failed, { reason: job.message }));
    else end(fill(job.state === "cancelled" ? say.summary_cancelled : say.summary, values));
    if (!indexed) return;
    const event = new CustomEvent("fathom:collections", { cancelable: true, detail: { collection: job.collection, new: job.new } });
    const heard = !document.dispatchEvent(event); // who takes the new collection up calls preventDefault()
    if (job.new && !heard) {
      tell(`${parts.note.textContent} · ${fill(say.new_is_there, { name: job.collection })}`);
      parts.reload.hidden = false;
    }
  };

  const end = (sentence) => {
    phase = "ended";
    for (const entry of entries) if (!["indexed", "refused"].includes(entry.state)) entry.state = "cancelled";
    tell(sentence);
    draw();
    if (parts.dialog.open) parts.more.focus();
  };

  const cancel = async () => {
    stopped = true;
    if (sending) sending.abort();
    const busy = job.state === "busy" || !["queued", "working"].includes(job.state);
    try {
      take(await ask(`/uploads/jobs/${job.id}/cancel`, { method: "POST" }));
    } catch (error) {
      end(error.status ? say.restarted : say.interrupted);
      return;
    }
    if (busy) finish(); // nobody watches it
  };

  // --- dropping -----------------------------------------------------------------------------------------------------

  const carries = (event) => event.dataTransfer && [...event.dataTransfer.types].includes("Files");
  const overlay = make("div", "upload-overlay");
  overlay.hidden = true;
  const show = (on) => {
    if (on && say) overlay.textContent = say.drop;
    overlay.hidden = !on;
    document.documentElement.classList.toggle("upload-dragging", on);
  };

  const below = async (entry, path) => {
    if (entry.isFile) {
      const file = await new Promise((give) => entry.file(give, () => give(null)));
      return file ? [[path + entry.name, file]] : [];
    }
    const reader = entry.createReader(), found = [];
    for (;;) { // a reader gives up to 100 entries at a time
      const some = await new Promise((give) => reader.readEntries(give, () => give([])));
      if (!some.length) break;
      found.push(...some);
    }
    const lists = [];
    for (const one of found) if (!one.name.startsWith(".")) lists.push(...await below(one, `${path}${entry.name}/`));
    return lists;
  };

  const dropped = async (transfer) => {
    // Both must be asked for before the first pause: the transfer is empty afterwards.
    const items = [...transfer.items].filter((item) => item.kind === "file");
    const found = items.map((item) => [item.webkitGetAsEntry ? item.webkitGetAsEntry() : null, item.getAsFile()]);
    const files = [];
    for (const [entry, file] of found) {
      if (entry && entry.isDirectory) files.push(...await below(entry, ""));
      else if (file) files.push([file.name, file]);
    }
    if (files.length) await add(files);
  };

  // Captured before Gradio's own text box and chat see them.
  for (const kind of ["dragenter", "dragover"]) {
    window.addEventListener(kind, (event) => {
      if (!carries(event)) return;
      event.preventDefault();
      event.stopPropagation();
      event.dataTransfer.dropEffect = "copy";
      show(true);
    }, true);
  }
  window.addEventListener("dragleave", (event) => { if (!event.relatedTarget) show(false); }, true);
  window.addEventListener("drop", (event) => {
    if (!carries(event)) return;
    event.preventDefault();
    event.stopPropagation();
    show(false);
    dropped(event.dataTransfer);
  }, true);

  // --- the button in the page's head ----------------------------------------------------------------------------------

  const equip = () => {
    if (!overlay.isConnected) document.body.append(overlay);
    const head = document.querySelector("#head");
    if (!head) return;
    let opener = document.querySelector("#add-documents");
    if (!opener) {
      opener = button("add-documents", say.add);
      opener.id = "add-documents";
      opener.replaceChildren(make("span", "sign", "＋"), make("span", "label", say.add));
      opener.setAttribute("aria-label", say.add);
      opener.title = say.add;
      head.append(opener);
    }
    const clear = head.querySelector("#clear"); // it is drawn later than the head
    if (clear && clear.parentElement === opener.parentElement && opener.nextElementSibling !== clear) clear.before(opener);
  };
  document.addEventListener("click", (event) => {
    if (event.target instanceof Element && event.target.closest("#add-documents")) open();
  });
  words.then((found) => {
    say = found;
    let due = false;
    const soon = () => {
      if (due) return;
      due = true;
      requestAnimationFrame(() => { due = false; equip(); });
    };
    new MutationObserver(soon).observe(document.documentElement, { childList: true, subtree: true });
    soon();
  });
})();
