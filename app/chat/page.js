// Small manners of the page: citations lead to their source, answers can be copied, light and dark can be switched.
// Everything is delegated from the document, so that it works on messages that do not exist yet.
(() => {
  "use strict";

  const showSource = (id) => {
    const source = document.getElementById(id);
    if (!source) return;
    for (let node = source.parentElement; node; node = node.parentElement) {
      if (node.tagName === "DETAILS") node.open = true;
    }
    source.scrollIntoView({ behavior: "smooth", block: "center" });
    source.classList.remove("flash");
    void source.offsetWidth; // restarts the animation when the same number is clicked twice
    source.classList.add("flash");
  };

  const copyAnswer = async (button) => {
    const message = button.closest(".footer").parentElement.querySelector(".answer");
    if (!message) return;
    const before = button.textContent;
    await navigator.clipboard.writeText(message.innerText);
    button.textContent = "✓";
    setTimeout(() => { button.textContent = before; }, 1200);
  };

  const remembered = () => { try { return localStorage.getItem("fathom-theme"); } catch { return null; } };
  const remember = (value) => { try { localStorage.setItem("fathom-theme", value); } catch { /* private window */ } };

  document.addEventListener("click", (event) => {
    const target = event.target instanceof Element ? event.target : null;
    if (!target) return;
    const citation = target.closest("a.cite");
    if (citation) {
      event.preventDefault();
      showSource((citation.getAttribute("href") || "").slice(1));
      return;
    }
    const copy = target.closest("button.copy");
    if (copy) {
      copyAnswer(copy);
      return;
    }
    if (target.closest("#theme")) {
      remember(document.body.classList.toggle("dark") ? "dark" : "light");
    }
  });

  // Gradio sets the class itself while it starts, from the system's setting; the person's own choice wins.
  const apply = () => {
    const choice = remembered();
    if (choice) document.body.classList.toggle("dark", choice === "dark");
  };
  document.addEventListener("DOMContentLoaded", () => {
    apply();
    let left = 20;
    const timer = setInterval(() => { apply(); if (--left <= 0) clearInterval(timer); }, 100);
  });
})();
