#!/usr/bin/env python3
"""Draws a page of `delta-stream report` as people see it: python3 shots.py PAGE DIRECTORY [HEIGHT]."""

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
    height = int(sys.argv[3]) if len(sys.argv) > 3 else None
    path = browser.find()
    if not path:
        sys.exit("there is no Chromium; CHROMIUM names one")
    with browser.Browser(path) as chromium:
        for name, view in VIEWS.items():
            chromium.open(page, **view).draw(directory / f"report-{name}.png", height)


if __name__ == "__main__":
    main()
