"""Overwatch, by what a browser shows and what the server lets through."""

import asyncio
import http.client
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from html.parser import HTMLParser
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from esper_agents.karn.__main__ import main
from esper_agents.karn.overwatch.charts import axis_texts, sparkline, thinned, ticks
from esper_agents.karn.overwatch.environments import environments
from esper_agents.karn.overwatch.feed import Feed
from esper_agents.karn.overwatch.frontier import pareto_front
from esper_agents.karn.overwatch.learning import learning, moving_mean
from esper_agents.karn.overwatch.markup import figure, tag
from esper_agents.karn.overwatch.words import ago
from esper_agents.karn.overwatch.worth import waterfall, worth
from esper_agents.karn.reading import RunLog
from esper_agents.karn.readings import measured
from esper_agents.karn.snapshot import Snapshot
from esper_agents.karn.words import duration
from esper_env.accounting import ROLLBACK_PENALTY
from esper_env.leyline.events import Anomaly, Counterfactual, EpisodeEnd, Gate, Rollback, RunEnd, RunStart, Step, Update
from esper_env.nissa import JsonLinesSink, record

GOLDEN = Path(__file__).parent / "golden"
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
DASH = "\N{EN DASH}"
SOCKET = "/_nicegui_ws/socket.io/?EIO=4&transport="

needs_chromium = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium on the PATH")


@cache
def events():
    return tuple(event for _, event in RunLog(GOLDEN).poll())


def folded(*given):
    snapshot = Snapshot()
    for i, event in enumerate(given):
        snapshot.fold(float(i), event)
    return snapshot


@contextmanager
def serving(run, folder, *arguments):
    """Overwatch in a process of its own; yields the address. It must neither warn nor write."""
    command = [sys.executable, "-m", "esper_agents.karn", "overwatch", str(run), "--port", "0", *arguments]
    env = {key: value for key, value in os.environ.items() if not key.startswith(("PYTEST", "NICEGUI"))}
    before = sorted(p.name for p in (run if run.is_dir() else run.parent).iterdir())
    with (folder / "errors").open("w+") as errors:
        place = folder / "working"
        place.mkdir()
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True, env=env, cwd=place)
        try:
            line = process.stdout.readline()
            assert "http://" in line, (folder / "errors").read_text()
            yield line.split()[-1]
        finally:
            process.terminate()
            process.wait(timeout=20)
            process.stdout.close()
        assert (folder / "errors").read_text() == ""
        assert list(place.iterdir()) == []
    assert sorted(p.name for p in (run if run.is_dir() else run.parent).iterdir()) == before


class Browser:
    """A headless Chromium with one page, over the DevTools protocol."""

    def __init__(self, connection):
        self._socket = connection
        self._count, self._session = 0, {}
        self.told = []
        target = self.send("Target.createTarget", url="about:blank")["targetId"]
        session = self.send("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self._session = {"sessionId": session}
        for domain in ("Page", "Network", "Runtime", "Log"):
            self.send(f"{domain}.enable")
        self.width(1280)

    def send(self, method, **params):
        self._count += 1
        self._socket.send(json.dumps({"id": self._count, "method": method, "params": params, **self._session}))
        while True:
            answer = json.loads(self._socket.recv(timeout=30))
            if answer.get("id") == self._count:
                assert "error" not in answer, answer
                return answer["result"]
            self.told.append(answer)

    def js(self, expression):
        answer = self.send("Runtime.evaluate", expression=expression, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def text(self, selector):
        return self.js(f"document.querySelector({json.dumps(selector)})?.textContent ?? null")

    def texts(self, selector):
        return self.js(f"[...document.querySelectorAll({json.dumps(selector)})].map(e => e.textContent)")

    def becomes(self, expression, seconds):
        deadline = time.monotonic() + seconds
        while not self.js(expression):
            if time.monotonic() > deadline:
                return False
            time.sleep(0.05)
        return True

    def wait(self, expression, seconds=20):
        assert self.becomes(expression, seconds), f"never: {expression}\n{self.js('document.body.innerText')[:2000]}"

    def wait_text(self, selector, text, seconds=20):
        self.wait(f"document.querySelector({json.dumps(selector)})?.textContent === {json.dumps(text)}", seconds)

    def open(self, url):
        self.send("Page.navigate", url=url)
        self.wait("document.querySelector('[data-field=status]') !== null")

    def width(self, pixels):
        metrics = {"height": 900, "deviceScaleFactor": 1, "mobile": pixels < 500}
        self.send("Emulation.setDeviceMetricsOverride", width=pixels, **metrics)

    def choose(self, label, option):
        """Open a select and choose."""
        named = f"[...document.querySelectorAll('.q-select')].find(e => e.textContent.startsWith({json.dumps(label)}))"
        chosen = f"[...document.querySelectorAll('.q-item')].find(e => e.textContent.startsWith({json.dumps(option)}))"
        for _ in range(10):  # a select ignores clicks while another one closes
            self.js(f"{named}.querySelector('.q-field__native').click()")
            if self.becomes(f"{chosen} !== undefined", 1):
                break
        self.js(f"{chosen}.click()")

    def complaints(self):
        """Errors and warnings of the page so far, and what it asked other machines for or was refused."""
        self.js("1")
        found = []
        for event in self.told:
            method, params = event.get("method"), event.get("params")
            loud = method == "Runtime.consoleAPICalled" and params["type"] in ("error", "warning", "assert")
            if loud or method in ("Runtime.exceptionThrown", "Log.entryAdded"):
                found.append(params)
            elif method == "Network.requestWillBeSent":
                url = params["request"]["url"]
                if not url.startswith(("http://127.0.0.1:", "data:", "blob:", "about:")):
                    found.append(url)
            elif method == "Network.responseReceived" and params["response"]["status"] >= 400:
                found.append(params["response"]["url"])
        return found


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    folder = tmp_path_factory.mktemp("chromium")
    flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-dev-shm-usage"]
    flags += ["--remote-debugging-port=0", f"--user-data-dir={folder}", "about:blank"]
    with subprocess.Popen([CHROMIUM, *flags], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            port_file = folder / "DevToolsActivePort"
            deadline = time.monotonic() + 30
            while not port_file.exists() or len(port_file.read_text().split()) < 2:
                assert time.monotonic() < deadline and process.poll() is None, "Chromium did not start"
                time.sleep(0.05)
            port, path = port_file.read_text().split()
            with connect(f"ws://127.0.0.1:{port}{path}", max_size=None, ping_interval=None) as connection:
                opened = Browser(connection)
                yield opened
                opened.send("Browser.close")
        finally:
            process.terminate()


@pytest.fixture(scope="module")
def golden(tmp_path_factory):
    with serving(GOLDEN, tmp_path_factory.mktemp("golden")) as url:
        yield url


def answer(url, path="/", method="GET", **headers):
    """Status, headers and body of a request to the port of `url` on the loopback."""
    port = int(re.search(r":(\d+)/", url)[1])
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=20)
    connection.request(method, path, headers={k.replace("_", "-"): v for k, v in headers.items()})
    response = connection.getresponse()
    found = response.status, response.headers, response.read().decode(errors="replace")
    connection.close()
    return found


def socket_opens(url, **options):
    port = int(re.search(r":(\d+)/", url)[1])
    try:
        with connect(f"ws://127.0.0.1:{port}{SOCKET}websocket", open_timeout=20, **options) as opened:
            return opened.recv(timeout=20).startswith("0{")
    except InvalidStatus as refusal:
        assert refusal.response.status_code == 403
        return False


# -- what a browser shows ------------------------------------------------------------------------------


@needs_chromium
def test_panels_show_what_the_log_says(browser, golden):
    records = [json.loads(line) for line in (GOLDEN / "events.jsonl").read_text().splitlines()]
    update = [r for r in records if r["kind"] == "update"][-1]
    step = [r for r in records if r["kind"] == "step" and r["env"] == 1][-1]
    ends = [r for r in records if r["kind"] == "episode"]
    browser.told.clear()
    browser.open(golden)
    browser.wait_text("[data-field=status]", "finished")
    assert browser.js("document.title") == "✓ finished: golden"
    row = "tr[data-env='1'] "
    assert browser.text(row + "[data-field=accuracy]") == f"{step['val_accuracy']:.1%}"
    assert browser.text(row + "[data-field=return]") == f"{ends[-1]['total_return']:+.4f}"
    assert browser.text(row + "[data-field=action]") == step["action"]
    assert browser.texts(row + "[data-slot] b") == step["stages"]
    assert browser.text("[data-field=steps]") == "180"
    assert browser.text("[data-field=progress]") == "100.0%"
    assert browser.text("[data-field=alarms]") == "✓ no alarm"
    assert browser.text("[data-field=kl]") == f"{update['approx_kl_nats']:.3g} nats"
    assert browser.text("[data-field=clip_share]") == f"{update['clip_share']:.1%}"
    assert browser.text("[data-field=explained_variance]") == f"{update['explained_variance']:.3f}"
    for name, q in update["q_by_operation"].items():
        assert browser.text(f"[data-operation={name}] [data-field=q]") == f"{q:+.4f}"
    first, last = ([e["total_return"] for e in part] for part in (ends[:3], ends[3:]))
    assert browser.text("[data-field=last-return]") == f"{sum(last) / 3:+.4f}"
    assert browser.text("[data-field=change]").startswith(f"return {sum(last) / 3 - sum(first) / 3:+.4f} ±")
    share = update["time_s_by_part"]["train"] / sum(update["time_s_by_part"].values())
    assert browser.text("[data-field=time-train]") == f"{share:.1%}"
    assert browser.text("[data-field=total]") == browser.text("tr[data-env='0'] [data-field=return]")
    assert len(browser.texts(".lanes .lane")) == 6
    assert "not measured" in browser.texts("[data-field=contribution]")
    assert any(records[0]["command"] in text for text in browser.texts("dd"))
    assert "finished after 4 s" in browser.text(".log tbody tr")
    browser.choose("environment", "environment 1")
    browser.wait_text("[data-field=total]", f"{ends[-1]['total_return']:+.4f}")
    browser.choose("kind", "episode")
    browser.wait("[...document.querySelectorAll('.log b')].every(e => e.textContent === 'episode')")
    browser.choose("by", "FLOPs")
    browser.wait("[...document.querySelectorAll('.x-name')].some(e => e.textContent.startsWith('FLOPs'))")
    assert browser.complaints() == []


@needs_chromium
@pytest.mark.parametrize("width", [1280, 400])
def test_the_page_fits_its_width(browser, golden, width):
    browser.width(width)
    browser.open(golden)
    browser.wait_text("[data-field=status]", "finished")
    assert browser.js("innerWidth") == width
    assert browser.js("document.scrollingElement.scrollWidth") <= width
    browser.width(1280)


@needs_chromium
def test_a_run_is_followed_until_it_dies(browser, tmp_path):
    run, other = tmp_path / "runs" / "followed", tmp_path / "runs" / "other"
    shutil.copytree(GOLDEN, other)
    start, *rest = [e for e in events() if not isinstance(e, RunEnd)]
    sink = JsonLinesSink(run / "events.jsonl")

    def write(*given):
        sink.write([record(event, time.time()) for event in given])

    update = next(e for e in reversed(rest) if isinstance(e, Update))
    step = next(e for e in reversed(rest) if isinstance(e, Step) and e.env == 1)
    browser.told.clear()
    with serving(run, tmp_path) as url:
        browser.open(url)
        browser.wait_text("[data-field=status]", "waiting")
        write(replace(start, task="<b>Tiny</b>"), *rest)
        browser.wait("['live', 'slow', 'stale'].includes(document.querySelector('[data-field=status]').textContent)")
        browser.wait_text("tr[data-env='1'] [data-field=accuracy]", f"{step.val_accuracy:.1%}", 5)
        assert "on <b>Tiny</b>" in browser.text(".title")
        write(replace(step, epoch=31, val_accuracy=0.4321))
        browser.wait_text("tr[data-env='1'] [data-field=accuracy]", "43.2%", 5)
        write(replace(step, epoch=32, stages=step.stages[:1]))  # events that contradict each other
        browser.wait("document.body.innerText.includes('This cannot be drawn: ValueError')", 5)
        write(replace(step, epoch=33))
        browser.wait_text("tr[data-env='1'] [data-field=epoch]", "33 of 30", 5)
        write(Anomaly("degraded", True, 1, 0.1, 0.3, "it fell"))
        browser.wait_text("tr.alarmed[data-env='1'] [data-field=alarm]", "▲ degraded", 5)
        assert "it fell" in browser.text("[data-alarm=degraded]")
        assert browser.js("document.querySelector('tr[data-env]').dataset.env") == "1"  # what is wrong comes first
        write(replace(update, round=4, policy_loss=float("nan"), explained_variance=None))
        browser.wait_text("[data-field=policy_loss]", "NaN", 5)
        assert browser.text("[data-field=explained_variance]") == DASH
        assert browser.js("document.querySelector('[data-field=explained_variance]').title") == "not measured"
        browser.choose("other runs", "other: ppo on Esper/Tiny-v0")
        browser.wait("[...document.querySelectorAll('.key')].some(e => e.textContent === 'other')")
        assert any("of another task" in text for text in browser.texts(".note"))
        sink.close()
        browser.wait_text("[data-field=status]", "dead", 5)
        assert "no process writes its log" in browser.text(".meaning")
        assert browser.complaints() == []
        (run / "events.jsonl").write_text("")
        browser.wait_text("[data-field=status]", "unreadable", 5)
        assert "become shorter" in browser.text(".meaning")


@needs_chromium
def test_a_training_is_followed_while_it_steps_and_until_it_is_killed(browser, tmp_path):
    """That updates come is tested, not how soon: a busy machine may take its time."""
    hosts = {"samples_per_epoch": 16, "val_samples": 256, "batch_size": 16}
    options = ["--task", "tiny", "--episodes", "100000", "--envs", "2", "--num-workers", "1", "--env-json"]
    training = [sys.executable, "-m", "esper_agents.train", "heuristic", *options, json.dumps(hosts)]

    def logged():
        return log.read_bytes().count(b'{"kind": "step"')

    with subprocess.Popen(
        [*training, "--telemetry-dir", str(tmp_path / "runs")], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    ) as process:
        try:
            deadline = time.monotonic() + 60
            while not (found := list(tmp_path.glob("runs/*/events.jsonl"))) or not found[0].stat().st_size:
                assert time.monotonic() < deadline and process.poll() is None
                time.sleep(0.05)
            (log,) = found
            browser.send("Page.navigate", url="about:blank")  # a page whose server has gone asks for it again and again
            browser.told.clear()
            with serving(log.parent, tmp_path) as url:
                browser.open(url)
                steps = "Number(document.querySelector('[data-field=steps]').textContent.replaceAll(',', ''))"
                for _ in range(3):
                    browser.wait(f"document.querySelector('[data-field=steps]') !== null && {steps} > {logged()}", 60)
                browser.wait("['live', 'slow'].includes(document.querySelector('[data-field=status]').textContent)", 60)
                assert process.poll() is None
                process.kill()
                process.wait()
                browser.wait_text("[data-field=status]", "dead", 60)
                browser.wait(f"{steps} === {logged()}", 60)
                last = [
                    json.loads(x) for x in log.read_bytes().split(b"\n")[:-1] if b'"step", ' in x and b'"env": 1' in x
                ]
                browser.wait_text("tr[data-env='1'] [data-field=accuracy]", f"{last[-1]['val_accuracy']:.1%}")
                assert browser.complaints() == []
        finally:
            process.kill()


# -- who may look --------------------------------------------------------------------------------------


def test_only_this_machines_names_and_pages_are_answered(golden):
    port = re.search(r":(\d+)/", golden)[1]
    assert answer(golden)[0] == answer(golden, Host=f"localhost:{port}")[0] == 200
    for name in ("evil.example", f"evil.example:{port}", "localhost.evil.example", "[", ""):
        assert answer(golden, Host=name)[0] == 403
    assert answer(golden, SOCKET + "polling")[0] == 200
    assert answer(golden, SOCKET + "polling", Host="evil.example")[0] == 403
    assert answer(golden, SOCKET + "polling", Origin="http://evil.example")[0] == 403
    assert socket_opens(golden, origin=f"http://127.0.0.1:{port}")
    assert not socket_opens(golden, origin="http://evil.example")
    upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec_WebSocket_Version": "13"}
    upgrade["Sec_WebSocket_Key"] = "AAAAAAAAAAAAAAAAAAAAAA=="
    assert answer(golden, SOCKET + "websocket", Host="evil.example", **upgrade)[0] == 403
    assert "default-src 'self'" in answer(golden)[1]["Content-Security-Policy"]


def test_other_addresses_ask_for_the_token(tmp_path):
    with serving(GOLDEN, tmp_path, "--host", "0.0.0.0") as url:
        port, token = re.search(r":(\d+)/\?token=([\w-]{20,})$", url).groups()
        status, headers, page = answer(url, f"/?token={token}")
        assert status == 200
        static = re.search(r"/_nicegui/[^\"' ]+\.js", page)[0]
        cookie, *attributes = headers["Set-Cookie"].split("; ")
        assert {"HttpOnly", "SameSite=Strict"} <= set(attributes)
        wrong = f"{cookie[:-1]}{'x' if cookie[-1] != 'x' else 'y'}"
        for path in ("/", static, SOCKET + "polling", "/?token=", f"/?token={token}x", "/?token=%C3%A9"):
            assert answer(url, path)[0] == 403
            assert answer(url, path, Cookie=wrong)[0] == 403
        for path in ("/", static, SOCKET + "polling"):
            assert answer(url, path, Cookie=f'other="a b; {cookie}')[0] == 200
        assert answer(url, SOCKET + "polling", Cookie=cookie, Origin=f"http://127.0.0.1:{int(port) - 1}")[0] == 403
        assert not socket_opens(url)
        assert not socket_opens(url, additional_headers={"Cookie": wrong})
        assert socket_opens(url, additional_headers={"Cookie": cookie})
        assert not socket_opens(url, additional_headers={"Cookie": cookie}, origin="http://evil.example")


def test_what_cannot_be_shown_is_an_error_of_the_command_line(tmp_path, capsys):
    def refused(*arguments):
        assert main(["overwatch", *arguments]) == 2
        return capsys.readouterr().err

    assert "holds no run" in refused(str(tmp_path / "nowhere"))
    (tmp_path / "events.jsonl").write_text('{"kind": "weather"}\n')
    assert "no event log of Esper" in refused(str(tmp_path))
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert f"port {port} is taken: `python -m esper_agents.karn overwatch RUN --port 0`" in refused(
            str(GOLDEN), "--port", port
        )
    assert "cannot listen at 192.0.2.1" in refused(str(GOLDEN), "--host", "192.0.2.1")
    assert "no port 70000" in refused(str(GOLDEN), "--port", "70000")


# -- what is drawn -------------------------------------------------------------------------------------


def test_a_long_log_is_read_while_others_are_answered(tmp_path):
    lines = (GOLDEN / "events.jsonl").read_text().splitlines()
    (tmp_path / "events.jsonl").write_text("\n".join([lines[0], *20 * lines[1:-1]]) + "\n")
    feed = Feed(RunLog(tmp_path))
    seen = []

    async def look():
        while feed.behind:
            seen.append(feed.events)
            await asyncio.sleep(0)

    async def both():
        await asyncio.gather(feed.read(), look())

    asyncio.run(both())
    assert feed.events == 1 + 20 * (len(lines) - 2)
    assert len(set(seen)) > 2  # it gave way, more than once


steps = st.lists(st.tuples(st.floats(0, 1), st.floats(0, 0.5), st.booleans()), min_size=1, max_size=20)


@given(steps, st.floats(0, 1))
def test_a_waterfall_adds_up_to_the_return(path, settled):
    template = next(e for e in events() if isinstance(e, Step))
    given, before = [], 0.1
    for epoch, (accuracy, rent, rollback) in enumerate(path, 1):
        value = (settled if epoch == len(path) else accuracy) - rent
        reward = value - before - ROLLBACK_PENALTY * rollback
        before = value
        given.append(
            replace(template, epoch=epoch, val_accuracy=accuracy, rent=rent, value=value, reward=reward, env=0)
        )
        given += [Rollback(0, epoch)] * rollback
    env = folded(*given).envs[0]
    found = waterfall(env)
    assert found.total == env.total_return == pytest.approx(sum(part.amount for part in found.parts))
    amounts = {part.name: part.amount for part in found.parts}
    assert found.chance == pytest.approx(0.1)
    assert amounts["rollbacks"] == pytest.approx(-ROLLBACK_PENALTY * sum(r for _, _, r in path))
    assert amounts["rent"] == -path[-1][1]
    assert "not in the log" not in amounts


def test_a_waterfall_of_a_real_episode():
    snapshot = folded(*events())
    for env in snapshot.envs.values():
        end = [e.end for e in snapshot.episodes if e.end.env == env.env][-1]
        found = waterfall(env)
        assert found.total == pytest.approx(end.total_return)
        assert found.chance == pytest.approx(0.1)
        worth = found.chance + sum(part.amount for part in found.parts if part.name in ("accuracy", "settlement"))
        assert worth == pytest.approx(end.committed_accuracy)
    steps = [e for e in events() if isinstance(e, Step) and e.env == 0][:5]
    gap = waterfall(folded(*steps[:2], *steps[3:]).envs[0])
    assert gap.parts[-1].name == "not in the log"
    assert gap.total == pytest.approx(sum(part.amount for part in gap.parts))
    assert waterfall(Snapshot()._env(0)) is None


@given(st.lists(st.tuples(st.integers(0, 9), st.integers(0, 9))))
def test_nothing_beats_the_pareto_front(points):
    def beats(a, b):
        return a != b and a[0] <= b[0] and a[1] >= b[1]

    front = pareto_front(points)
    on = {points[i] for i in front}
    assert len(front) == len(on)
    assert not any(beats(p, f) for p in points for f in on)
    assert all(p in on or any(beats(f, p) for f in on) for p in points)


@given(st.lists(st.floats(-1, 1)), st.integers(1, 5))
def test_a_moving_mean_is_the_mean_of_the_last(values, window):
    expected = [sum(last) / len(last) for i in range(len(values)) if (last := values[max(0, i + 1 - window) : i + 1])]
    assert moving_mean(values, window) == pytest.approx(expected, abs=1e-12)
    assert moving_mean([1.0, float("nan"), 3.0], 2) == [1.0, 1.0, 3.0]


def test_episodes_that_failed_are_left_out():
    snapshot = folded(*(replace(e, error_code=1) if isinstance(e, EpisodeEnd) and e.env else e for e in events()))
    assert "3 episodes ended in an error" in learning(snapshot)
    assert "of the last" in learning(snapshot)


def test_a_slot_tells_whether_its_gate_is_open_and_an_environment_its_losses():
    start = next(e for e in events() if isinstance(e, RunStart))
    step = replace(
        next(e for e in events() if isinstance(e, Step)),
        stages=("TRAINING", "HOLDING", "FOSSILIZED"),
        blueprints=("norm", "norm", "norm"),
        train_loss_nats=1.25,
        val_loss_nats=float("nan"),
        train_accuracy=0.375,
    )
    slots = start.slots
    snapshot = folded(start, step, Gate(0, 1, slots[0], "ADVANCE", True), Gate(0, 1, slots[1], "ADVANCE", True))
    assert re.findall(r'data-field="gate">(.*?)<', environments(snapshot)) == ["ADVANCE open", "FOSSILIZE not yet"]
    snapshot.fold(9.0, Gate(0, 1, slots[0], "ADVANCE", False))
    assert re.findall(r'data-field="gate">(.*?)<', environments(snapshot))[0] == "ADVANCE not yet"
    figures = re.findall(r'data-field="(?:train|val)-\w+">(.*?)<', worth(snapshot, 0))
    assert figures == ["1.250 nats", "37.5%", "NaN nats"]


def test_a_contribution_is_of_the_seed_that_was_measured():
    start = next(e for e in events() if isinstance(e, RunStart))
    step = next(e for e in events() if isinstance(e, Step))
    stages, nothing = ("TRAINING", "DORMANT", "DORMANT"), (None, None, None)
    norm = replace(step, epoch=1, stages=stages, blueprints=("norm", None, None))
    told = Counterfactual(0, 1, (2.0, None, None), (1.5, None, None))
    snapshot = folded(start, norm, told)
    assert measured(snapshot.envs[0], "r0c0") == (2.0, 1.5)
    assert measured(snapshot.envs[0], "r1c0") == (None, None)
    empty = replace(step, epoch=2, blueprints=nothing)
    snapshot = folded(start, norm, told, empty, replace(norm, epoch=3))
    assert measured(snapshot.envs[0], "r0c0") == (None, None)


class Texts(HTMLParser):
    def __init__(self):
        super().__init__()
        self.tags, self.found = [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.found.append(data)


@given(st.text(st.characters(exclude_categories=["Cs", "Cc"])))
def test_text_never_becomes_markup(text):
    parser = Texts()
    parser.feed(tag("p", tag("b", text), title=text))
    parser.close()
    assert parser.tags == [("p", {"title": text}), ("b", {})]
    assert "".join(parser.found) == text


def test_what_was_not_measured_is_no_number():
    assert DASH in figure(None, ".1f", "%", field="x") and "not measured" in figure(None, ".1f", field="x")
    assert ">0.0%<" in figure(0.0, ".1f", "%", field="x")
    assert ">NaN nats<" in figure(float("nan"), ".1f", "nats", field="x")


@given(st.floats(-1e6, 1e6), st.floats(1e-3, 1e3))
def test_ticks_are_round_and_within(low, share):
    span = share * max(1.0, abs(low))
    found = ticks(low, low + span)
    assert 2 <= len(found) <= 11
    assert all(low - 1e-6 * span <= tick <= low + span * 1.000001 for tick in found)
    assert len(set(axis_texts(found))) == len(found)


def test_small_things():
    assert axis_texts([500.0, 1000.0, 1500.0]) == ["0.5k", "1.0k", "1.5k"]
    assert axis_texts([-0.25, 0.0, 0.25], sign=True) == ["-0.25", "+0.00", "+0.25"]
    assert thinned(5, 10) == [0, 1, 2, 3, 4] and thinned(1000, 3) == [0, 500, 999]
    assert sparkline([1.0, None, float("nan"), 2.0], "x").count("M") == 2
    assert duration(3700) == "1 h 1 min" and duration(2.04) == "2.0 s"
    assert ago(0.0, 86400.0 * 31) == "31 d ago (1970-01-01 00:00:00 UTC)"
