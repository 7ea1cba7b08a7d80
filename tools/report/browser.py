"""A headless Chromium, spoken to over a pipe: pages opened at a width and in a colour scheme, looked at and drawn.

Nothing but the standard library. What a page asks for beyond its own file, and whatever it or the browser complains
about, is kept.
"""

import base64
import json
import os
import select
import shutil
import subprocess
import tempfile
import time

NAMES = ["chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome"]
FLAGS = [
    "--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars", "--no-first-run", "--disable-extensions",
    "--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-dev-shm-usage",
    "--remote-debugging-pipe",
]
# A page that is not there after so many seconds is not coming.
PATIENCE = 120


def find():
    """Path of a Chromium, or None. CHROMIUM names one."""
    named = os.environ.get("CHROMIUM")
    return next((path for path in map(shutil.which, [named] if named else NAMES) if path), None)


class Browser:
    def __init__(self, path):
        self._profile = tempfile.TemporaryDirectory(prefix="report-browser-", ignore_cleanup_errors=True)
        to_child, self._write = os.pipe()
        self._read, from_child = os.pipe()
        # The browser reads commands from descriptor 3 and answers on 4.
        line = f'exec "$0" "$@" 3<&{to_child} 4>&{from_child}'
        arguments = ["sh", "-c", line, path, *FLAGS, f"--user-data-dir={self._profile.name}", "about:blank"]
        quiet = subprocess.DEVNULL
        self._child = subprocess.Popen(
            arguments, stdin=quiet, stdout=quiet, stderr=quiet, pass_fds=[to_child, from_child])
        os.close(to_child)
        os.close(from_child)
        self._rest, self._next, self._events = b"", 0, []

    def close(self):
        try:
            self.call("Browser.close")
            self._child.wait(20)
        except (OSError, EOFError, TimeoutError, subprocess.TimeoutExpired):
            self._child.kill()
            self._child.wait()
        os.close(self._write)
        os.close(self._read)
        self._profile.cleanup()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def _message(self, deadline):
        while b"\0" not in self._rest:
            ready, _, _ = select.select([self._read], [], [], max(0, deadline - time.monotonic()))
            if not ready:
                raise TimeoutError("the browser does not answer")
            more = os.read(self._read, 1 << 16)
            if not more:
                raise EOFError("the browser has ended")
            self._rest += more
        message, self._rest = self._rest.split(b"\0", 1)
        return json.loads(message)

    def call(self, method, session=None, **params):
        """The result of one command. Events that come meanwhile are kept."""
        self._next += 1
        command = {"id": self._next, "method": method, "params": params}
        if session:
            command["sessionId"] = session
        data = json.dumps(command).encode() + b"\0"
        while data:
            data = data[os.write(self._write, data):]
        deadline = time.monotonic() + PATIENCE
        while True:
            message = self._message(deadline)
            if message.get("id") == self._next:
                if "error" in message:
                    raise RuntimeError(f"{method}: {message['error']}")
                return message["result"]
            if "method" in message:
                self._events.append(message)

    def wait_for(self, method, session):
        deadline = time.monotonic() + PATIENCE
        while True:
            for event in self._events:
                if event["method"] == method and event.get("sessionId") == session:
                    return event
            message = self._message(deadline)
            if "method" in message:
                self._events.append(message)

    def open(self, file, width=1180, dark=False, touch=False, scripts=True):
        return Page(self, file, width, dark, touch, scripts)


class Page:
    """A page as it is at one width, in one colour scheme."""

    def __init__(self, browser, file, width, dark, touch, scripts):
        self._browser, self.width = browser, width
        target = browser.call("Target.createTarget", url="about:blank")["targetId"]
        self._session = browser.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        for domain in ["Page", "Network", "Runtime", "Log"]:
            self.call(f"{domain}.enable")
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=844, deviceScaleFactor=1, mobile=touch)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])
        self.call("Emulation.setScriptExecutionDisabled", value=not scripts)
        browser._events.clear()
        self.call("Page.navigate", url=f"file://{os.path.abspath(file)}")
        browser.wait_for("Page.loadEventFired", self._session)
        # What comes a moment later counts too.
        time.sleep(0.3)
        self.call("Page.getLayoutMetrics")

    def call(self, method, **params):
        return self._browser.call(method, self._session, **params)

    def value(self, expression):
        """What an expression is in the page, as JSON."""
        result = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        if "exceptionDetails" in result:
            raise RuntimeError(f"{expression}: {result['exceptionDetails']}")
        return result["result"].get("value")

    def _seen(self, method):
        events = self._browser._events
        return [e["params"] for e in events if e["method"] == method and e.get("sessionId") == self._session]

    def requests(self):
        """What the page asked for but for its own file and data within it."""
        urls = [e["request"]["url"] for e in self._seen("Network.requestWillBeSent")]
        return [url for url in urls if not url.startswith("data:")][1:]

    def complaints(self):
        """Errors, warnings and other lines of the console."""
        lines = [str(e["args"]) for e in self._seen("Runtime.consoleAPICalled")]
        lines += [str(e["exceptionDetails"]) for e in self._seen("Runtime.exceptionThrown")]
        return lines + [e["entry"]["text"] for e in self._seen("Log.entryAdded")]

    def draw(self, file, height=None):
        """A PNG of the page, or of so much of its top."""
        size = self.call("Page.getLayoutMetrics")["cssContentSize"]
        clip = {"x": 0, "y": 0, "width": self.width, "height": min(size["height"], height or 16000), "scale": 1}
        png = self.call("Page.captureScreenshot", format="png", captureBeyondViewport=True, clip=clip)["data"]
        with open(file, "wb") as out:
            out.write(base64.b64decode(png))
