"""A real Chromium on a real page; what lies behind the page is in memory, so that a test says when something happens."""

from __future__ import annotations

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest_asyncio
from playwright.async_api import Browser, BrowserContext, Page, async_playwright

from tests.browser.flights import departures
from tests.browser.stage import START, Stage, cut, staged

SWITCHES = ["--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--disable-background-networking"]
LIVE_FROM = datetime(2013, 6, 21, 19, 20, tzinfo=UTC)


@dataclass
class Visit:
    """A tab, and what went wrong or abroad in it."""

    page: Page
    stage: Stage
    errors: list[str] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)

    async def ready(self) -> None:
        await self.until("document.documentElement.dataset.ready === 'yes'")
        await self.until("[...document.querySelectorAll('.card')].every((one) => one.dataset.status === 'ok')")

    async def until(self, condition: str, limit_ms: int = 10_000) -> None:
        """`wait_for_function` with a function: our policy forbids it to evaluate text."""
        await self.page.wait_for_function(f"() => {condition}", timeout=limit_ms)

    async def settled_url(self) -> str:
        """The address once it has stayed the same: a drag selects on its way, and the last place is told a moment after the button."""
        before = ""
        for _ in range(40):
            await self.page.wait_for_timeout(400)
            if self.page.url == before:
                return before
            before = self.page.url
        raise AssertionError(f"the address never came to rest: {before}")

    async def settled(self, expression: str) -> Any:
        """Its value once that has stayed the same for a while."""
        before = await self.page.evaluate(expression)
        for _ in range(40):
            await self.page.wait_for_timeout(300)
            if (now := await self.page.evaluate(expression)) == before:
                return now
            before = now
        raise AssertionError(f"never came to rest: {before}")

    async def text(self, selector: str) -> str:
        return " ".join((await self.page.inner_text(selector)).split())

    async def drag(self, card: str, start: float, end: float) -> None:
        """Across a chart, from one share of its width to another."""
        box = await self.page.locator(f"#card-{card} .plot").bounding_box()
        assert box is not None
        y = box["y"] + box["height"] * 0.4
        await self.page.mouse.move(box["x"] + box["width"] * start, y)
        await self.page.mouse.down()
        await self.page.mouse.move(box["x"] + box["width"] * (start + end) / 2, y, steps=4)
        await self.page.mouse.move(box["x"] + box["width"] * end, y, steps=4)
        await self.page.mouse.up()


@pytest_asyncio.fixture(loop_scope="module")
async def stage(tmp_path: Path) -> AsyncIterator[Stage]:
    past, future = cut(departures(START, 24, per_day=400), LIVE_FROM)
    async with staged(past, future, tmp_path) as made:
        yield made


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def browser(chromium: Path) -> AsyncIterator[Browser]:
    async with async_playwright() as driver:
        made = await driver.chromium.launch(executable_path=str(chromium), args=SWITCHES)
        yield made
        await made.close()


@pytest_asyncio.fixture(loop_scope="module")
async def context(browser: Browser) -> AsyncIterator[BrowserContext]:
    made = await browser.new_context(
        viewport={"width": 1440, "height": 900}, color_scheme="dark", timezone_id="Asia/Tokyo"
    )
    yield made
    await made.close()


async def visit(context: BrowserContext, stage: Stage, address: str) -> Visit:
    """A new tab on `address`; uncaught errors and requests are noted."""
    page = await context.new_page()
    found = Visit(page, stage)
    page.on("pageerror", lambda error: found.errors.append(str(error)))
    page.on("console", lambda message: found.errors.append(message.text) if message.type == "error" else None)
    page.on("request", lambda request: found.requests.append(request.url))
    await page.goto(address)
    return found


@pytest_asyncio.fixture(loop_scope="module")
async def open_page(context: BrowserContext, stage: Stage) -> Any:
    """The demo's page, signed in and drawn."""

    async def opened(path: str = "") -> Visit:
        first = await visit(context, stage, stage.key_url)
        if path:
            await first.page.goto(stage.page.url.rstrip("/") + path)
        return first

    return opened
