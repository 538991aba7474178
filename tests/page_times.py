"""How long the chat page takes: from the command to a server that answers, and from its address to a page that can be
typed into, in a real Chromium. Prints medians; no test asserts them.

    python tests/page_times.py [--workspace DIR] [--repeats 5]
"""

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx
from playwright.sync_api import Browser, sync_playwright

CHROMIUM = "/usr/bin/chromium"
ROOT = Path(__file__).resolve().parents[1]
STARTING_SECONDS = 120.0
PORT = 7879


def started(workspace: Path) -> tuple["subprocess.Popen[bytes]", float]:
    """The server and the seconds until it answered."""
    began = time.monotonic()
    command = [sys.executable, "-m", "app", "chat", "--port", str(PORT), "--workspace", str(workspace), "--json"]
    server = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    while time.monotonic() - began < STARTING_SECONDS:
        try:
            if httpx.get(f"http://127.0.0.1:{PORT}/health", trust_env=False).status_code == 200:
                return server, time.monotonic() - began
        except httpx.TransportError:
            time.sleep(0.02)
    server.kill()
    raise SystemExit(f"the chat did not answer within {STARTING_SECONDS:.0f} s")


def opened(browser: Browser) -> float:
    """Seconds until a fresh visitor's page takes a question and offers a button to send it."""
    page = browser.new_context().new_page()
    began = time.monotonic()
    page.goto(f"http://127.0.0.1:{PORT}", wait_until="commit")
    page.fill("#question textarea", "ready?")
    page.locator("#question button").first.wait_for(state="visible")
    took = time.monotonic() - began
    page.context.close()
    return took


def main() -> None:
    parser = argparse.ArgumentParser(description="Times the chat page from its start to a page that can be used.")
    parser.add_argument("--workspace", type=Path, help="a workspace with collections; else an empty one")
    parser.add_argument("--repeats", type=int, default=5)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as empty, sync_playwright() as playwright:
        starts, pages = [], []
        for _ in range(options.repeats):
            server, seconds = started(options.workspace or Path(empty))
            starts.append(seconds)
            browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
            try:
                pages.append(opened(browser))
            finally:
                browser.close()
                server.terminate()
                server.wait(30)
    print(
        json.dumps(
            {
                "server_answers_s": round(statistics.median(starts), 2),
                "page_usable_s": round(statistics.median(pages), 2),
                "page_usable_s_each": [round(value, 2) for value in pages],
            }
        )
    )


if __name__ == "__main__":
    main()
