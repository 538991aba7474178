"""An engine that obeys every attack, in a real Chromium: nothing runs, nothing is asked of the outside."""

from typing import Any

import psutil
from browsed_page import MARKS, PATIENCE, PAYLOADS, Server, hostile_groups

pytestmark = MARKS


JUDGE = """() => {
  const bad = [];
  const tags = 'IMG SVG IFRAME OBJECT EMBED VIDEO AUDIO SOURCE PICTURE LINK STYLE SCRIPT FORM INPUT BASE META DIALOG MATH TEMPLATE CANVAS'.split(' ');
  const ours = /^data-(do|here|turn|n|chat|document|start|end|quotes|collection)$/;
  const roots = '#messages .exchange, #messages .teach, #sources .sources, .status, #chats .chats, #notice .notice, .chips';
  for (const root of document.querySelectorAll(roots)) {
    for (const node of root.querySelectorAll('*')) {
      if (tags.includes(node.tagName.toUpperCase()) || node.tagName.includes('-')) bad.push(node.outerHTML.slice(0, 200));
      for (const attribute of node.attributes)
        if (/^on|^style$|^src|^srcset$|^action$|^data-/.test(attribute.name) && !ours.test(attribute.name)) bad.push(node.outerHTML.slice(0, 200));
      if (node.tagName === 'A' && !/^(#source-\\d+-\\d+|\\?chat=[\\w-]+)$/.test(node.getAttribute('href') || '')) bad.push(node.outerHTML.slice(0, 200));
      if (['fixed', 'absolute', 'sticky'].includes(getComputedStyle(node).position) && !node.matches('.chat > .sure')) bad.push('floats: ' + node.outerHTML.slice(0, 200));
      if (node.classList.contains('mermaid') || node.classList.contains('katex')) bad.push(node.outerHTML.slice(0, 200));
    }
  }
  const loaders = 'IMG IFRAME OBJECT EMBED VIDEO AUDIO SOURCE PICTURE LINK SCRIPT FORM BASE META DIALOG'.split(' ');
  for (const node of document.querySelectorAll('#messages *')) if (loaders.includes(node.tagName)) bad.push(node.outerHTML.slice(0, 200));
  const button = document.querySelector('#question button').getBoundingClientRect();
  const top = document.elementFromPoint(button.x + button.width / 2, button.y + button.height / 2);
  if (!top || !top.closest('#question')) bad.push('the question box is covered by ' + (top && top.outerHTML.slice(0, 200)));
  return bad;
}"""  # noqa: E501


def test_an_engine_that_obeys_every_attack_does_nothing_to_the_page(hostile: Server, tab: Any) -> None:
    assert sum(len(group) for group in hostile_groups()) == len(PAYLOADS) >= 80
    seen = tab(hostile)
    assert seen.page.evaluate(JUDGE) == [], "the examples of the empty page"
    for number in range(len(hostile_groups())):
        seen.ask(f"attack {number}")
        assert seen.page.evaluate(JUDGE) == [], f"attack {number}: {hostile_groups()[number]}"
        assert seen.page.locator(".turn[open] .source").count() == len(hostile_groups()[number])
        if number == 1:
            seen.shot("desktop-hostile")
    for name in ("img-onerror", "markdown-image", "overlay", "mermaid", "template-handlebars", "style-body"):
        seen.ask(PAYLOADS[name])
        assert seen.page.evaluate(JUDGE) == [], f"asked: {name}"
    seen.ask("said by an error")
    assert seen.page.evaluate(JUDGE) == []
    seen.reload()  # the whole history, from the database
    assert seen.page.locator(".exchange").count() == len(hostile_groups()) + 7
    assert seen.page.evaluate(JUDGE) == []
    for name in ("script", "img-onerror", "overlay", "bidi-override", "template-handlebars"):  # titles of conversations
        seen.page.click("#new")
        seen.page.wait_for_selector("#past .teach", timeout=PATIENCE)
        seen.ask(PAYLOADS.get(name, PAYLOADS["svg-onload"]))
        assert seen.page.evaluate(JUDGE) == [], f"title: {name}"
    seen.shot("desktop-hostile-titles")
    seen.page.wait_for_timeout(500)
    seen.assert_innocent()
    peers = {c.raddr.ip for c in psutil.Process(hostile.process.pid).net_connections() if c.raddr}
    assert peers <= {"127.0.0.1"}, "the server talks to this machine alone"


def test_quotes_answer_while_the_model_loads(hostile: Server, tab: Any) -> None:
    seen = tab(hostile)
    assert "loading" in seen.text("#status")
    seen.ask("anything")
    assert "still loading, so these are quotes" in seen.text(".note")
    seen.assert_innocent()
