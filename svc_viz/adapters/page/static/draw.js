// Elements and marks as text and SVG. Text from data only ever goes through `textContent`.
window.Millrace = (() => {
  const SVG = "http://www.w3.org/2000/svg";
  const add = (parent, child) => {
    if (child == null || child === false) return;
    parent.append(child instanceof Node ? child : document.createTextNode(String(child)));
  };
  const el = (name, props = {}, ...children) => {
    const made = document.createElement(name);
    for (const [key, value] of Object.entries(props)) {
      if (key.startsWith("aria-") && value != null) { made.setAttribute(key, String(value)); continue; }
      if (value == null || value === false) continue;
      if (key === "class") made.className = value;
      else if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
      else made.setAttribute(key, value === true ? "" : String(value));
    }
    for (const child of children.flat()) add(made, child);
    return made;
  };
  const svg = (name, props = {}, ...children) => {
    const made = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(props)) if (value != null) made.setAttribute(key, String(value));
    for (const child of children.flat()) add(made, child);
    return made;
  };
  // Replaces what an element holds only when it differs, so that nothing that stays loses focus or hover.
  const fill = (parent, ...children) => parent.replaceChildren(...children.flat().filter((child) => child != null && child !== false));
  const text = (parent, value) => { if (parent.textContent !== value) parent.textContent = value; };
  const parse = (value) => { try { return value ? JSON.parse(value) : null; } catch { return null; } };
  const ago = (ms) => {
    const s = Math.max(0, Math.round(ms / 1000));
    return s < 60 ? `${s} s` : s < 3600 ? `${Math.floor(s / 60)} min ${s % 60} s` : `${Math.floor(s / 3600)} h ${Math.floor((s % 3600) / 60)} min`;
  };

  // A sparkline: nulls are gaps.
  const spark = (points, width = 96, height = 30) => {
    const step = points.length > 1 ? (width - 6) / (points.length - 1) : 0;
    const at = (value, i) => `${(2 + i * step).toFixed(1)} ${(height - 3 - value * (height - 6)).toFixed(1)}`;
    let path = "", pen = false, last = -1;
    points.forEach((value, i) => {
      if (value == null) { pen = false; return; }
      path += `${pen ? "L" : "M"}${at(value, i)}`;
      pen = true;
      last = i;
    });
    const end = last >= 0 ? at(points[last], last).split(" ") : null;
    return svg("svg", { class: "spark", viewBox: `0 0 ${width} ${height}`, "aria-hidden": "true", preserveAspectRatio: "none" },
      svg("path", { d: path, fill: "none", "vector-effect": "non-scaling-stroke" }),
      end && svg("circle", { cx: end[0], cy: end[1], r: 2.2 }));
  };

  const table = (columns, rows, label) => el("table", { "aria-label": label },
    el("thead", {}, el("tr", {}, columns.map((one) => el("th", { scope: "col", class: one.num ? "num" : "" }, one.label)))),
    el("tbody", {}, rows.map((row) => el("tr", {}, row.map((cell, i) =>
      i === 0 ? el("th", { scope: "row", class: columns[i].num ? "num" : "" }, cell) : el("td", { class: columns[i].num ? "num" : "" }, cell))))));

  document.addEventListener("click", (event) => {
    if (!event.target.closest("[data-act=theme]")) return;
    const root = document.documentElement;
    root.dataset.theme = root.dataset.theme === "dark" ? "light" : "dark";
    try { localStorage.setItem("millrace-theme", root.dataset.theme); } catch { /* a private window keeps nothing */ }
    document.dispatchEvent(new CustomEvent("millrace-theme"));
  });

  return { el, svg, fill, text, parse, ago, spark, table };
})();
