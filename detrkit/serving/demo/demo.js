// One page: sends a picture to /detect once, then filters and draws what came back by itself.
"use strict";

const byId = (id) => document.getElementById(id);
const [canvas, legend, rows, slider, stage, status] =
  ["canvas", "legend", "rows", "threshold", "stage", "status"].map(byId);

const LOWEST = Number(slider.min); // of what is asked for: the slider does the rest
const MOST = 300;

let colors = new Map(); // class name -> "#rrggbb"
let token = "";
let current = null; // {bitmap or null, answer}
let sending = new AbortController();
const hidden = new Set(); // names of classes

async function ask(path, options = {}) {
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  const response = await fetch(path, { ...options, headers: { ...headers, ...options.headers } });
  const answer = await response.json().catch(() => ({ detail: response.statusText }));
  if (response.status === 401) byId("key").hidden = false;
  if (!response.ok) throw new Error([answer.detail, answer.hint].filter(Boolean).join(" – "));
  return answer;
}

function say(text, bad = false) {
  status.textContent = text;
  status.classList.toggle("bad", bad);
}

async function begin() {
  try {
    const info = await ask("/info");
    byId("key").hidden = true;
    byId("api").hidden = Boolean(token); // a link cannot bring it
    const [height, width] = info.image_spec.size;
    byId("model").textContent =
      `${info.model}, ${count(info.classes.length, "class", "classes")}, input ${height} × ${width}, on ${info.device}`;
    colors = new Map(info.classes.map((one) => [one.name, one.color]));
    slider.value = info.conf;
    say("");
    show();
  } catch (error) {
    say(error.message, true);
  }
}

async function detect(file) {
  sending.abort(); // the latest picture counts
  sending = new AbortController();
  const { signal } = sending;
  say(`Looking at ${file.name || "the picture"} …`);
  const started = performance.now();
  try {
    // The service turns pictures as their EXIF data says; so does the browser.
    const picture = createImageBitmap(file).catch(() => null);
    const answer = await ask(`/detect?conf=${LOWEST}&max_det=${MOST}`, {
      method: "POST",
      body: file,
      headers: { "Content-Type": file.type.startsWith("image/") ? file.type : "application/octet-stream" },
      signal,
    });
    const bitmap = await picture;
    if (signal.aborted) return;
    current = { bitmap, answer };
    hidden.clear();
    stage.classList.add("full");
    byId("found").hidden = false;
    const took = `${Math.round(performance.now() - started)} ms`;
    say(bitmap ? took : `${took}. This browser cannot show the picture, only its boxes.`);
    show();
  } catch (error) {
    if (!signal.aborted) say(error.message, true);
  }
}

function count(number, one, many) {
  return `${number} ${number === 1 ? one : many}`;
}

function show() {
  const lowest = Number(slider.value);
  byId("shown").textContent = lowest.toFixed(2);
  slider.setAttribute("aria-valuetext", lowest.toFixed(2));
  if (!current) return;
  const found = current.answer.detections.filter((one) => one.score >= lowest);
  const counts = new Map();
  for (const { label } of found) counts.set(label, (counts.get(label) || 0) + 1);
  const shown = found.filter((one) => !hidden.has(one.label));
  showLegend(counts);
  draw(shown);
  list(shown);
  const words = [...counts].filter(([name]) => !hidden.has(name)).map(([name, n]) => `${n} ${name}`);
  canvas.setAttribute("aria-label", `${count(shown.length, "object", "objects")}: ${words.join(", ") || "none"}`);
}

function showLegend(counts) {
  const focused = document.activeElement?.dataset?.name;
  const items = [...counts].sort((a, b) => b[1] - a[1]).map(([name, number]) => {
    const item = document.createElement("li");
    const button = document.createElement("button");
    button.type = "button";
    button.dataset.name = name;
    button.setAttribute("aria-pressed", String(!hidden.has(name)));
    const small = document.createElement("small");
    small.textContent = number;
    button.append(swatch(name), name, small);
    button.addEventListener("click", () => {
      if (!hidden.delete(name)) hidden.add(name);
      show();
    });
    item.append(button);
    return item;
  });
  if (!items.length) {
    const nothing = document.createElement("li");
    nothing.className = "none";
    nothing.textContent = "Nothing scores so high.";
    items.push(nothing);
  }
  legend.replaceChildren(...items);
  if (focused !== undefined) {
    [...legend.querySelectorAll("button")].find((one) => one.dataset.name === focused)?.focus();
  }
}

function swatch(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  const square = document.createElementNS("http://www.w3.org/2000/svg", "rect");
  svg.setAttribute("viewBox", "0 0 10 10");
  svg.setAttribute("aria-hidden", "true");
  for (const [key, value] of Object.entries({ width: 10, height: 10, rx: 2, fill: color(name) })) {
    square.setAttribute(key, value);
  }
  svg.append(square);
  return svg;
}

function color(name) {
  return colors.get(name) || "#2f6fd6";
}

function draw(shown) {
  const { bitmap, answer } = current;
  canvas.width = bitmap ? bitmap.width : answer.width;
  canvas.height = bitmap ? bitmap.height : answer.height;
  canvas.hidden = false;
  const pen = canvas.getContext("2d");
  if (bitmap) pen.drawImage(bitmap, 0, 0);
  // A line of two pixels on the screen, whatever the size of the picture.
  const scale = Math.max(canvas.width / (canvas.clientWidth || canvas.width), 0.2);
  pen.lineWidth = 2 * scale;
  pen.font = `600 ${13 * scale}px system-ui, sans-serif`;
  pen.textBaseline = "top";
  const upwards = [...shown].reverse(); // best scores on top
  for (const one of upwards) {
    const [x1, y1, x2, y2] = one.box_xyxy;
    pen.strokeStyle = color(one.label);
    pen.strokeRect(x1, y1, x2 - x1, y2 - y1);
  }
  for (const one of upwards) {
    const [x1, y1] = one.box_xyxy;
    const text = `${one.label} ${one.score.toFixed(2)}`;
    const [width, height] = [pen.measureText(text).width + 8 * scale, 18 * scale];
    const left = Math.max(Math.min(x1, canvas.width - width), 0);
    const top = y1 - height >= 0 ? y1 - height : Math.max(y1, 0);
    pen.fillStyle = color(one.label);
    pen.fillRect(left, top, width, height);
    pen.fillStyle = isLight(color(one.label)) ? "#000" : "#fff";
    pen.fillText(text, left + 4 * scale, top + 3 * scale);
  }
}

function isLight(hex) {
  const [red, green, blue] = [1, 3, 5].map((at) => parseInt(hex.slice(at, at + 2), 16));
  return 0.299 * red + 0.587 * green + 0.114 * blue > 140;
}

function list(shown) {
  rows.replaceChildren(
    ...shown.map((one) => {
      const [x1, y1, x2, y2] = one.box_xyxy;
      const row = document.createElement("tr");
      const box = [x1, y1, x2 - x1, y2 - y1].map(Math.round).join(", ");
      for (const text of [one.label, one.score.toFixed(2), box]) {
        row.insertCell().textContent = text;
      }
      return row;
    }),
  );
}

function first(files) {
  if (files.length) detect(files[0]);
}

slider.addEventListener("input", show);
addEventListener("resize", show);
byId("file").addEventListener("change", (event) => {
  first([...event.target.files]);
  event.target.value = ""; // the same file may be chosen again
});
addEventListener("paste", (event) => first([...event.clipboardData.files]));
addEventListener("dragover", (event) => {
  event.preventDefault();
  stage.classList.add("over");
});
addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) stage.classList.remove("over");
});
addEventListener("drop", (event) => {
  event.preventDefault();
  stage.classList.remove("over");
  first([...event.dataTransfer.files]);
});
byId("key").addEventListener("submit", (event) => {
  event.preventDefault();
  token = byId("token").value.trim();
  begin();
});

begin();
