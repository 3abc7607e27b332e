"""What a person does on the page: look, filter, share, export, come back after a break."""

from __future__ import annotations

import csv
import io
import re
from contextlib import suppress
from typing import Any

import pytest
from playwright.async_api import BrowserContext
from playwright.async_api import TimeoutError as PlaywrightTimeout

from millrace.errors import StoreUnavailable
from svc_viz.adapters.page.server import PageServer
from svc_viz.domain.compiling import Compiler
from svc_viz.domain.results import trimmed
from svc_viz.domain.state import decode
from tests.browser.conftest import visit
from tests.browser.stage import Stage, demo_dashboard

pytestmark = [pytest.mark.needs("chromium"), pytest.mark.timeout(90), pytest.mark.asyncio(loop_scope="module")]


async def test_it_opens_with_its_key_and_tells_nothing_without(context: BrowserContext, stage: Stage) -> None:
    without = await visit(context, stage, stage.page.url)
    assert "millrace open" in await without.text("body")
    assert "Departures" not in await without.page.content()
    wrong = await visit(context, stage, stage.page.url + "?key=guess")
    assert "not this page's key" in await wrong.text("body")

    right = await visit(context, stage, stage.key_url)
    await right.ready()
    assert "key=" not in right.page.url
    cookie = next(one for one in await context.cookies() if one["name"] == f"millrace_{stage.page.port}")
    assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")
    again = await visit(context, stage, stage.page.url)
    await again.ready()
    kept = await visit(context, stage, f"{stage.page.url}?range=24h&key={stage.page.key}&theme=light")
    await kept.ready()
    assert "range=24h" in kept.page.url, "a link to a view stays one with the key in it"
    assert "key=" not in kept.page.url
    assert right.errors == again.errors == []
    assert all(url.startswith((stage.page.url, "data:")) for url in right.requests), "nothing is asked of anyone else"


async def test_the_first_screen_says_how_fresh_it_is(open_page: Any) -> None:
    page = await open_page()
    await page.ready()
    assert re.search(r"Live \w{3}, Jun 21, 2013, 15:\d\d", await page.text("#live"))
    assert "version" in await page.text("#strip")
    for selector in ("#live", "#strip", "#card-kpi_refused", "#card-kpi_age", "#card-ts"):
        box = await page.page.locator(selector).bounding_box()
        assert box is not None
        assert box["y"] + box["height"] <= 900, f"{selector} is on the first screen"


async def test_new_rows_show_by_themselves(open_page: Any, stage: Stage) -> None:
    page = await open_page()
    await page.ready()
    rows, summary = await page.text("#strip li:last-child b"), await page.text(".summary")
    await stage.commit(40)
    await page.until(f"document.querySelector('#strip li:last-child b').textContent !== {rows!r}")
    await page.until(f"document.querySelector('.summary').textContent.replace(/\\s+/g, ' ') !== {summary!r}")
    await stage.commit(40)
    await page.until("/^\\d+$/.test(document.querySelector('#card-kpi_age b').textContent)")


async def test_a_brush_filters_every_other_chart_and_a_chip_takes_it_back(open_page: Any) -> None:
    page = await open_page()
    await page.ready()
    before = await page.text(".summary")
    await page.drag("hist", 0.4, 0.8)
    await page.until("document.querySelector('[data-chip=hist]')")
    await page.until(f"document.querySelector('.summary').textContent.replace(/\\s+/g, ' ') !== {before!r}")
    link = await page.settled_url()
    assert re.search(r"hist=\d+\.\.\d+", link)
    await page.until("document.querySelector('.summary').textContent.includes('100.0 % late')")

    other = await visit(page.page.context, page.stage, link)
    await other.ready()
    assert await other.text("[data-chip=hist]") == await page.text("[data-chip=hist]")

    await page.page.click("[data-chip=hist]")
    await page.until("!document.querySelector('[data-chip=hist]')")
    await page.until(
        f"document.querySelector('.summary').textContent.replace(/\\s+/g, ' ').split(' ')[0] === {before.split(' ')[0]!r}"
    )
    assert page.errors == []


async def test_clicks_and_keys_filter_too(open_page: Any) -> None:
    page = await open_page()
    await page.ready()
    await page.page.click("#card-carriers button.row >> nth=0")
    await page.until("document.querySelector('#card-carriers tr.picked')")
    await page.page.focus("#chips button >> nth=0")
    await page.page.keyboard.press("Enter")
    await page.until("document.querySelector('#chips [aria-pressed=true]')")
    await page.until("document.querySelectorAll('#card-mult figure').length === 1")
    await page.page.keyboard.press("Escape")
    await page.until(
        "!document.querySelector('#card-carriers tr.picked') && !document.querySelector('#chips [aria-pressed=true]')"
    )


@pytest.mark.parametrize("element", ["ts", "hist", "carriers"])
async def test_the_csv_is_the_query(open_page: Any, stage: Stage, element: str) -> None:
    page = await open_page("/d/flights?origin=EWR&hour=8..20&range=last%207d")
    await page.ready()
    async with page.page.expect_download() as download:
        await page.page.click(f"#card-{element} [data-act=csv]")
    path = await (await download.value).path()
    rows = list(csv.DictReader(io.StringIO(path.read_text())))

    dashboard = demo_dashboard()
    state, _ = decode("origin=EWR&hour=8..20&range=last 7d", dashboard.spec)
    question = Compiler(dashboard, state, stage.catalog._world.tables).question(element)
    answer = trimmed(await stage.answers.query(question), question)
    assert len(rows) == answer.rows.num_rows > 3
    for name in answer.rows.column_names:
        assert [row[name] != "" for row in rows] == [value is not None for value in answer.rows[name].to_pylist()]
    assert sum(int(row["n"] or 0) for row in rows) == sum(value or 0 for value in answer.rows["n"].to_pylist())
    if element == "ts":
        assert all(re.search(r"T\d\d:00:00-04:00$", row["time"]) for row in rows), (
            "in New York, whatever the browser thinks"
        )


async def test_a_chart_is_read_and_brushed_by_keys(open_page: Any) -> None:
    page = await open_page()
    await page.ready()
    await page.page.focus("#card-hour .plot")
    await page.page.keyboard.press("ArrowRight")
    await page.until("!document.getElementById('tip').hidden")
    said = await page.text("#say")
    assert said.startswith("Hour 5")
    await page.page.keyboard.press("Shift+ArrowRight")
    await page.page.keyboard.press("Shift+ArrowRight")
    await page.page.keyboard.press("Enter")
    await page.until("document.querySelector('[data-chip=hour]')")
    assert await page.text("[data-chip=hour]") == "Hour 5–7 h×"


async def test_every_chart_has_a_table_and_a_summary(open_page: Any) -> None:
    page = await open_page()
    await page.ready()
    for name in ("ts", "hist", "hour", "dist", "mult"):
        label = await page.page.get_attribute(f"#card-{name} .plot", "aria-label")
        assert len(label or "") > 20, name
        await page.page.click(f"#card-{name} [data-act=twin]")
        await page.until(f"document.querySelectorAll('#card-{name} .twin tbody tr').length > 3")
    titles = await page.page.locator("#card-ts .twin tbody th").all_inner_texts()
    assert titles[0].startswith(("Tue 18 Jun", "Wed 19 Jun"))


async def test_analysis_gone_shows_within_five_seconds_and_comes_back(open_page: Any, stage: Stage) -> None:
    page = await open_page()
    await page.ready()
    value = await page.text("#card-kpi_n b")
    await stage.answers.fail(StoreUnavailable("the connection broke"))
    await page.until("!document.getElementById('banner').hidden", 5000)
    assert "analysis does not answer" in await page.text("#banner")
    await page.until("document.getElementById('card-ts').dataset.status === 'stale'")
    assert await page.text("#card-kpi_n b") == value, "the last numbers stay"
    assert await page.text("#live b") == "Stale"
    await stage.answers.fail(None)
    await page.until("document.getElementById('banner').hidden", 5000)
    await page.until("document.getElementById('card-ts').dataset.status === 'ok'")


async def test_a_page_outlives_its_server(open_page: Any, stage: Stage, context: BrowserContext) -> None:
    page = await open_page("/d/flights?origin=JFK")
    await page.ready()
    port, home = stage.page.port, stage.page._home
    await stage.page.stop()
    await page.until("!document.getElementById('banner').hidden", 3000)
    assert await page.text("#live b") == "Disconnected"
    stage.page = PageServer(stage.board, stage.hub, home=home, host="127.0.0.1", port=port)
    await stage.page.start()
    await page.until(
        "document.getElementById('banner').hidden && document.documentElement.dataset.ready === 'yes'", 15_000
    )
    await page.ready()
    assert "origin=JFK" in page.page.url
    assert await page.page.get_attribute("[data-chip='origin=JFK']", "aria-pressed") == "true"


async def test_dark_and_light_without_a_reload(open_page: Any) -> None:
    page = await open_page()
    await page.ready()
    requests = len(page.requests)
    dark = await page.page.evaluate("() => getComputedStyle(document.body).backgroundColor")
    await page.page.click("[data-act=theme]")
    light = await page.page.evaluate("() => getComputedStyle(document.body).backgroundColor")
    assert dark != light
    fill = "() => Bokeh.documents[0].roots().find((one) => one.name === 'hour').renderers.at(-1).glyph.fill_color.value"
    assert await page.page.evaluate(fill) == "#3479d6"
    assert "theme=light" in page.page.url
    assert len(page.requests) == requests
    assert page.errors == []


async def test_live_data_leave_a_zoomed_reader_alone(open_page: Any, stage: Stage) -> None:
    page = await open_page()
    await page.ready()
    await page.drag("ts", 0.3, 0.6)
    await page.until("!document.querySelector('#card-ts [data-act=reset]').hidden")
    ranges = (
        "() => (({start, end}) => [start, end])(Bokeh.documents[0].roots().find((one) => one.name === 'ts').x_range)"
    )
    zoomed = await page.settled(ranges)  # the last step of the drag is drawn a moment after the button
    box = await page.page.locator("#card-ts .plot").bounding_box()
    await page.page.mouse.move(box["x"] + box["width"] * 0.5, box["y"] + 60)
    await page.until("!document.getElementById('tip').hidden")
    for _ in range(4):
        frame = int(await page.page.evaluate("() => document.documentElement.dataset.frame"))
        await stage.commit(30)
        await page.until(f"Number(document.documentElement.dataset.frame) > {frame}")
        assert await page.page.evaluate(ranges) == zoomed
        await page.until("!document.getElementById('tip').hidden", 2000)
    whole = f"Bokeh.documents[0].roots().find((one) => one.name === 'ts').x_range.start < {zoomed[0]}"
    for _ in range(3):  # a drawing that ends with the click may put the old range back: the reader clicks again
        if await page.page.is_visible("#card-ts [data-act=reset]"):
            await page.page.click("#card-ts [data-act=reset]")
        await stage.commit(30)
        with suppress(PlaywrightTimeout):
            await page.until(whole, 3000)
            break
    await page.until(whole, 1000)


async def test_bad_addresses_open_and_lost_pages_lead_back(open_page: Any, stage: Stage) -> None:
    page = await open_page("/d/flights?zone=Mars/Olympus&nothing=1&origin=LGA")
    await page.ready()
    assert await page.page.locator(".told").count() == 2
    await page.page.goto(stage.page.url + "d/gone")
    assert "No such dashboard" in await page.text("h1")
    await page.page.click("text=Back to the overview")
    await page.until("document.querySelectorAll('#overview table tbody tr').length >= 2")
    await page.page.goto(stage.page.url + "nowhere")
    assert "No such page" in await page.text("h1")


async def test_text_from_data_stays_text(context: BrowserContext, stage: Stage) -> None:
    rows = stage.future.slice(0, 5)
    evil = '<img src=x onerror="document.title=1">'
    index = rows.schema.get_field_index("airline")
    stage.future = rows.set_column(index, "airline", [[evil] * rows.num_rows])
    page = await visit(context, stage, stage.key_url)
    await page.ready()
    await stage.commit(5)
    await page.until(
        "[...document.querySelectorAll('#card-carriers th')].some((one) => one.textContent.includes('<img'))"
    )
    assert await page.page.locator("#card-carriers img, #card-mult img").count() == 0
    assert page.errors == []
