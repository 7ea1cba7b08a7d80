#!/usr/bin/env python3
"""Tests of the page of `delta-stream report` as a browser shows it: python3 test_report.py.

DELTA_STREAM names the program, CHROMIUM the browser; what needs one that is not there is skipped.
"""

import base64
import hashlib
import json
import os
import re
import subprocess
import tempfile
import unittest
from pathlib import Path

import browser
from shots import VIEWS

ROOT = Path(__file__).resolve().parents[2]
SOURCES = ROOT / "src" / "cli" / "report"
PANELS = ["split", "kinds", "layers", "scatter", "heat", "tensors"]
# Names that try to run; were one of them to, the title would change.
HOSTILE = "<script>document.title='hit'</script><img src=x onerror=\"document.title='hit'\">"


def program():
    """The program: the one that is named, or the newest that was built here."""
    named = os.environ.get("DELTA_STREAM")
    built = [ROOT / "target" / profile / "delta-stream" for profile in ["release", "debug"]]
    there = [path for path in ([Path(named)] if named else built) if path.is_file()]
    return max(there, key=lambda path: path.stat().st_mtime, default=None)


class Sources(unittest.TestCase):
    def test_the_policy_lets_the_script_run(self):
        digest = hashlib.sha256((SOURCES / "script.js").read_bytes()).digest()
        (stated,) = re.findall(r'SCRIPT_HASH: &str = "([^"]+)"', (SOURCES / "page.rs").read_text())
        self.assertEqual(stated, base64.b64encode(digest).decode())

    def test_every_colour_has_a_dark_one(self):
        light, dark = (SOURCES / "style.css").read_text().split("@media (prefers-color-scheme: dark)")
        names = set(re.findall(r"(--[a-z0-9-]+):", light))
        self.assertGreater(len(names), 20)
        self.assertEqual(names, set(re.findall(r"(--[a-z0-9-]+):", dark.split("* {")[0])))

    def test_text_can_be_read(self):
        light, dark = (SOURCES / "style.css").read_text().split("@media (prefers-color-scheme: dark)")
        for scheme in [light, dark]:
            colours = dict(re.findall(r"(--[a-z0-9-]+): (#[0-9a-f]{6})", scheme.split("* {")[0]))
            for ink in ["--ink", "--quiet", "--accent"]:
                for back in ["--page", "--panel"]:
                    self.assertGreaterEqual(contrast(colours[ink], colours[back]), 4.5, (ink, back))
            for name in ["good", "bad"]:
                self.assertGreaterEqual(contrast(colours[f"--{name}"], colours[f"--{name}-back"]), 4.5, name)
            for mark in ["--lossy", *(f"--k{i}" for i in range(8))]:
                self.assertGreaterEqual(contrast(colours[mark], colours["--panel"]), 3, mark)


def contrast(a, b):
    """How far apart two colours are in lightness, 1 to 21, as the accessibility guidelines count it."""
    def lightness(colour):
        parts = [int(colour[i:i + 2], 16) / 255 for i in (1, 3, 5)]
        linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
    high, low = sorted([lightness(a), lightness(b)], reverse=True)
    return (high + 0.05) / (low + 0.05)


@unittest.skipUnless(browser.find(), "skipped: no Chromium to show the page in")
@unittest.skipUnless(program(), "skipped: no delta-stream to make a page with; build it, or name it by DELTA_STREAM")
class Shown(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.place = tempfile.TemporaryDirectory(prefix="report-page-")
        cls.dir = Path(cls.place.name)
        cls.run_program("make-pair", "pair", "--hidden", "64", "--intermediate", "96", "--layers", "3", "--vocab", "128")
        pair = ["--shards", "pair/fine-tune", "--base", "pair/base"]
        cls.run_program("compress", *pair, "-o", "a.delta.zst", "--name", "one")
        for name, method in [(HOSTILE, "delta-dct"), ("exact", "lossless")]:
            cls.run_program("append", *pair, "--archive", "a.delta.zst", "--name", name, "--method", method)
        cls.run_program("report", "a.delta.zst", "-o", "page.html")
        inspected = cls.run_program("inspect", "a.delta.zst", "--tensors", "--json")
        cls.summary = json.loads(inspected)
        cls.browser = browser.Browser(browser.find())

    @classmethod
    def tearDownClass(cls):
        cls.browser.close()
        cls.place.cleanup()

    @classmethod
    def run_program(cls, *arguments):
        done = subprocess.run([program(), *arguments], cwd=cls.dir, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def pages(self):
        for view in VIEWS.values():
            yield self.browser.open(self.dir / "page.html", **view)

    def test_nothing_is_asked_for_and_nothing_complains(self):
        for page in self.pages():
            self.assertEqual(page.requests(), [])
            self.assertEqual(page.complaints(), [])
            self.assertEqual(page.value("document.title"), "a.delta.zst · delta-stream")
            self.assertEqual(page.value("document.images.length"), 0)

    def test_every_panel_is_there_and_visible(self):
        wanted = {"#sizes", "#integrity", "nav.panel", "dl.tiles"}
        wanted |= {f"#v{i} .panel-{panel}" for i in range(3) for panel in PANELS}
        for page in self.pages():
            for panel in sorted(wanted):
                box = page.value(f"(r => r && [r.width, r.height])(document.querySelector({json.dumps(panel)})?.getBoundingClientRect())")
                self.assertIsNotNone(box, panel)
                self.assertTrue(box[0] > 200 and box[1] > 40, (panel, box))
            marks = "svg.chart use, .heat rect, .bars rect, .dots circle"
            self.assertGreater(page.value(f"document.querySelectorAll({json.dumps(marks)}).length"), 60)

    def test_no_page_is_wider_than_its_window(self):
        for page in self.pages():
            self.assertLessEqual(page.value("document.documentElement.scrollWidth"), page.width)
            beyond = """[...document.querySelectorAll("body *")].filter(e => !e.closest(".scroll, .shapes, .label, #tip, title, script")
                && e.getBoundingClientRect().right > innerWidth + 1).map(e => e.outerHTML.slice(0, 80))"""
            self.assertEqual(page.value(beyond), [])

    def test_the_scheme_is_the_readers(self):
        backs = [page.value("getComputedStyle(document.body).backgroundColor") for page in self.pages()]
        self.assertEqual(backs[0], backs[2])
        self.assertNotEqual(backs[0], backs[1])

    def test_the_numbers_are_those_of_inspect(self):
        page = self.browser.open(self.dir / "page.html")
        self.assertEqual(page.value("JSON.parse(document.getElementById('data').textContent).inspect"), self.summary)
        facts = page.value("[...document.querySelectorAll('data[data-of]')].map(e => [e.dataset.of, e.value, e.textContent])")
        self.assertGreater(len(facts), 25)
        for path, value, text in facts:
            there = self.summary
            for part in path.split("."):
                there = there[int(part) if part.isdigit() else part]
            self.assertEqual(float(value), float(there), path)
            self.assertTrue(text.strip(), path)

    def test_marks_say_what_they_are(self):
        page = self.browser.open(self.dir / "page.html")
        at = page.value("""(e => { e.scrollIntoView({block: "center"}); const r = e.getBoundingClientRect();
            return [r.x + r.width / 2, r.y + r.height / 2]; })(document.querySelector(".heat rect"))""")
        page.call("Input.dispatchMouseEvent", type="mouseMoved", x=at[0], y=at[1])
        self.assertRegex(page.value("document.getElementById('tip').innerText"), r"^0 .*: [0-9.]+$")

    def test_the_switch_of_the_layers_needs_no_script(self):
        page = self.browser.open(self.dir / "page.html", scripts=False)
        shown = """[...document.querySelectorAll("#v0 .map-e, #v0 .map-h")].map(e => getComputedStyle(e).display)"""
        page.call("Emulation.setScriptExecutionDisabled", value=False)
        self.assertEqual(page.value(shown), ["block", "none"])
        page.value("document.querySelector('#v0 .pick-h').checked = true")
        self.assertEqual(page.value(shown), ["none", "block"])
        # No script ran: titles are still the browser's own.
        self.assertGreater(page.value("document.querySelectorAll('.heat title').length"), 0)

    def test_names_stay_text(self):
        page = self.browser.open(self.dir / "page.html")
        self.assertEqual(page.value("document.querySelector('#v1 h2 bdi').innerText"), HOSTILE)


if __name__ == "__main__":
    unittest.main()
