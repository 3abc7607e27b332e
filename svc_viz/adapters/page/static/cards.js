// One function per kind of element: the payload's JSON into the card.
Millrace.cards = (() => {
  const { el, svg, fill, text, spark, table, ago } = Millrace;
  const TRIANGLE = { up: "M0 7 L4 0 L8 7 Z", down: "M0 0 L8 0 L4 7 Z", flat: "M0 2.5 H8 V4.5 H0 Z" };

  const triangle = (way) => svg("svg", { class: "way", viewBox: "0 0 8 7", "aria-hidden": "true" }, svg("path", { d: TRIANGLE[way] || TRIANGLE.flat }));

  const kpi = (card, data) => {
    const body = card.querySelector(".text");
    const delta = data.delta;
    fill(body,
      el("div", { class: "figure", "data-state": data.state || "" }, el("b", {}, data.value ?? "–"), data.unit ? el("span", {}, data.unit) : null),
      data.spark ? spark(data.spark.points) : null,
      el("p", { class: "delta" },
        delta ? el("span", { class: "change", "data-tone": delta.tone }, triangle(delta.way), " ", delta.text) : null,
        delta ? " " : null, el("span", {}, data.against || "")));
    card.setAttribute("aria-label", data.summary || "");
  };

  const list = (card, data, send) => {
    const body = card.querySelector(".text");
    const made = table(data.columns, data.rows, data.summary);
    if (data.keys.length) {
      const picked = new Set(data.picked);
      made.classList.add("clickable");
      if (picked.size) made.classList.add("some");
      [...made.tBodies[0].rows].forEach((row, i) => {
        const key = data.keys[i];
        if (key == null) return;
        const head = row.cells[0];
        const button = el("button", { class: "row", "aria-pressed": picked.has(key), "data-key": key }, head.textContent);
        head.replaceChildren(button);
        if (picked.has(key)) row.classList.add("picked");
        row.addEventListener("click", (event) => send({ do: "pick", id: card.dataset.element, value: key, more: event.shiftKey || event.ctrlKey || event.metaKey }));
      });
    }
    const active = body.contains(document.activeElement) ? document.activeElement.dataset.key : null;
    const top = body.scrollTop;
    fill(body, made, data.more > 0 ? el("p", { class: "more" }, `${data.more.toLocaleString("en-US")} more rows are in the CSV`) : null);
    body.scrollTop = top;
    if (active != null) [...body.querySelectorAll("button.row")].find((one) => one.dataset.key === active)?.focus({ preventScroll: true });
  };

  const multiples = (card, data) => {
    const body = card.querySelector(".plot");
    const [x0, x1] = data.x, [y0, y1] = data.y;
    const W = 200, H = 52;
    const X = (value) => ((value - x0) / (x1 - x0 || 1)) * W, Y = (value) => H - ((value - y0) / (y1 - y0 || 1)) * H;
    const ticks = [6, 12, 18].filter((at) => at > x0 && at < x1);
    const shown = (value) => (Math.abs(value) >= 1000 ? `${value / 1000}k` : String(Number(value.toFixed(2))).replace("-", "−"));
    fill(body, data.panels.map((panel) => el("figure", { class: "small" },
      el("figcaption", {}, panel.title),
      el("div", { class: "ys", "aria-hidden": "true" }, [y1, y1 / 2, 0].map((at) => { const tick = el("span", {}, shown(at)); tick.style.top = `${(Y(at) / H) * 100}%`; return tick; })),
      svg("svg", { viewBox: `0 0 ${W} ${H}`, preserveAspectRatio: "none", "aria-hidden": "true" },
        [y1, y1 / 2, 0].map((at) => svg("line", { class: "grid", x1: 0, x2: W, y1: Y(at), y2: Y(at), "vector-effect": "non-scaling-stroke" })),
        panel.x.map((at, i) => panel.y[i] == null ? null : svg("rect", {
          class: "bar", x: X(at - 0.4), width: Math.max(0.5, X(at + 0.4) - X(at - 0.4)),
          y: Math.min(Y(panel.y[i]), Y(0)), height: Math.abs(Y(panel.y[i]) - Y(0)), "data-tip": panel.texts[i] }))),
      el("div", { class: "xs", "aria-hidden": "true" }, ticks.map((at) => { const tick = el("span", {}, at); tick.style.left = `${(X(at) / W) * 100}%`; return tick; })))));
    body.setAttribute("aria-label", data.summary);
  };

  const dead = (card, data) => {
    fill(card.querySelector(".text"),
      el("ul", { class: "reasons", tabindex: "0", "aria-label": data.summary }, data.rows.map((row) => {
        const bar = el("i", {});
        bar.style.width = `${Math.max(0.5, row.share * 100)}%`;
        return el("li", {}, el("div", {}, el("code", {}, row.reason), el("b", {}, row.count)), el("div", { class: "track" }, bar), el("small", {}, row.text));
      })),
      el("p", { class: "total" }, data.total));
  };

  const summary = (line, data) => {
    if (!data.parts) return;
    const parts = data.parts.flatMap((part, i) => [`${i ? " · " : ""}${part.before}`, el("b", {}, part.value), part.after]);
    fill(line, ...parts.map((part) => (part instanceof Node ? part : document.createTextNode(part))), document.createTextNode(` · ${data.elapsed}`));
  };

  const chart = (card, data) => {
    card.querySelector(".plot").setAttribute("aria-label", data.summary || "");
    const aside = card.querySelector(".aside") || card.querySelector("header p")?.appendChild(el("span", { class: "aside" }));
    if (aside) text(aside, data.aside ? ` · shown ${data.aside}` : "");
    fill(card.querySelector(".legend"),
      (data.legend || []).map((one) => el("span", { class: "key", "data-state": one.state }, el("i", {}), one.label)),
      data.band ? el("span", { class: "key", "data-state": "forecast" }, el("i", {}), data.band.label) : null);
  };

  const twin = (card, data) => {
    const box = card.querySelector(".twin");
    if (!box || box.hidden || !data.table) return;
    const top = box.scrollTop;
    box.setAttribute("aria-label", card.querySelector("h2").textContent);
    fill(box, table(data.table.columns, data.table.rows, card.querySelector("h2").textContent));
    box.scrollTop = top;
  };

  // The status over or under what is drawn: loading, empty, error and stale look different, each says why.
  const note = (card, data) => {
    const box = card.querySelector(".note");
    if (!box) return;
    const words = { loading: "Asking…", empty: "No rows in this selection and range", error: data.reason || "This question cannot be answered", stale: "" };
    box.hidden = !(data.status in words);
    if (data.status === "stale") {
      text(box, data.since ? `${ago(Date.now() - data.since)} old` : "Waiting for an answer");
      box.title = data.reason;
    } else text(box, words[data.status] || "");
  };

  const KINDS = { kpi, freshness: kpi, table: list, multiples, dead_letters: dead, bar: chart, line: chart, histogram: chart };

  const show = (card, data, send) => {
    if (card.dataset.kind === "summary") { summary(card, data); return; }
    card.dataset.status = data.status;
    const drawn = Object.keys(data).length > 2 || data.summary;
    if (drawn) KINDS[card.dataset.kind]?.(card, data, send);
    twin(card, data);
    note(card, data);
  };

  const overview = (box, data) => {
    const rows = (title, items, line) => items.length ? el("div", { class: "part" }, el("h3", {}, title), el("ul", {}, items.map(line))) : null;
    fill(box,
      data.dashboards.length ? el("section", { class: "card wide" }, el("header", {}, el("div", {}, el("h2", {}, "Dashboards"))),
        el("ul", { class: "boards" }, data.dashboards.map((one) => el("li", {}, el("a", { href: `/d/${one.path}` }, one.title), el("p", {}, one.description))))) : null,
      data.pipelines.map((one) => el("section", { class: "card wide", "data-state": one.state },
        el("header", {}, el("div", {}, el("h2", {}, one.title), one.description ? el("p", {}, one.description) : null)),
        one.note ? el("p", { class: "trouble" }, one.note) : null,
        one.tables.length ? tables(one.tables) : null,
        el("div", { class: "parts" },
          rows("Sources", one.sources, (of) => el("li", { "data-state": of.state }, el("b", {}, of.name), ` ${of.state} · ${of.rate}`, of.note ? el("small", {}, of.note) : null)),
          rows("Transforms", one.transforms, (of) => el("li", { "data-state": of.state }, el("b", {}, of.name), ` ${of.state}`, of.note ? el("small", {}, of.note) : null))))),
      !data.pipelines.length && !data.dashboards.length ? el("p", { class: "nothing" }, "Nothing runs here yet. Apply a pipeline: millrace apply FILE") : null);
  };

  const tables = (items) => {
    const columns = ["Table", "Version", "Rows", "Dead letters", "Event time, UTC", "Last commit"].map((label, i) => ({ label, num: i > 0 }));
    const made = table(columns, items.map((one) => [one.name, one.version, one.rows, one.dead, one.event_time, ""]), "Tables");
    [...made.tBodies[0].rows].forEach((row, i) => { if (items[i].commit_ms) row.cells[5].dataset.since = items[i].commit_ms; });
    return made;
  };

  return { show, twin, overview, triangle };
})();
