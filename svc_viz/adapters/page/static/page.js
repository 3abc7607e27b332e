// Starts the page: takes the session, listens to its models, sends what the reader does.
(() => {
  const { el, fill, text, parse, ago, cards, hover } = Millrace;
  const config = JSON.parse(document.body.dataset.config);
  const instance = document.body.dataset.instance;
  const $ = (id) => document.getElementById(id);
  let wire = null, head = {}, number = 0, lost = 0, latency = [], panels = new Map(), figures = new Map();

  const send = (command) => { if (wire) wire.command = JSON.stringify({ ...command, n: ++number }); };

  // -- colours ---------------------------------------------------------------------------------------------------------
  const paint = () => {
    const style = getComputedStyle(document.documentElement);
    const color = (name) => style.getPropertyValue(`--${name}`).trim();
    for (const { model } of figures.values()) {
      for (const renderer of model.renderers) {
        const glyph = renderer.glyph, state = glyph?.tags?.[0];
        if (!state) continue;
        const value = color(`state-${state}`);
        const wanted = glyph.fill_color === undefined ? { line_color: value } : state === "note" ? { fill_color: value, line_color: value } : { fill_color: value };
        glyph.setv(wanted, { sync: false });
      }
      for (const overlay of [model.center, model.renderers].flat().filter((one) => one?.type === "BoxAnnotation").concat(model.toolbar.tools.map((one) => one.overlay).filter(Boolean)))
        overlay.setv({ fill_color: color("accent"), fill_alpha: 0.12, line_color: color("accent"), line_alpha: 0.9, line_width: 1 }, { sync: false });
    }
    for (const { view } of figures.values()) view.request_repaint ? view.request_repaint() : view.request_paint("everything");
  };
  document.addEventListener("millrace-theme", () => { paint(); address(); });

  // -- the head ---------------------------------------------------------------------------------------------------------
  const address = () => {
    const theme = document.documentElement.dataset.theme;
    const rest = (head.query || "").split("&").filter((one) => one && !one.startsWith("theme="));
    const query = [...rest, `theme=${theme}`].join("&");
    history.replaceState(null, "", `${config.path || location.pathname}?${query}`);
    for (const link of document.querySelectorAll("[data-act=csv]")) link.href = `${link.pathname}?${rest.join("&")}`;
  };

  const live = (data) => {
    const box = $("live");
    if (!box || !data) return;
    box.dataset.state = lost ? "off" : data.state;
    box.title = data.hint;
    text(box.children[1], lost ? "Disconnected" : data.word);
    text(box.children[2], data.text);
  };

  const banner = () => {
    const box = $("banner"), data = head.banner || {};
    const words = lost
      ? `The page's server does not answer since ${ago(Date.now() - lost)}. What you see is from before; it comes back by itself.`
      : data.text ? `${data.text}. Numbers stay as they were${data.since ? `, ${ago(Date.now() - data.since)} ago` : ""}; they go on by themselves.` : "";
    box.hidden = !words;
    document.body.classList.toggle("stale", Boolean(words));
    text(box, words);
  };

  const chips = (data) => {
    const box = $("chips");
    if (!box) return;
    const focus = box.contains(document.activeElement) ? document.activeElement.dataset.chip : null;
    const made = [
      ...(data.params || []).flatMap((param) => param.options.map((one) => el("button", {
        class: "chip", "data-chip": `${param.id}=${one.value}`, "aria-pressed": one.on, title: `${param.label}: ${one.label}`,
        onclick: () => {
          const on = param.options.filter((other) => other.on).map((other) => other.value);
          const values = one.on ? on.filter((value) => value !== one.value) : param.multiple ? [...on, one.value] : [one.value];
          send({ do: "param", id: param.id, values });
        } }, one.label))),
      ...(data.picks || []).map((pick) => el("button", {
        class: "chip on", "data-chip": pick.id, "aria-label": `${pick.label} ${pick.text}: remove this filter`, onclick: () => send({ do: "unpick", id: pick.id }),
      }, `${pick.label} `, el("b", {}, pick.text), el("span", { class: "x", "aria-hidden": "true" }, "×"))),
      data.clear ? el("button", { class: "linklike", "data-chip": "clear", onclick: () => send({ do: "clear" }) }, "Clear all") : null,
    ];
    fill(box, made);
    if (focus) [...box.querySelectorAll("[data-chip]")].find((one) => one.dataset.chip === focus)?.focus();
  };

  const strip = (data) => {
    const box = $("strip");
    if (!box || !data) return;
    if (box.children.length !== data.length) fill(box, data.map(() => el("li", {}, el("span", {}), el("b", {}))));
    data.forEach((stage, i) => {
      const item = box.children[i];
      item.title = stage.hint;
      item.dataset.state = stage.state || "";
      text(item.children[0], stage.name);
      text(item.children[1], stage.value);
    });
  };

  const freshness = (ms) => {
    for (const card of document.querySelectorAll("[data-kind=freshness]")) {
      latency = [...latency.slice(-39), ms];
      const top = Math.max(...latency, 1);
      cards.show(card, {
        status: "ok", value: ms < 10_000 ? String(Math.round(ms)) : (ms / 1000).toFixed(1), unit: ms < 10_000 ? "ms" : "s",
        against: "commit to pixel, this browser", spark: { points: latency.map((one) => one / top) }, summary: `Data age on screen: ${Math.round(ms)} milliseconds`,
      }, send);
    }
  };

  const onHead = () => {
    const before = head;
    head = parse(wire.head) || {};
    live(head.live);
    strip(head.strip);
    banner();
    if (JSON.stringify([before.params, before.picks, before.clear]) !== JSON.stringify([head.params, head.picks, head.clear])) chips(head);
    if (before.query !== head.query && head.query !== undefined) address();
    for (const choice of document.querySelectorAll("select[data-choice]")) {
      const value = head[choice.dataset.choice];
      if (value && choice.value !== value && document.activeElement !== choice) choice.value = value;
    }
    if (head.overview) cards.overview($("overview"), head.overview);
    ages();
  };

  // After the frame is on the screen: tell the server, which sends the next only then; and take the age of what is shown.
  let newest = 0;
  const onFrame = () => requestAnimationFrame(() => setTimeout(() => {
    wire.seen = wire.frame;
    if (head.commit && head.commit > newest) {
      if (newest) freshness(Math.max(0, Date.now() - head.commit));
      newest = head.commit;
    }
    document.documentElement.dataset.frame = wire.frame;
  }));

  const ages = () => {
    for (const cell of document.querySelectorAll("[data-since]")) text(cell, `${ago(Date.now() - Number(cell.dataset.since))} ago`);
    for (const [name, panel] of panels) if (panel.data?.status === "stale") cards.show(panel.card, panel.data, send);
    banner();
  };
  setInterval(ages, 1000);

  // -- cards --------------------------------------------------------------------------------------------------------------
  const onPanel = (name) => {
    const panel = panels.get(name), data = parse(panel.model.payload);
    if (!data) return;
    panel.data = data;
    cards.show(panel.card, data, send);
    hover.update(name, data);
  };

  document.addEventListener("click", (event) => {
    const button = event.target.closest("[data-act]");
    if (!button) return;
    const card = button.closest(".card"), name = card?.dataset.element;
    if (button.dataset.act === "twin") {
      const twin = card.querySelector(".twin"), on = twin.hidden;
      twin.hidden = !on;
      card.classList.toggle("tabled", on);
      button.setAttribute("aria-pressed", on);
      if (on) cards.twin(card, panels.get(name).data || {});
    }
    if (button.dataset.act === "reset") {
      button.hidden = true;
      send({ do: "unzoom", id: name });
    }
    if (button.dataset.act === "share") {
      const done = (words) => { text($("say"), words); button.title = words; button.classList.add("done"); setTimeout(() => button.classList.remove("done"), 1200); };
      navigator.clipboard?.writeText(location.href).then(() => done("Link copied"), () => done("Copy the address: it is this view"));
    }
  });
  document.addEventListener("change", (event) => {
    const choice = event.target.closest("select[data-choice]");
    if (choice) send({ do: choice.dataset.choice, value: choice.value });
  });
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && head.clear && !event.target.closest("select, input")) send({ do: "clear" });
  });
  document.addEventListener("visibilitychange", () => send({ do: "visible", value: !document.hidden }));

  // The reader's own zoom: the server makes its ticks, live data leave it alone.
  const watchZoom = (name, model, card) => {
    let timer = 0, own = false;
    const range = model.x_range, reset = card.querySelector("[data-act=reset]");
    const moved = () => {
      if (!own) return;
      clearTimeout(timer);
      timer = setTimeout(() => send({ do: "zoom", id: name, start: range.start, end: range.end }), 40);
      if (reset) reset.hidden = false;
    };
    const plot = card.querySelector(".plot");
    plot.addEventListener("pointerdown", () => { own = true; });
    plot.addEventListener("wheel", (event) => { own = event.ctrlKey; if (own) setTimeout(() => { own = false; }, 120); }, { passive: true });
    addEventListener("pointerup", () => setTimeout(() => { own = false; }, 120));
    plot.addEventListener("dblclick", () => { if (reset) reset.hidden = true; });
    range.properties.start.change.connect(moved);
    range.properties.end.change.connect(moved);
  };

  // -- the session ----------------------------------------------------------------------------------------------------------
  const start = async () => {
    hover.start();
    for (const card of document.querySelectorAll("[data-kind=freshness]")) cards.show(card, { status: "ok", value: "–", unit: "", against: "commit to pixel, this browser", summary: "Data age on screen" }, send);
    const places = Object.fromEntries(config.roots.map((id) => [id, "anchor"]));
    for (const [name, id] of Object.entries(config.figures)) {
      const plot = document.querySelector(`#card-${CSS.escape(name)} .plot`);
      plot.id = `plot-${name}`;
      places[id] = plot.id;
    }
    Bokeh.set_log_level("warn");
    const item = { token: config.token, root_ids: config.roots, roots: places };
    const [views] = await Bokeh.embed.embed_items({}, [item], "/b");
    if (!views) { fail(); return; }
    const doc = Bokeh.documents[Bokeh.documents.length - 1];
    for (const root of doc.roots()) {
      if (root.payload !== undefined) {
        const card = document.querySelector(`[data-element="${CSS.escape(root.element)}"]`);
        if (!card) continue;
        panels.set(root.element, { model: root, card, data: null });
        root.properties.payload.change.connect(() => onPanel(root.element));
      } else if (root.command !== undefined) wire = root;
      else {
        const card = $(`card-${root.name}`), view = views.get(root);
        figures.set(root.name, { model: root, view });
        for (const renderer of root.renderers) renderer.glyph?.properties.tags.change.connect(paint);
        hover.watch(root.name, card, view);
        hover.keys(root.name, card.querySelector(".plot"), send, root.toolbar.tools.some((one) => one.type === "BoxSelectTool"));
        if (card.querySelector("[data-act=reset]")) watchZoom(root.name, root, card);
      }
    }
    wire.properties.head.change.connect(onHead);
    wire.properties.frame.change.connect(onFrame);
    paint();
    for (const name of panels.keys()) onPanel(name);
    onHead();
    onFrame();
    if (document.hidden) send({ do: "visible", value: false });
    doc.on_event?.("connection_lost", fail);
    document.documentElement.dataset.ready = "yes";
  };

  // No answer: a banner at once, then look for the server with jitter; another instance of it means a new page.
  const fail = () => {
    if (lost) return;
    lost = Date.now();
    live(head.live || { state: "off", word: "Disconnected", text: "", hint: "" });
    banner();
    const look = async () => {
      try {
        const answer = await fetch("/health", { cache: "no-store", signal: AbortSignal.timeout(2000) });
        if (answer.ok) { location.reload(); return; }
      } catch { /* not there yet */ }
      setTimeout(look, 250 + Math.random() * 350);
    };
    setTimeout(look, 150 + Math.random() * 200);
  };

  // A server that hangs keeps its connection: ask now and then whether it is still the same one.
  let silent = 0;
  setInterval(async () => {
    if (lost || document.hidden) return;
    try {
      const answer = await fetch("/health", { cache: "no-store", signal: AbortSignal.timeout(3000) });
      silent = 0;
      if ((await answer.json()).instance !== instance) location.reload();
    } catch { if (++silent >= 2) fail(); }
  }, 5000);

  // BokehJS tells a lost connection only by its socket: watch every socket that it opens.
  const Plain = window.WebSocket;
  window.WebSocket = class extends Plain {
    constructor(...args) { super(...args); this.addEventListener("close", () => { if (!leaving) fail(); }); }
  };
  let leaving = false;
  addEventListener("beforeunload", () => { leaving = true; });
  addEventListener("pagehide", () => { leaving = true; });

  start().catch((error) => { console.error(error); fail(); });
})();
