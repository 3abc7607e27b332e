// Before the first paint: the theme of the link, else the one chosen before, else the system's.
(() => {
  const root = document.documentElement;
  const chosen = root.dataset.theme || (() => { try { return localStorage.getItem("millrace-theme"); } catch { return null; } })();
  root.dataset.theme = chosen === "dark" || chosen === "light" ? chosen : matchMedia("(prefers-color-scheme: light)").matches ? "light" : "dark";
})();
