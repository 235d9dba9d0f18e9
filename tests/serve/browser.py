"""Chromium without a window, driven over its DevTools protocol: a microphone that plays a file, a recorder of what is played."""

from __future__ import annotations

import base64
import json
import shutil
import socket
import subprocess
import threading
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from websockets.sync.client import connect

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
FLAGS = """--headless=new --no-sandbox --disable-gpu --no-first-run --disable-background-networking
--disable-component-update --disable-sync --disable-extensions --mute-audio --use-fake-ui-for-media-stream
--use-fake-device-for-media-stream --disable-dev-shm-usage""".split()
PATIENCE_S = 60
# What goes to the loudspeakers goes into window.heard too, with the time of its end. The page's own worklet records it,
# since its policy lets no other script in.
BLOCK = 512
RECORDER = """(() => {
  window.heard = [];
  const taps = new WeakMap();
  const connect = AudioNode.prototype.connect;
  const tap = async (context) => {
    await context.audioWorklet.addModule("page/ears.js");
    const node = new AudioWorkletNode(context, "ears", { numberOfOutputs: 0 });
    node.port.onmessage = ({ data }) => window.heard.push([performance.now(), new Uint8Array(data)]);
    return node;
  };
  AudioNode.prototype.connect = function (to, ...more) {
    if (to instanceof AudioDestinationNode) {
      if (!taps.has(to.context)) taps.set(to.context, tap(to.context));
      taps.get(to.context).then((node) => connect.call(this, node));
    }
    return connect.call(this, to, ...more);
  };
})();"""


class Page:
    """One page of a browser of its own."""

    def __init__(self, folder: Path, microphone: Path | None = None, size=(1280, 800)):
        folder.mkdir(parents=True, exist_ok=True)
        flags = [*FLAGS, f"--user-data-dir={folder}", "--remote-debugging-port=0"]
        self.wanted = size
        if microphone is not None:
            flags.append(f"--use-file-for-fake-audio-capture={microphone}%noloop")
        self.process = subprocess.Popen(
            [CHROMIUM, *flags, "about:blank"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            self._attach(folder / "DevToolsActivePort")
        except BaseException:
            self.close()
            raise

    def _attach(self, port_file: Path) -> None:
        end = time.monotonic() + PATIENCE_S
        while not (port_file.exists() and port_file.read_text(encoding="utf-8").count("\n")):
            assert time.monotonic() < end and self.process.poll() is None, "chromium did not start"
            time.sleep(0.05)
        port = port_file.read_text(encoding="utf-8").split("\n", 1)[0]
        while True:
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list", timeout=20) as answer:
                pages = [p for p in json.load(answer) if p["type"] == "page"]
            if pages:
                break
            assert time.monotonic() < end
            time.sleep(0.05)
        self.socket = connect(pages[0]["webSocketDebuggerUrl"], max_size=None)
        self.count, self.events = 0, []
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.call("Page.addScriptToEvaluateOnNewDocument", source=RECORDER)
        self.size(*self.wanted)

    def call(self, method, **params):
        """One command of the protocol, and its result."""
        self.count += 1
        self.socket.send(json.dumps({"id": self.count, "method": method, "params": params}))
        while True:
            message = json.loads(self.socket.recv(PATIENCE_S))
            if message.get("id") == self.count:
                assert "error" not in message, message
                return message["result"]
            self.events.append(message)

    def evaluate(self, script):
        """The value of an expression, awaited."""
        found = self.call(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True
        )
        assert "exceptionDetails" not in found, found["exceptionDetails"]
        return found["result"].get("value")

    def until(self, script, seconds=PATIENCE_S):
        """Wait until an expression is true."""
        end = time.monotonic() + seconds
        while True:
            if self.evaluate(
                f"(() => {{ try {{ return !!({script}) }} catch {{ return false }} }})()"
            ):
                return
            assert time.monotonic() < end, f"not true: {script}; {self.state()}"
            time.sleep(0.05)

    def state(self):
        """What a failed test wants to know."""
        return self.evaluate(
            "[document.querySelector('#state-text')?.textContent, document.querySelector('#notice-text')?.textContent, "
            "document.querySelector('#log')?.innerText]"
        ), [e for e in self.events if e["method"] in ("Runtime.exceptionThrown", "Log.entryAdded")]

    def open(self, url):
        self.call("Page.navigate", url=url)
        self.until(
            "document.readyState === 'complete' && !!document.querySelector('#voice option, #key-form:not([hidden])')"
        )

    def reload(self):
        self.evaluate("window.old = true")
        self.call("Page.reload")
        self.until(
            "!window.old && document.readyState === 'complete' && !!document.querySelector('#voice option')"
        )

    def click(self, selector):
        """A click of the mouse in the middle of an element."""
        x, y = self.evaluate(
            f"(() => {{ const r = document.querySelector({json.dumps(selector)}).getBoundingClientRect();"
            "return [r.x + r.width / 2, r.y + r.height / 2] })()"
        )
        for kind in ("mousePressed", "mouseReleased"):
            self.call("Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1)

    def type(self, selector, text, enter=True):
        self.evaluate(f"document.querySelector({json.dumps(selector)}).focus()")
        self.call("Input.insertText", text=text)
        if enter:
            self.key("Enter", 13, "\r")

    def key(self, name, code, text=""):
        for kind in ("keyDown", "keyUp"):
            more = {"text": text} if text and kind == "keyDown" else {}
            self.call(
                "Input.dispatchKeyEvent",
                type=kind, key=name, code=name, windowsVirtualKeyCode=code, **more,
            )  # fmt: skip

    def texts(self, selector):
        return self.evaluate(
            f"[...document.querySelectorAll({json.dumps(selector)})].map(e => e.textContent)"
        )

    def words(self, who):
        """All that a side said, as a text."""
        return " ".join(self.texts(f".turn.{who} .words"))

    def heard(self):
        """What went to the loudspeakers: samples at 24 kHz, and when each of its blocks came, in ms."""
        found = self.evaluate("window.heard.map(([t, x]) => [t, btoa(String.fromCharCode(...x))])")
        blocks = [np.frombuffer(base64.b64decode(data), "<i2") for _, data in found]
        sound = np.concatenate([np.zeros(0, "<i2"), *blocks]).astype(np.float32) / 32767
        return sound, [t for t, _ in found]

    def size(self, width, height):
        phone = width < 600
        self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width, height=height, deviceScaleFactor=2 if phone else 1, mobile=phone,
        )  # fmt: skip

    def picture(self, path):
        data = self.call("Page.captureScreenshot", format="png")["data"]
        Path(path).write_bytes(base64.b64decode(data))

    def errors(self):
        """Exceptions of the page's own, and what its Content-Security-Policy refused."""
        thrown = [e for e in self.events if e["method"] == "Runtime.exceptionThrown"]
        logged = [e["params"]["entry"] for e in self.events if e["method"] == "Log.entryAdded"]
        refused = [e["text"] for e in logged if e["source"] == "security"]
        return thrown + refused

    def requested(self):
        """All addresses that were asked for."""
        kinds = ("Network.requestWillBeSent", "Network.webSocketCreated")
        found = [e["params"] for e in self.events if e["method"] in kinds]
        return [p["request"]["url"] if "request" in p else p["url"] for p in found]

    def close(self):
        if hasattr(self, "socket"):
            self.socket.close()
        self.process.terminate()
        try:
            self.process.wait(10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait(10)


class Cable:
    """A port of this machine that leads to another one, until it is cut."""

    def __init__(self, port):
        self.to, self.pairs, self.plugged = port, [], True
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self):
        while True:
            try:
                one, _ = self.listener.accept()
            except OSError:
                return
            if not self.plugged:
                one.close()
                continue
            other = socket.create_connection(("127.0.0.1", self.to))
            self.pairs.append((one, other))
            for a, b in ((one, other), (other, one)):
                threading.Thread(target=self._carry, args=(a, b), daemon=True).start()

    @staticmethod
    def _carry(a, b):
        try:
            while data := a.recv(1 << 16):
                b.sendall(data)
        except OSError:
            pass
        for end in (a, b):
            try:
                end.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def cut(self):
        """Every connection drops, and new ones are refused until `plugged` is true again."""
        self.plugged = False
        pairs, self.pairs = self.pairs, []
        for pair in pairs:
            for end in pair:
                try:
                    end.shutdown(socket.SHUT_RDWR)
                except OSError:
                    pass

    def close(self):
        self.cut()
        self.listener.close()


@contextmanager
def browsing(folder, microphone=None, size=(1280, 800)):
    page = Page(folder, microphone, size)
    try:
        yield page
    finally:
        page.close()


@contextmanager
def cable(port):
    made = Cable(port)
    try:
        yield made
    finally:
        made.close()
