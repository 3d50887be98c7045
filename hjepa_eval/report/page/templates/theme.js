"use strict";
// Light or dark: the system's until the button is pressed; remembered where the browser keeps anything for files.
(() => {
  const root = document.documentElement;
  const button = document.getElementById("theme");
  const systemDark = matchMedia("(prefers-color-scheme: dark)");
  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : systemDark.matches);
  const remember = (value) => {
    try {
      if (value === undefined) return localStorage.getItem("hjepa-theme");
      localStorage.setItem("hjepa-theme", value);
    } catch {
      // Some browsers give files no storage; the choice then lasts as long as the page.
    }
    return null;
  };
  const draw = () => {
    button.textContent = isDark() ? "Switch to light" : "Switch to dark";
  };
  const stored = remember();
  if (stored === "dark" || stored === "light") root.dataset.theme = stored;
  button.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    remember(root.dataset.theme);
    draw();
  });
  systemDark.addEventListener("change", draw);
  draw();
})();
