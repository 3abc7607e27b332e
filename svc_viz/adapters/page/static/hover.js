// Tooltips drawn by us: they follow live data under a pointer that rests, which Bokeh's do not. One cursor over all time charts.
Millrace.hover = (() => {
  const { el, fill } = Millrace;
  let tip, where = null;
  const charts = new Map();  // element -> {card, view, data}

  const find = (tips, at) => {
    let low = 0, high = tips.left.length - 1;
    while (low <= high) {
      const mid = (low + high) >> 1;
      if (at < tips.left[mid]) high = mid - 1;
      else if (at >= tips.right[mid]) low = mid + 1;
      else return mid;
    }
    return -1;
  };

  const place = (x, y) => {
    const box = tip.getBoundingClientRect();
    const left = x + 14 + box.width > innerWidth - 8 ? x - 14 - box.width : x + 14;
    tip.style.transform = `translate(${Math.max(8, Math.round(left))}px, ${Math.max(8, Math.min(innerHeight - box.height - 8, Math.round(y - box.height / 2)))}px)`;
  };

  const rows = (data, at) => {
    const i = find(data.tips, at), b = data.band ? find(data.band, at) : -1;
    if (i < 0 && b < 0) return null;
    const found = [el("b", {}, i >= 0 ? data.tips.titles[i] : data.band.titles[b])];
    if (i >= 0) data.tips.series.forEach((one, k) => {
      if (data.tips.texts[i][k] !== "–") found.push(el("span", { class: "key", "data-state": one.state }, el("i", {}), one.label), el("strong", {}, data.tips.texts[i][k]));
    });
    for (const one of data.notes || []) if (i >= 0 && one.from < data.tips.right[i] && one.to >= data.tips.left[i]) found.push(el("span", {}, one.text));
    if (b >= 0) found.push(el("span", { class: "key", "data-state": "forecast" }, el("i", {}), data.band.label), el("strong", {}, data.band.texts[b]));
    return found;
  };

  const cursors = (chart, at) => {
    for (const [name, one] of charts) {
      const line = one.cursor;
      const same = chart && (name === where?.name || (chart.data?.time && one.data?.time));
      if (!same) { line.hidden = true; continue; }
      const frame = one.view.frame, sx = frame.x_scale.compute(at), { left, right, top, height } = frame.bbox;
      line.hidden = !(sx >= left && sx <= right);
      line.style.cssText = `left:${sx}px;top:${top}px;height:${height}px`;
    }
  };

  const show = () => {
    const chart = where && charts.get(where.name);
    if (!chart || !chart.data?.tips) { hide(); return; }
    const box = chart.plot.getBoundingClientRect(), frame = chart.view.frame;
    const sx = where.x - box.left, sy = where.y - box.top;
    if (sx < frame.bbox.left || sx > frame.bbox.right || sy < frame.bbox.top || sy > frame.bbox.bottom) { hide(); return; }
    const at = frame.x_scale.invert(sx);
    const found = rows(chart.data, at);
    cursors(chart, at);
    if (!found) { tip.hidden = true; return; }
    fill(tip, found);
    tip.hidden = false;
    place(where.x, where.y);
  };

  const hide = () => { tip.hidden = true; cursors(null, 0); };

  const watch = (name, card, view) => {
    const plot = card.querySelector(".plot");
    const cursor = el("div", { class: "cursor", hidden: true });
    plot.append(cursor);
    charts.set(name, { card, plot, view, cursor, data: null });
    plot.addEventListener("pointermove", (event) => { where = { name, x: event.clientX, y: event.clientY }; show(); });
    plot.addEventListener("pointerleave", () => { where = null; hide(); });
  };

  // The same by keys: arrows walk over the bars, shift spans several, Enter selects, the tooltip goes along.
  const keys = (name, plot, send, interval) => {
    let at = -1, from = -1;
    plot.tabIndex = 0;
    plot.addEventListener("keydown", (event) => {
      const chart = charts.get(name), tips = chart?.data?.tips;
      if (!tips || !tips.left.length) return;
      const step = { ArrowRight: 1, ArrowLeft: -1, Home: -Infinity, End: Infinity }[event.key];
      if (step !== undefined) {
        event.preventDefault();
        if (!event.shiftKey) from = -1;
        else if (from < 0) from = at < 0 ? 0 : at;
        at = Math.max(0, Math.min(tips.left.length - 1, (at < 0 ? (step > 0 ? -1 : tips.left.length) : at) + step));
        const frame = chart.view.frame, box = plot.getBoundingClientRect();
        where = { name, x: box.left + frame.x_scale.compute((tips.left[at] + tips.right[at]) / 2), y: box.top + frame.bbox.top + 20 };
        show();
        document.getElementById("say").textContent = [tips.titles[at], ...tips.series.map((one, k) => `${one.label} ${tips.texts[at][k]}`)].join(", ");
      }
      if ((event.key === "Enter" || event.key === " ") && interval && at >= 0) {
        event.preventDefault();
        const [low, high] = from < 0 ? [at, at] : [Math.min(at, from), Math.max(at, from)];
        send({ do: "brush", id: name, low: tips.left[low], high: tips.right[high] });
      }
    });
    plot.addEventListener("blur", () => { where = null; hide(); });
  };

  // New data: what the tooltip says changes under a resting pointer.
  const update = (name, data) => {
    const chart = charts.get(name);
    if (!chart) return;
    chart.data = data;
    if (where) requestAnimationFrame(show);
  };

  const start = () => {
    tip = document.getElementById("tip");
    document.addEventListener("pointermove", (event) => {
      const bar = event.target.closest?.("[data-tip]");
      if (!bar) { if (!where) tip.hidden = true; return; }
      fill(tip, el("b", {}, bar.closest("figure")?.querySelector("figcaption")?.textContent || ""), el("span", {}, bar.dataset.tip));
      tip.hidden = false;
      place(event.clientX, event.clientY);
    });
    document.addEventListener("scroll", () => { where = null; hide(); }, { passive: true, capture: true });
  };

  return { start, watch, keys, update };
})();
