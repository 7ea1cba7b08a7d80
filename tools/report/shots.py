#!/usr/bin/env python3
"""Draws a page of `delta-stream report` as people see it, to the end of its first variant, which has every panel there
is: python3 shots.py PAGE DIRECTORY, which is made if it is not there."""

import sys
from pathlib import Path

import browser

VIEWS = {
    "light": {"width": 1180},
    "dark": {"width": 1180, "dark": True},
    "phone": {"width": 390, "touch": True},
}


def main():
    page, directory = sys.argv[1], Path(sys.argv[2])
    directory.mkdir(parents=True, exist_ok=True)
    path = browser.find()
    if not path:
        sys.exit("there is no Chromium; CHROMIUM names one")
    with browser.Browser(path) as chromium:
        for name, view in VIEWS.items():
            shown = chromium.open(page, **view)
            end = shown.value("document.querySelector('section.variant').getBoundingClientRect().bottom + scrollY")
            shown.draw(directory / f"report-{name}.png", round(end))


if __name__ == "__main__":
    main()
