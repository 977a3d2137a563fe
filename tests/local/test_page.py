"""The page of the local server, in Chromium: it shows what arrives, and nothing that arrives can harm it."""

from __future__ import annotations

import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from leanbase import Leanbase
from leanbase.local.faults import Faults
from leanbase.local.server import LocalServer
from leanbase.local.store import Arrival, Store

sync_api = pytest.importorskip("playwright.sync_api", reason="needs playwright")
expect = sync_api.expect
pytestmark = [pytest.mark.needs("chromium"), pytest.mark.slow]

# Without these, Chromium looks up hosts of its maker.
QUIET = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
]
QUIET += ["--disable-component-update", "--disable-sync"]

HOSTILE = [
    "<script>window.hacked = 1</script>",
    "<img src=x onerror='window.hacked=1'>",
    '"><svg onload=window.hacked=1>',
    "javascript:window.hacked=1",
    "{{constructor.constructor('window.hacked=1')()}}",
    "\u202egnp.exe",
    "\x1b[2J\x07\x00",
    "</title></script><style>*{display:none}</style>",
    "__proto__",
    "x" * 1_000_000,
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path="/usr/bin/chromium", args=QUIET)
        yield found
        found.close()


@pytest.fixture
def open_page(browser: Any) -> Iterator[Any]:
    """Open a page; afterwards there was no error on it, and no request to another origin."""
    contexts, problems = [], []

    def open_page(url: str, **options: Any) -> Any:
        context = browser.new_context(**options)
        contexts.append(context)
        page = context.new_page()
        origin = url.split("#")[0]
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("console", lambda message: problems.append(message.text) if is_problem(message) else None)
        page.on(
            "request",
            lambda request: (
                None if request.url.startswith((origin, "data:")) else problems.append(request.url)
            ),
        )
        page.goto(url)
        page.wait_for_function("() => document.querySelector('#state').textContent === 'live'")
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert problems == []


def is_problem(message: Any) -> bool:
    """Whether a line of the console is about the page; Chromium itself logs each 404."""
    return message.type == "error" and "status of 404" not in message.text


@pytest.fixture
def client(local: LocalServer) -> Leanbase:
    return Leanbase("phc_secret_key", local.url)


def names(page: Any) -> list[str]:
    found: list[str] = page.locator(".row .name").all_inner_texts()
    return found


def appears(page: Any, text: str) -> None:
    page.wait_for_function(
        "text => [...document.querySelectorAll('.row')].some(row => row.textContent.includes(text))", arg=text
    )


def test_arrivals_appear_within_half_a_second_newest_first(
    local: LocalServer, client: Leanbase, open_page: Any
) -> None:
    client.capture("first", distinct_id="u")
    page = open_page(local.url)
    appears(page, "first")
    started = time.monotonic()
    client.capture("second", distinct_id="user_2", properties={"plan": "pro"})
    appears(page, "second")
    assert time.monotonic() - started < 0.5
    assert names(page) == ["second", "first"]
    expect(page.locator(".row").first).to_contain_text("plan=pro")
    assert page.locator(".fresh").count() == 1


def test_hostile_names_and_values_are_inert(local: LocalServer, client: Leanbase, open_page: Any) -> None:
    page = open_page(local.url)
    for number, text in enumerate(HOSTILE):
        short = text[:300_000]
        client.capture(
            short[:150],
            distinct_id=short[:150],
            properties={short[:200]: text[:800_000], "list": [text[:1000]]},
            uuid=f"0198c0de-0000-7000-8000-{number:012}",
        )
    assert client.stats()["delivered"] == len(HOSTILE)
    appears(page, "gnp.exe")
    for id in range(1, len(HOSTILE) + 1):
        page.goto(f"{local.url}#event/{id}")
        page.wait_for_function(
            "id => document.querySelector('#detail a[href=\"#event/' + id + '\"]')", arg=id
        )
        for button in page.locator("#detail .tree details:not([open]) > summary").all():
            button.click()
    page.goto(f"{local.url}#event/{len(HOSTILE)}")
    page.get_by_text("Show all 800,000 characters").click()
    assert page.evaluate("window.hacked") is None
    assert (
        page.locator(
            "#detail img, #detail svg, #detail script, #rows img, #rows svg, #rows script, style"
        ).count()
        == 0
    )
    page.goto(f"{local.url}#event/6")
    page.wait_for_selector("#detail h2 .escape")
    expect(page.locator("#detail h2")).to_have_text("U+202Egnp.exe")
    page.goto(f"{local.url}#event/7")
    page.wait_for_function("() => document.querySelector('#detail h2').textContent.startsWith('U+001B')")
    assert "phc_secret_key" not in page.content()


def test_filters_by_event_person_and_text(local: LocalServer, client: Leanbase, open_page: Any) -> None:
    for number in range(30):
        client.capture(
            f"event {number % 3}",
            distinct_id=f"user_{number % 5}",
            properties={"n": number, "say": 'Ünï "quoted"'},
        )
    page = open_page(local.url)
    appears(page, "event 2")
    page.get_by_label("Event", exact=True).fill("event 1")
    page.wait_for_function("() => document.querySelectorAll('.row').length === 10")
    page.get_by_label("Person").fill("user_4")
    page.wait_for_function("() => document.querySelectorAll('.row').length === 2")
    expect(page.locator("#counts")).to_contain_text("2 of 30 events")
    assert page.locator("#export").get_attribute("href") == "events/export?event=event+1&distinct_id=user_4"
    client.capture("event 1", distinct_id="user_4", properties={"new": True})
    page.wait_for_function("() => document.querySelectorAll('.row').length === 3")
    client.capture("event 0", distinct_id="user_4")
    page.get_by_label("Event", exact=True).fill("")
    page.get_by_label("Person").fill("")
    page.get_by_label("Text").fill('ünï "QUOTED"'.replace("ün", "Ün"))
    page.wait_for_function("() => document.querySelectorAll('.row').length === 30")
    page.get_by_label("Text").fill("nothing like this")
    page.wait_for_function("() => document.querySelectorAll('.row').length === 0")
    expect(page.locator("#empty")).to_have_text("No event fits the filters.")


def test_an_exception_with_its_frames_and_source(local: LocalServer, open_page: Any) -> None:
    client = Leanbase("k", local.url, project_root=str(Path(__file__).parent))

    def price(order: dict[str, Any]) -> Any:
        return order["price"]

    try:
        try:
            price({})
        except KeyError as error:
            raise ValueError("no <price>") from error
    except ValueError as error:
        client.capture_exception(error, distinct_id="u")
    page = open_page(f"{local.url}#event/1")
    page.wait_for_selector("#detail .exception")
    text = page.locator("#detail").inner_text()
    assert "2 exceptions" in text
    assert "no <price>" in text
    assert 'return order["price"]' in page.locator("#detail pre .here").all_inner_texts()[1]
    assert "test_page.py" in text
    assert page.locator(".row.bad").count() == 1


def test_requests_show_sizes_headers_refusals_and_what_came_again(
    local: LocalServer, client: Leanbase, open_page: Any
) -> None:
    uuid = "0198c0de-0000-7000-8000-000000000abc"
    for _ in range(2):
        client.capture(
            "e", distinct_id="u", uuid=uuid, timestamp="2026-01-02T03:04:05Z", properties={"text": "x" * 5000}
        )
    request = urllib.request.Request(
        f"{local.url}/batch/",
        b'{"api_key": "k"}',
        {"Content-Type": "application/json", "Authorization": "Bearer secret"},
    )
    with pytest.raises(urllib.error.HTTPError):
        urllib.request.urlopen(request, timeout=10)
    page = open_page(local.url)
    expect(page.locator(".row").first).to_contain_text("×2")
    page.get_by_role("tab", name="Requests").click()
    appears(page, "batch must be a non-empty array")
    expect(page.locator("#counts")).to_contain_text("1 refused")
    page.locator(".row").nth(1).click()
    page.wait_for_selector("#detail h2")
    detail = page.locator("#detail").inner_text()
    assert uuid in detail
    assert "decompressed" in detail
    assert "Content-Encoding" in detail
    page.locator(".row").first.click()
    page.wait_for_selector("#detail .problem")
    assert "secret" not in page.locator("#detail").inner_text()
    request = urllib.request.Request(f"{local.url}/batch/", b"broken", {"Content-Type": "application/json"})
    with pytest.raises(urllib.error.HTTPError):
        urllib.request.urlopen(request, timeout=10)
    appears(page, "the body is not JSON")


def test_faults_are_switched_on_the_page(local: LocalServer, open_page: Any) -> None:
    page = open_page(local.url)
    page.locator("#faults summary").click()
    page.get_by_label("Status").select_option("503")
    page.wait_for_function("() => document.querySelector('#playing').textContent === 'status 503'")
    client = Leanbase("k", local.url, max_retries=0)
    client.capture("e", distinct_id="u")
    assert client.stats()["retained"] == 1
    page.get_by_role("tab", name="Requests").click()
    appears(page, "simulated by --status")
    page.get_by_label("Status").select_option("unchanged")
    page.wait_for_function("() => document.querySelector('#playing').textContent === 'none'")
    assert client.flush()
    page.get_by_label("Refusal").select_option("over quota")
    page.wait_for_function("() => document.querySelector('#playing').textContent === 'quota'")
    page.get_by_label("Delay, seconds").fill("0.3")
    page.keyboard.press("Tab")
    page.wait_for_function("() => document.querySelector('#playing').textContent === 'quota, 0.3 s delay'")
    started = time.monotonic()
    client.capture("e", distinct_id="u")
    assert time.monotonic() - started >= 0.3
    assert len(local.store.events()) == 1


def test_pause_clear_and_export(local: LocalServer, client: Leanbase, open_page: Any, tmp_path: Path) -> None:
    page = open_page(local.url, accept_downloads=True)
    client.capture("first", distinct_id="u")
    appears(page, "first")
    page.get_by_role("button", name="Pause").click()
    client.capture("second", distinct_id="u", properties={"text": "ü"})
    page.wait_for_function("() => document.querySelector('#counts').textContent.startsWith('2 events')")
    assert names(page) == ["first"]
    page.get_by_role("button", name="Pause").click()
    appears(page, "second")
    with page.expect_download() as download:
        page.get_by_role("link", name="Export").click()
    assert download.value.suggested_filename.endswith(".jsonl")
    download.value.save_as(tmp_path / "events.jsonl")
    exported = [json.loads(line) for line in (tmp_path / "events.jsonl").read_text().splitlines()]
    assert [event["event"] for event in exported] == ["first", "second"]
    assert exported[1]["properties"]["text"] == "ü"
    page.get_by_role("button", name="Clear").click()
    page.wait_for_function("() => document.querySelectorAll('.row').length === 0")
    expect(page.locator("#empty")).to_contain_text("Set host to")
    client.capture("third", distinct_id="u")
    appears(page, "third")


def test_everything_works_by_keyboard(local: LocalServer, client: Leanbase, open_page: Any) -> None:
    for number in range(5):
        client.capture(f"event {number}", distinct_id="u")
    page = open_page(local.url)
    appears(page, "event 0")

    def focused() -> str:
        found: str = page.evaluate(
            "document.activeElement.id || document.activeElement.name || document.activeElement.className || document.activeElement.tagName"
        )
        return found

    order = []
    for _ in range(10):
        page.keyboard.press("Tab")
        order.append(focused())
    assert order[1:] == [
        "tab-events",
        "event",
        "distinct_id",
        "text",
        "pause",
        "export",
        "clear",
        "SUMMARY",
        "row",
    ] or order[1:9] == ["tab-events", "event", "distinct_id", "text", "pause", "export", "clear", "SUMMARY"]
    page.locator(".row").first.focus()
    page.keyboard.press("ArrowDown")
    page.keyboard.press("Enter")
    page.wait_for_selector("#detail h2")
    expect(page.locator("#detail h2")).to_have_text("event 3")
    assert focused() == "detail"
    page.keyboard.press("Escape")
    page.wait_for_selector("#detail", state="hidden")
    assert page.evaluate("document.activeElement.textContent").find("event 3") >= 0, (
        "the focus is where it was"
    )
    page.locator("#tab-events").focus()
    page.keyboard.press("ArrowRight")
    page.wait_for_selector(".row.request")
    assert focused() == "tab-requests"


def test_each_event_has_a_link(local: LocalServer, client: Leanbase, open_page: Any) -> None:
    client.capture("first", distinct_id="u")
    client.capture("second", distinct_id="u")
    page = open_page(f"{local.url}#event/1")
    page.wait_for_selector("#detail h2")
    expect(page.locator("#detail h2")).to_have_text("first")
    page.locator(".row").first.click()
    page.wait_for_function("() => document.querySelector('#detail h2').textContent === 'second'")
    assert page.url.endswith("#event/2")
    page.go_back()
    page.wait_for_function("() => document.querySelector('#detail h2').textContent === 'first'")
    page.goto(f"{local.url}#event/99")
    page.wait_for_selector("#detail .problem")
    expect(page.locator("#detail")).to_contain_text("there is no such event")


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [360, 1600])
def test_no_rule_of_axe_is_violated(
    scheme: str, width: int, local: LocalServer, client: Leanbase, open_page: Any
) -> None:
    from axe_playwright_python.sync_playwright import Axe

    for number in range(30):
        client.capture(
            "order created", distinct_id=f"user_{number}", properties={"n": number, "list": [{"a": "\u202e"}]}
        )
    try:
        raise ValueError("no")
    except ValueError as error:
        client.capture_exception(error, distinct_id="u")
    page = open_page(local.url, color_scheme=scheme, viewport={"width": width, "height": 900})
    appears(page, "order created")
    page.wait_for_timeout(1700)  # a row that has just arrived fades in
    axe = Axe()

    def check() -> None:
        found = axe.run(page).response
        assert [
            (each["id"], [node["html"][:120] for node in each["nodes"]]) for each in found["violations"]
        ] == []

    check()
    page.locator("#faults summary").click()
    check()
    page.locator(".row.bad").click()
    page.wait_for_selector("#detail h2")
    check()
    page.keyboard.press("Escape")
    page.get_by_role("tab", name="Requests").click()
    page.wait_for_selector(".row.request")
    check()
    assert page.evaluate("document.documentElement.scrollWidth") <= width, "nothing sticks out"


@pytest.fixture(scope="module")
def many() -> Iterator[LocalServer]:
    """A server with 50,000 events."""
    store = Store()
    for start in range(0, 50_000, 1000):
        batch = [
            {
                "event": f"event {number % 40}",
                "distinct_id": f"user_{number % 900}",
                "uuid": f"0198c0de-0000-7000-8000-{number:012}",
                "timestamp": "2026-01-02T03:04:05Z",
                "properties": {
                    "number": number,
                    "plan": "pro",
                    "url": f"https://example.com/{number}",
                    "tags": ["a", "b"],
                },
            }
            for number in range(start, start + 1000)
        ]
        store.add({"batch": batch, "historical_migration": False}, Arrival({}))
    with LocalServer(store=store) as server:
        yield server


def test_it_stays_quick_at_50_000_events(many: LocalServer, open_page: Any) -> None:
    started = time.monotonic()
    page = open_page(many.url)
    appears(page, "event 39")
    assert time.monotonic() - started < 3
    started = time.monotonic()
    page.get_by_label("Text").fill("example.com/123")
    page.wait_for_function(
        "() => document.querySelectorAll('.row').length === 100 && document.querySelector('.row').textContent.includes('12399')"
    )
    assert time.monotonic() - started < 2
    page.get_by_label("Text").fill("")
    page.get_by_label("Event", exact=True).fill("event 7")
    page.wait_for_function(
        "() => [...document.querySelectorAll('.row .name')].every(each => each.textContent === 'event 7')"
    )
    page.get_by_role("button", name="Older").click()
    page.wait_for_function("() => document.querySelectorAll('.row').length === 200")
    client = Leanbase("k", many.url)
    started = time.monotonic()
    client.capture("event 7", distinct_id="arrives")
    appears(page, "arrives")
    assert time.monotonic() - started < 1


def test_a_flood_of_arrivals_keeps_the_page_usable(local: LocalServer, open_page: Any) -> None:
    page = open_page(local.url)
    client = Leanbase("k", local.url)
    with client.delivery_scope():
        for number in range(5000):
            client.capture(f"flood {number}", distinct_id="u")
    appears(page, "flood 4999")
    assert page.locator(".row").count() <= 500
    assert names(page)[0] == "flood 4999"
    page.locator(".row").first.click()
    page.wait_for_selector("#detail h2")
    page.get_by_role("button", name="Older").click()
    page.wait_for_function("() => document.querySelectorAll('.row').length > 500")
    found = names(page)
    assert len(set(found)) == len(found), "no event is shown twice"


def test_with_a_token_the_page_is_below_it(open_page: Any) -> None:
    with LocalServer(token="a-long-token", faults=Faults(delay=0.1)) as server:
        assert server.url.endswith("/a-long-token")
        client = Leanbase("k", server.url)
        client.capture("guarded", distinct_id="u")
        page = open_page(server.url)
        appears(page, "guarded")
        expect(page.locator("#playing")).to_have_text("0.1 s delay")
        page.locator(".row").first.click()
        page.wait_for_selector("#detail h2")


def test_it_connects_again(browser: Any, open_page: Any, local: LocalServer) -> None:
    with LocalServer() as server:
        port = int(server.url.rpartition(":")[2])
        context = browser.new_context()
        page = context.new_page()
        page.goto(server.url)
        page.wait_for_function("() => document.querySelector('#state').textContent === 'live'")
    page.wait_for_function("() => document.querySelector('#state').textContent === 'not connected'")
    with LocalServer(port=port) as server:
        page.wait_for_function(
            "() => document.querySelector('#state').textContent === 'live'", timeout=15_000
        )
        Leanbase("k", server.url).capture("again", distinct_id="u")
        appears(page, "again")
        context.close()
