// Everything is in the page without this script, one part below the other; it only chooses what is shown.
(() => {
  const root = document.documentElement;
  const all = (selector, within = document) => [...within.querySelectorAll(selector)];
  const one = (selector) => document.querySelector(selector);
  const data = JSON.parse(one("#data").textContent);
  root.classList.add("js");

  // What is shown: the part and the level stand in the address, as #classes/2.
  const tabs = all("#tabs a");
  const parts = tabs.map((tab) => tab.hash.slice(1));
  const levels = all("#levels input").map((input) => input.value);
  const form = one("#controls");
  const state = { part: parts[0], level: "all", model: "0", probe: "0" };
  const usedBy = data.used_by;

  const list = one("#tabs");
  list.setAttribute("role", "tablist");
  for (const tab of tabs) {
    const panel = document.getElementById(tab.hash.slice(1));
    tab.setAttribute("role", "tab");
    tab.setAttribute("aria-controls", panel.id);
    panel.setAttribute("role", "tabpanel");
    panel.setAttribute("aria-labelledby", tab.id);
    panel.tabIndex = -1;
  }

  const draw = () => {
    for (const tab of tabs) {
      const chosen = tab.hash === `#${state.part}`;
      tab.setAttribute("aria-selected", String(chosen));
      tab.tabIndex = chosen ? 0 : -1;
      document.getElementById(tab.hash.slice(1)).classList.toggle("away", !chosen);
      if (chosen) list.scrollLeft = Math.max(0, tab.offsetLeft - list.offsetLeft - 40);
    }
    const named = { level: one("#levels"), model: one("#model-choice"), probe: one("#probe-choice") };
    let any = false;
    for (const [name, control] of Object.entries(named)) {
      if (!control) continue;
      const used = usedBy[name].includes(state.part);
      control.classList.toggle("away", !used);
      any = any || used;
    }
    form.classList.toggle("away", !any);
    for (const element of all("main [data-level], main [data-model], main [data-probe]")) {
      const { level, model, probe } = element.dataset;
      const fits =
        (level === undefined || state.level === "all" || level === state.level) &&
        (model === undefined || !named.model || model === state.model) &&
        (probe === undefined || !named.probe || probe === state.probe);
      element.classList.toggle("away", !fits);
    }
    // What is chosen may not be there; then a sentence says so.
    for (const say of all('main [data-when="no-block"]')) {
      say.classList.toggle("away", all(".block:not(.away)", say.closest(".part")).length > 0);
    }
    for (const say of all('main [data-when="no-level"]')) {
      say.classList.toggle("away", all("[data-level]:not(.away)", say.closest(".block")).length > 0);
    }
    for (const row of all("[data-mark]")) row.classList.toggle("marked", row.dataset.mark === state.level);
    hideTip();
    // The bar stays in view and covers what is scrolled to.
    root.style.scrollPaddingTop = `${one(".bar").offsetHeight + 12}px`;
  };

  // Back returns to the tab before; a level, a model or a probe is no place of its own.
  const address = () => `#${state.part}${state.level === "all" ? "" : `/${state.level}`}`;
  const go = (changes) => {
    const moved = changes.part !== undefined && changes.part !== state.part;
    Object.assign(state, changes);
    history[moved ? "pushState" : "replaceState"](null, "", address());
    draw();
  };
  const read = () => {
    const [part, level] = location.hash.slice(1).split("/");
    // An address of something else changes nothing; one without a part is that of the first.
    if (!part || parts.includes(part)) {
      state.part = part || parts[0];
      state.level = levels.includes(level) ? level : "all";
    }
    for (const input of all("#levels input")) input.checked = input.value === state.level;
    draw();
  };

  for (const [place, tab] of tabs.entries()) {
    tab.addEventListener("click", (event) => {
      event.preventDefault();
      go({ part: parts[place] });
      const top = one(".head").getBoundingClientRect().bottom + scrollY;
      if (scrollY > top) scrollTo(0, top);
    });
    tab.addEventListener("keydown", (event) => {
      const count = tabs.length;
      const next = { ArrowRight: place + 1, ArrowLeft: place - 1 + count, Home: 0, End: count - 1 }[event.key];
      if (event.key === " ") {
        event.preventDefault();
        tab.click();
      }
      if (next === undefined) return;
      event.preventDefault();
      go({ part: parts[next % count] });
      tabs[next % count].focus();
    });
  }
  form.addEventListener("change", (event) => go({ [event.target.name]: event.target.value }));
  form.addEventListener("submit", (event) => event.preventDefault());
  const toPart = () => document.getElementById(state.part).scrollIntoView();
  // Its own address, #main, is no tab's.
  one(".skip").addEventListener("click", (event) => {
    event.preventDefault();
    document.getElementById(state.part).focus({ preventScroll: true });
    toPart();
  });
  addEventListener("hashchange", () => {
    read();
    toPart();
  });

  // Two levels of a model, class by class: every model that has the pair follows.
  const drawPair = (select) => {
    for (const element of all("[data-pair]", select.closest(".block"))) {
      element.classList.toggle("away", element.dataset.pair !== select.value);
    }
  };
  const pairSelects = all('[data-choose="pair"]');
  for (const select of pairSelects) {
    select.addEventListener("change", () => {
      for (const other of pairSelects) {
        if ([...other.options].some((option) => option.value === select.value)) other.value = select.value;
        drawPair(other);
      }
    });
    drawPair(select);
  }

  // Maps: the image under the pointer or the focus, and where the other levels put it.
  const tip = one("#tip");
  const said = one("#said");
  const maps = all(".map").map((element) => {
    const points = all(`#${element.dataset.points} [data-point]`);
    return { element, model: element.dataset.of, points, at: -1 };
  });
  function hideTip() {
    tip.hidden = true;
    for (const lit of all(".map .lit")) lit.classList.remove("lit");
  }
  const centre = (point) => {
    const box = point.getBoundingClientRect();
    return [box.left + box.width / 2, box.top + box.height / 2];
  };
  const showPoint = (map, place, speak) => {
    hideTip();
    map.at = place;
    const about = data.points[map.model];
    for (const other of maps) {
      if (other.model === map.model && other.points[place]) other.points[place].classList.add("lit");
    }
    const text = `${data.classes[about.label[place]]}, test image ${about.place[place]}`;
    tip.querySelector(".text").textContent = text;
    const thumb = about.thumb[place];
    tip.firstElementChild.hidden = false;
    tip.firstElementChild.className = `thumb large ${thumb || "none"}`;
    tip.hidden = false;
    const [x, y] = centre(map.points[place]);
    const size = tip.getBoundingClientRect();
    const left = Math.min(Math.max(8, x + 14), root.clientWidth - size.width - 8);
    const top = y + 14 + size.height > innerHeight ? y - 14 - size.height : y + 14;
    tip.style.transform = `translate(${left}px, ${Math.max(8, top)}px)`;
    if (speak) said.textContent = text;
  };
  const shown = (map) => map.points.map((point, place) => [point, place]).filter(([point]) => !point.classList.contains("dim"));
  const nearest = (map, x, y, reach) => {
    let found = -1;
    let best = reach * reach;
    for (const [point, place] of shown(map)) {
      const [px, py] = centre(point);
      const distance = (px - x) ** 2 + (py - y) ** 2;
      if (distance < best) [best, found] = [distance, place];
    }
    return found;
  };
  const step = (map, dx, dy) => {
    if (map.at < 0 || map.points[map.at].classList.contains("dim")) {
      const first = shown(map)[0];
      return first ? first[1] : -1;
    }
    const [x, y] = centre(map.points[map.at]);
    let found = map.at;
    let best = Infinity;
    for (const [point, place] of shown(map)) {
      const [px, py] = centre(point);
      const along = (px - x) * dx + (py - y) * dy;
      const across = Math.abs((px - x) * dy) + Math.abs((py - y) * dx);
      if (place !== map.at && along > 0.01 && across <= along && along + across < best) [best, found] = [along + across, place];
    }
    return found;
  };
  for (const map of maps) {
    const point = (event) => {
      const place = nearest(map, event.clientX, event.clientY, event.pointerType === "mouse" ? 12 : 24);
      if (place >= 0) showPoint(map, place, false);
      else hideTip();
    };
    map.element.addEventListener("pointermove", point);
    map.element.addEventListener("pointerdown", point);
    map.element.addEventListener("pointerleave", (event) => {
      if (event.pointerType === "mouse") hideTip();
    });
    map.element.addEventListener("blur", hideTip);
    map.element.addEventListener("keydown", (event) => {
      const move = { ArrowRight: [1, 0], ArrowLeft: [-1, 0], ArrowDown: [0, 1], ArrowUp: [0, -1] }[event.key];
      if (event.key === "Escape") hideTip();
      if (!move) return;
      event.preventDefault();
      const place = step(map, ...move);
      if (place >= 0) showPoint(map, place, true);
    });
  }
  // Heat-maps: what a cell is made of, under the pointer or the focus; the arrow keys go from cell to cell.
  const showAbout = (cell) => {
    hideTip();
    tip.querySelector(".text").textContent = cell.dataset.about;
    tip.firstElementChild.hidden = true;
    tip.hidden = false;
    const box = cell.getBoundingClientRect();
    const size = tip.getBoundingClientRect();
    const left = Math.min(Math.max(8, box.left), root.clientWidth - size.width - 8);
    const top = box.bottom + 6 + size.height > innerHeight ? box.top - 6 - size.height : box.bottom + 6;
    tip.style.transform = `translate(${left}px, ${Math.max(8, top)}px)`;
  };
  for (const heat of all(".heat")) {
    const rows = all("tbody tr", heat).map((row) => all("[data-about]", row)).filter((row) => row.length);
    for (const cell of rows.flat()) {
      cell.tabIndex = cell === rows[0][0] ? 0 : -1;
      cell.addEventListener("pointerenter", () => showAbout(cell));
      cell.addEventListener("pointerleave", hideTip);
      cell.addEventListener("blur", hideTip);
      cell.addEventListener("focus", () => {
        for (const other of rows.flat()) other.tabIndex = other === cell ? 0 : -1;
        showAbout(cell);
        said.textContent = cell.dataset.about;
      });
    }
    heat.addEventListener("keydown", (event) => {
      const move = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0] }[event.key];
      if (event.key === "Escape") hideTip();
      const down = rows.findIndex((row) => row.includes(event.target));
      if (!move || down < 0) return;
      event.preventDefault();
      const row = rows[Math.min(Math.max(0, down + move[0]), rows.length - 1)];
      row[Math.min(Math.max(0, rows[down].indexOf(event.target) + move[1]), row.length - 1)].focus();
    });
  }
  addEventListener(
    "scroll",
    () => {
      // Moving the focus scrolls, too: what is said of its cell goes along.
      const cell = document.activeElement;
      if (cell?.dataset.about && !tip.hidden) showAbout(cell);
      else hideTip();
    },
    { passive: true },
  );

  // The legend filters: nothing pressed shows every class.
  for (const legend of all(".legend.classes")) {
    const block = legend.closest(".block");
    legend.addEventListener("click", (event) => {
      const button = event.target.closest("button");
      if (!button) return;
      button.setAttribute("aria-pressed", String(button.getAttribute("aria-pressed") !== "true"));
      const wanted = new Set(all('[aria-pressed="true"]', legend).map((each) => Number(each.dataset.class)));
      const labels = data.points[block.dataset.model].label;
      for (const map of maps.filter((each) => each.model === block.dataset.model)) {
        map.points.forEach((each, place) => each.classList.toggle("dim", wanted.size > 0 && !wanted.has(labels[place])));
      }
    });
  }

  // The clipboard needs no network, but some browsers give files none: then the text is selected to be copied by hand.
  for (const button of all(".copy")) {
    const text = document.getElementById(button.dataset.copy);
    button.addEventListener("click", async () => {
      const range = document.createRange();
      range.selectNodeContents(text);
      getSelection().removeAllRanges();
      getSelection().addRange(range);
      let copied = false;
      try {
        await navigator.clipboard.writeText(text.textContent);
        copied = true;
      } catch {
        copied = document.execCommand("copy");
      }
      button.textContent = copied ? "Copied" : "Selected";
      said.textContent = copied ? "The command is copied." : "The command is selected.";
      setTimeout(() => (button.textContent = "Copy"), 2000);
    });
  }

  read();
  if (location.hash) toPart();
})();
