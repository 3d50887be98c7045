const data = JSON.parse(document.getElementById("data").textContent);
const [rows, columns] = data.grid, patches = rows * columns, prefix = data.prefix.length, count = patches + prefix;
const byId = (id) => document.getElementById(id);
const state = {
  image: 0, layer: data.blocks.length - 1, head: "mean", level: null, whole: false,
  token: prefix + Math.floor(rows / 2) * columns + Math.floor(columns / 2), // the query; prefix tokens come first
};
const heads = [...Array(data.heads).keys(), "mean", "rollout"];
const percent = (share) => `${(100 * share).toFixed(share < 0.1 ? 2 : 1)} %`;
const place = (token) => {
  const patch = token - prefix;
  return { row: Math.floor(patch / columns), column: patch % columns };
};
const withArticle = (name) => (/\d$/.test(name) ? name : `the ${name}`); // the class token, but register 1
const nameOf = (token) =>
  token < prefix ? withArticle(data.prefix[token]) : `row ${place(token).row + 1}, column ${place(token).column + 1}`;

// ---- Shares: 16 bits each, in steps of 1/65535 of the largest of their row.
const unpacked = new Map();
function bytes(text) {
  const raw = atob(text), filled = new Uint8Array(raw.length);
  for (let place = 0; place < raw.length; place++) filled[place] = raw.charCodeAt(place);
  return filled.buffer;
}
function stored(image) {
  if (!unpacked.has(image)) {
    const open = (packed) => ({
      steps: new Uint16Array(bytes(packed.steps)), largest: new Float32Array(bytes(packed.largest)),
    });
    unpacked.set(image, {
      attention: open(data.images[image].attention), rollout: open(data.images[image].rollout),
    });
  }
  return unpacked.get(image);
}
function addRow(sum, { steps, largest }, row, weight) {
  const unit = (largest[row] / 65535) * weight;
  for (let key = 0; key < count; key++) sum[key] += steps[row * count + key] * unit;
}
/** The shares that the query tokens give to all tokens, in one head, the mean of all, or the rollout. */
function shares(head, queries) {
  const { attention, rollout } = stored(state.image), sum = new Float64Array(count);
  for (const query of queries) {
    if (head === "rollout") addRow(sum, rollout, state.layer * count + query, 1 / queries.length);
    const used = head === "mean" ? heads.slice(0, data.heads) : head === "rollout" ? [] : [head];
    for (const each of used) {
      const row = (state.layer * data.heads + each) * count + query;
      addRow(sum, attention, row, 1 / (queries.length * used.length));
    }
  }
  return sum;
}
const largestPlace = (values, from = 0) => {
  let best = from;
  for (let key = from; key < values.length; key++) if (values[key] > values[best]) best = key;
  return best;
};

// ---- The query: a token, or all patches of its cell.
const cellSize = () => (state.level === null ? 1 : data.levels[state.level].size);
function box(token) {
  const size = state.whole ? cellSize() : 1, { row, column } = place(token);
  const top = Math.floor(row / size) * size, left = Math.floor(column / size) * size;
  return { top, left, height: Math.min(size, rows - top), width: Math.min(size, columns - left), size };
}
function queryTokens(token = state.token) {
  if (token < prefix) return [token];
  const { top, left, height, width } = box(token), found = [];
  for (let row = top; row < top + height; row++)
    for (let column = left; column < left + width; column++) found.push(prefix + row * columns + column);
  return found;
}
function queryName(token = state.token) {
  if (token < prefix) return nameOf(token);
  if (!state.whole || cellSize() === 1) return `the patch at ${nameOf(token)}`;
  const { top, left, size } = box(token), number = queryTokens(token).length;
  const where = `row ${top / size + 1}, column ${left / size + 1}`;
  const of = number === 1 ? "one patch" : `mean of its ${number} patches`;
  return `the cell at ${where} of level ${data.levels[state.level].index} (${of})`;
}

// ---- Drawing
const ramp = getComputedStyle(document.documentElement).getPropertyValue("--ramp").split(",")
  .map((hex) => [1, 3, 5].map((at) => parseInt(hex.trim().slice(at, at + 2), 16)));
function colour(share, largest) {
  const at = largest > 0 ? Math.min(1, share / largest) * (ramp.length - 1) : 0;
  const low = Math.min(Math.floor(at), ramp.length - 2);
  return ramp[low].map((part, index) => Math.round(part + (ramp[low + 1][index] - part) * (at - low)));
}
function paint(canvas, values, largest) {
  canvas.width = columns;
  canvas.height = rows;
  const context = canvas.getContext("2d"), pixels = context.createImageData(columns, rows);
  for (let patch = 0; patch < patches; patch++)
    pixels.data.set([...colour(values[prefix + patch], largest), 255], 4 * patch);
  context.putImageData(pixels, 0, 0);
}
const svg = (kind, attributes, stroke, width) => {
  const made = document.createElementNS("http://www.w3.org/2000/svg", kind);
  for (const [name, value] of Object.entries({ ...attributes, stroke, "stroke-width": width }))
    made.setAttribute(name, value);
  return made;
};
/** Lines in white on black: they are seen on any image. */
const outlined = (kind, attributes, width) => [
  svg(kind, attributes, "#000", width + 2), svg(kind, attributes, "#fff", width),
];
function drawLines(values) {
  const drawn = [], size = cellSize();
  if (state.level !== null) {
    let path = "";
    for (let row = size; row < rows; row += size) path += `M0 ${row}H${columns}`;
    for (let column = size; column < columns; column += size) path += `M${column} 0V${rows}`;
    drawn.push(...outlined("path", { d: `${path}M0 0H${columns}V${rows}H0Z` }, 1));
  }
  if (state.token >= prefix) {
    const { top, left, height, width } = box(state.token);
    drawn.push(...outlined("rect", { x: left, y: top, width, height }, 3));
  }
  const { row, column } = place(largestPlace(values, prefix));
  drawn.push(...outlined("circle", { cx: column + 0.5, cy: row + 0.5, r: 0.3 }, 1.5));
  byId("lines").replaceChildren(...drawn);
}
const headName = (head) => (typeof head === "number" ? `head ${head + 1}` : head);
function drawHeads(maps, scaleOf) {
  for (const [index, button] of [...byId("heads").children].entries()) {
    const head = heads[index], values = maps.get(head);
    paint(button.querySelector("canvas"), values, scaleOf(head));
    const most = values[largestPlace(values)];
    button.querySelector("small").textContent = percent(most);
    button.setAttribute("aria-label", `${headName(head)}, largest share ${percent(most)}`);
    button.setAttribute("aria-pressed", String(head === state.head));
  }
}
function drawTokens(values, largest) {
  for (const [token, button] of [...(byId("tokens")?.children ?? [])].entries()) {
    button.querySelector("i").style.background = `rgb(${colour(values[token], largest).join(" ")})`;
    button.querySelector("span").textContent = `${data.prefix[token]} ${percent(values[token])}`;
    button.setAttribute("aria-pressed", String(token === state.token));
  }
}
function labelPatches() {
  const cells = byId("patches").querySelectorAll("button");
  for (const [patch, cell] of cells.entries()) {
    const token = prefix + patch, chosen = token === state.token;
    cell.tabIndex = chosen || (state.token < prefix && patch === 0) ? 0 : -1;
    cell.setAttribute("aria-selected", String(chosen));
    if (chosen || cell === document.activeElement) labelPatch(cell, token);
    else cell.setAttribute("aria-label", nameOf(token));
  }
}
function labelPatch(cell, token) {
  const values = shares(state.head, queryTokens(token)), most = largestPlace(values);
  const name = state.whole ? queryName(token) : nameOf(token);
  cell.setAttribute("aria-label", `${name}, attends most to ${nameOf(most)} (${percent(values[most])})`);
}

// ---- Words and numbers
function describe(values) {
  const own = queryTokens(), most = largestPlace(values), number = byId("strip").children[state.image];
  const itself = own.reduce((sum, token) => sum + values[token], 0);
  let bits = 0;
  for (const share of values) if (share > 0) bits -= share * Math.log2(share);
  const head = { mean: "mean of all heads", rollout: "rollout up to here" }[state.head] ?? headName(state.head);
  const target = own.length === 1 && most === own[0] ? "itself" : nameOf(most);
  const placeless = prefix && state.token >= prefix ? `, ${percent(values[0])} on ${nameOf(0)}` : "";
  return `Block ${data.blocks[state.layer]}, ${head}. In ${number.querySelector("img").alt.toLowerCase().split(",")[0]} ` +
    `(${number.querySelector("span").textContent}), ${queryName()} attends most to ${target}: ${percent(values[most])}` +
    ` (all alike: ${percent(1 / count)}). ${percent(itself)} on itself${placeless}; ` +
    `entropy ${bits.toFixed(2)} of ${Math.log2(count).toFixed(2)} bits.`;
}
function fillTable(values) {
  if (!byId("numbers").open) return;
  const table = document.createElement("table"), body = table.createTBody();
  table.createCaption().textContent = `Shares in per cent. ${byId("said").textContent}`;
  const heading = (line, text, scope) => {
    const cell = line.appendChild(document.createElement("th"));
    cell.textContent = text;
    cell.scope = scope;
  };
  const number = (line, token) => {
    const cell = line.insertCell();
    cell.textContent = (100 * values[token]).toFixed(2);
    cell.dataset.token = token;
    cell.dataset.share = values[token];
  };
  for (let token = 0; token < prefix; token++) {
    const line = body.insertRow();
    heading(line, data.prefix[token], "row");
    number(line, token);
  }
  const line = body.insertRow();
  heading(line, "row \\ column", "col");
  for (let column = 0; column < columns; column++) heading(line, column + 1, "col");
  for (let row = 0; row < rows; row++) {
    const line = body.insertRow();
    heading(line, row + 1, "row");
    for (let column = 0; column < columns; column++) number(line, prefix + row * columns + column);
  }
  byId("numbers").querySelector(".scroll").replaceChildren(table);
}
let shown = null;
function show() {
  const queries = queryTokens(), maps = new Map(heads.map((head) => [head, shares(head, queries)]));
  const top = (head) => maps.get(head)[largestPlace(maps.get(head), prefix)];
  const common = Math.max(...heads.slice(0, data.heads).map(top));
  const scaleOf = (head) => (byId("same").checked && head !== "rollout" ? common : top(head));
  shown = maps.get(state.head);
  paint(byId("heat"), shown, scaleOf(state.head));
  drawLines(shown);
  drawHeads(maps, scaleOf);
  drawTokens(shown, scaleOf(state.head));
  labelPatches();
  byId("brightest").textContent = `${percent(scaleOf(state.head))} of the attention on one patch`;
  byId("block").textContent = data.blocks[state.layer];
  byId("layer").setAttribute("aria-valuetext", `block ${data.blocks[state.layer]}`);
  byId("said").textContent = describe(shown);
  fillTable(shown);
}
function showImage(image) {
  state.image = image;
  for (const [index, button] of [...byId("strip").children].entries())
    button.setAttribute("aria-pressed", String(index === image));
  const small = byId("strip").children[image].querySelector("img"), photo = byId("photo");
  photo.src = small.src;
  byId("which").textContent = small.alt;
  photo.alt = `${small.alt}, as the encoder sees it`;
  photo.className = data.image_size > 128 ? "fine" : ""; // a few large pixels are clearer than a blur
  show();
}

// ---- Controls
function button(parent, inside, pressed) {
  const made = parent.appendChild(document.createElement("button"));
  made.type = "button";
  made.append(...inside);
  made.addEventListener("click", pressed);
  return made;
}
const element = (kind, text = "") => Object.assign(document.createElement(kind), { textContent: text });
function build() {
  for (const head of heads)
    button(byId("heads"), [element("canvas"), element("span", headName(head)), element("small")], () => {
      state.head = head;
      show();
    });
  for (let token = 0; token < prefix; token++)
    button(byId("tokens"), [element("i"), " ", element("span")], () => {
      state.token = token;
      show();
    });
  const grid = byId("patches");
  grid.style.gridTemplate = `repeat(${rows}, 1fr) / repeat(${columns}, 1fr)`;
  for (let row = 0; row < rows; row++) {
    const line = grid.appendChild(element("div"));
    line.setAttribute("role", "row");
    for (let column = 0; column < columns; column++) {
      const token = prefix + row * columns + column;
      const cell = button(line, [], () => choose(token));
      cell.setAttribute("role", "gridcell");
      cell.dataset.token = token;
    }
  }
  for (const [index, each] of [...byId("strip").children].entries())
    each.addEventListener("click", () => showImage(index));
}
function choose(token) {
  state.token = token;
  show();
  byId("patches").querySelector(`[data-token="${token}"]`).focus();
}
function move(event) {
  const from = event.target.dataset?.token;
  if (from === undefined) return;
  const step = state.whole ? cellSize() : 1, { top, left } = box(Number(from));
  const limit = (value, size) => Math.max(0, Math.min(value, Math.floor((size - 1) / step) * step));
  const to = {
    ArrowUp: [top - step, left], ArrowDown: [top + step, left],
    ArrowLeft: [top, left - step], ArrowRight: [top, left + step],
    Home: [event.ctrlKey ? 0 : top, 0], End: [event.ctrlKey ? rows : top, columns],
  }[event.key];
  if (!to) return;
  event.preventDefault();
  choose(prefix + limit(to[0], rows) * columns + limit(to[1], columns));
}
function listen() {
  byId("patches").addEventListener("keydown", move);
  byId("patches").addEventListener("mouseover", ({ target }) => {
    if (target.dataset?.token === undefined) return;
    byId("pointed").textContent = `Under the pointer: ${nameOf(Number(target.dataset.token))} gets ` +
      `${percent(shown[target.dataset.token])}.`;
  });
  byId("layer").addEventListener("input", ({ target }) => {
    state.layer = Number(target.value);
    show();
  });
  byId("same").addEventListener("change", show);
  byId("numbers").addEventListener("toggle", () => fillTable(shown));
  const blend = () => {
    byId("heat").style.opacity = byId("opacity").value / 100;
    byId("opaque").textContent = `${byId("opacity").value} %`;
  };
  byId("opacity").addEventListener("input", blend);
  blend();
  byId("levels")?.addEventListener("change", () => {
    const chosen = document.querySelector("[name=level]:checked").value;
    state.level = chosen === "" ? null : Number(chosen);
    byId("whole").disabled = state.level === null;
    state.whole = state.level !== null && byId("whole").checked;
    byId("patches").classList.toggle("whole", state.whole);
    show();
  });
}
build();
listen();
showImage(0);
