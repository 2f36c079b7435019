// The page: what its reader gives and chooses, who computes it, and what is shown.
"use strict";

const LARGEST_VIEW = 4e6; // px that the network looks at, at most: what a telephone has the memory for
const LARGEST_TILE = 640 * 640; // px of the view that a worker takes at once, some 400 MB
const STRIP = 500000; // px of a photo, or of a drawing's finer grid, that are put together at once, but for margins
const WORKERS = Math.max(1, Math.floor(Math.min(4, navigator.hardwareConcurrency || 2, (navigator.deviceMemory || 8) / 2)));
const SUFFIXES = { "image/jpeg": "jpg", "image/webp": "webp" }; // of photos whose cartoons keep their format

const find = id => document.getElementById(id);
const filters = JSON.parse(find("filters").textContent); // style -> {radius, eps} of its guided filter

/** What is wrong, in a sentence for the reader. */
class Sentence extends Error {}
/** A job that is wanted no more. */
class Dropped extends Error {}

// --- what lies beside the page ---------------------------------------------------------------------------------------

const packs = new Map(); // name -> promise of its parts, by name, as bytes
const arriving = new Map(); // name -> what takes its parts as they are in the file
window.received = (name, parts) => arriving.get(name)(parts);

/** The parts of NAME.js, which is fetched once. */
function pack(name) {
  if (!packs.has(name)) {
    packs.set(name, new Promise((resolve, reject) => {
      const script = document.createElement("script");
      arriving.set(name, resolve);
      script.src = `${name}.js`;
      script.onload = () => script.remove();
      script.onerror = () => {
        packs.delete(name);
        reject(new Sentence(`${name}.js cannot be loaded: it belongs beside this page. Copy the whole folder, or try again.`));
      };
      document.head.append(script);
    }).then(async parts => {
      const opened = await Promise.all(Object.values(parts).map(opens));
      return Object.fromEntries(Object.keys(parts).map((part, i) => [part, opened[i]]));
    }));
  }
  return packs.get(name);
}

/** Bytes out of base64 of gzip. */
async function opens(text) {
  const letters = atob(text), bytes = new Uint8Array(letters.length);
  for (let i = 0; i < bytes.length; i++) bytes[i] = letters.charCodeAt(i);
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

// --- who computes ----------------------------------------------------------------------------------------------------

/** Workers that share jobs. With `gpu`, the first of them alone runs networks. */
class Crew {
  constructor(gpu) {
    this.gpu = gpu;
    this.jobs = [];
    const source = new Blob([find("worker").textContent], { type: "text/javascript" });
    this.address = URL.createObjectURL(source);
    this.members = Array.from({ length: WORKERS }, () => (
      { worker: new Worker(this.address), busy: false, knows: new Set() }
    ));
  }

  /** How many run networks. */
  get runners() {
    return this.gpu ? 1 : WORKERS;
  }

  /** What the worker's task of that name makes of what is given; networks: packs of those that it needs. */
  do(task, given, networks = []) {
    return new Promise((resolve, reject) => {
      this.jobs.push({ task, given, networks, resolve, reject });
      this.next();
    });
  }

  next() {
    this.members.forEach((member, number) => {
      const at = this.jobs.findIndex(job => !job.networks.length || number < this.runners);
      if (member.busy || at < 0) return;
      const [job] = this.jobs.splice(at, 1);
      member.busy = true;
      this.work(member, job).then(job.resolve, job.reject).finally(() => {
        member.busy = false;
        this.next();
      });
    });
  }

  async work(member, { task, given, networks }) {
    for (const name of networks) await this.teach(member, name);
    return this.send(member, task, given);
  }

  /** Give a worker ONNX Runtime and the networks of a pack, unless it has them. */
  async teach(member, name) {
    if (!member.knows.has("runtime")) {
      const { script, glue, binary } = await pack(this.gpu ? "webgpu" : "wasm"), text = new TextDecoder();
      const sources = { script: text.decode(script), glue: text.decode(glue) };
      await this.send(member, "runtime", { ...sources, binary: binary.slice().buffer, gpu: this.gpu });
      member.knows.add("runtime");
    }
    if (member.knows.has(name)) return;
    for (const [part, content] of Object.entries(await pack(name))) {
      const faces = name === "faces";
      await this.send(member, "network", { name: faces ? part : name, content, small: faces });
    }
    member.knows.add(name);
  }

  send({ worker }, task, given) {
    return new Promise((resolve, reject) => {
      worker.onmessage = ({ data }) => ("error" in data ? reject(new Error(data.error)) : resolve(data.result));
      worker.onerror = event => reject(new Error(event.message || "a worker ended"));
      worker.postMessage({ task, given });
    });
  }

  drop() {
    for (const job of this.jobs.splice(0)) job.reject(new Dropped());
  }

  dismiss() {
    this.drop();
    this.members.forEach(({ worker }) => worker.terminate());
    URL.revokeObjectURL(this.address);
  }
}

/** Whether networks run on the graphics card. ?gpu=never and ?gpu=always (a simulated one too) say so instead. */
async function hasGpu() {
  const wish = new URLSearchParams(location.search).get("gpu");
  if (wish === "never" || !navigator.gpu) return false;
  const adapter = await navigator.gpu.requestAdapter().catch(() => null);
  return Boolean(adapter) && (wish === "always" || !(adapter.info?.isFallbackAdapter ?? adapter.isFallbackAdapter));
}

// --- reading a photo -------------------------------------------------------------------------------------------------

/** A photo as {name, type, data (RGBA), width, height} out of a file, or an image or video of the page. */
async function read(source, name, type = "") {
  let bitmap;
  try {
    bitmap = await createImageBitmap(source, { imageOrientation: "from-image", premultiplyAlpha: "none" });
  } catch {
    throw new Sentence(source instanceof Blob ? await unreadable(source, name) : `${name} cannot be read.`);
  }
  const { width, height } = bitmap;
  if (Math.min(width, height) < SMALLEST) {
    throw new Sentence(`${name} is ${width} × ${height} px, and ${SMALLEST} each way are needed: choose a larger picture.`);
  }
  try {
    return { name, type, data: pixels(bitmap), width, height };
  } catch {
    throw new Sentence(`${name} is ${width} × ${height} px, more than this browser can hold: make it smaller first.`);
  } finally {
    bitmap.close();
  }
}

/** Why a file is not read. */
async function unreadable(file, name) {
  if (!file.size) return `${name} is empty: choose another file.`;
  const start = new TextDecoder("latin1").decode(await file.slice(0, 32).arrayBuffer());
  if (/^.{4}ftyp(hei|hev|mif|msf)/s.test(start)) {
    return `${name} is HEIC, which this browser does not read: save it as JPEG, or open this page in Safari.`;
  }
  return `${name} cannot be read as a picture: choose a JPEG, PNG, WebP, AVIF, GIF or BMP file.`;
}

/** RGBA of a bitmap. A canvas forgets the colours below transparent pixels, which a texture keeps. */
function pixels(bitmap) {
  const { width, height } = bitmap, canvas = new OffscreenCanvas(width, height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.drawImage(bitmap, 0, 0);
  const { data } = context.getImageData(0, 0, width, height);
  let clear = false;
  for (let i = 3; i < data.length && !clear; i += 4) clear = data[i] < 255;
  const gl = clear && new OffscreenCanvas(1, 1).getContext("webgl");
  if (!gl || Math.max(width, height) > gl.getParameter(gl.MAX_TEXTURE_SIZE)) return data;
  gl.bindTexture(gl.TEXTURE_2D, gl.createTexture());
  gl.texImage2D(gl.TEXTURE_2D, 0, gl.RGBA, gl.RGBA, gl.UNSIGNED_BYTE, bitmap);
  gl.bindFramebuffer(gl.FRAMEBUFFER, gl.createFramebuffer());
  gl.framebufferTexture2D(gl.FRAMEBUFFER, gl.COLOR_ATTACHMENT0, gl.TEXTURE_2D, gl.getParameter(gl.TEXTURE_BINDING_2D), 0);
  const kept = new Uint8Array(data.length);
  gl.readPixels(0, 0, width, height, gl.RGBA, gl.UNSIGNED_BYTE, kept);
  return gl.getError() ? data : new Uint8ClampedArray(kept.buffer);
}

// --- drawing ---------------------------------------------------------------------------------------------------------

let crew, photo, wish; // wish: {photo, style, strength, lines}; lines: how much larger than usual the network sees it
let made = {}; // the last maps, and what they were made of: {photo, style, rows, columns, maps}
let shown = null; // the cartoon that is on the page, and its wish
let busy = false;

/** Draw what is wished for now; a wish that comes meanwhile replaces it. */
async function draw() {
  const form = new FormData(find("choices"));
  const before = wish;
  wish = { photo, style: form.get("style"), strength: form.get("strength") / 100, lines: 2 ** form.get("lines") };
  if (before && ["photo", "style", "lines"].some(key => before[key] !== wish[key])) crew?.drop();
  describe();
  if (busy) return;
  busy = true;
  wait(true);
  for (let done = null; done !== wish;) {
    done = wish;
    try {
      await fulfil(done);
    } catch (error) {
      if (!(error instanceof Dropped) && done === wish) fail(error);
    }
  }
  busy = false;
  wait(false);
}

async function fulfil(wanted) {
  const started = performance.now(), { photo, style, strength } = wanted;
  try {
    if (!crew) {
      say("Fetching what draws …");
      crew = new Crew(await hasGpu());
    }
    const [rows, columns] = await viewOfWish(wanted);
    if (made.photo !== photo || made.style !== style || made.rows !== rows || made.columns !== columns) {
      made = { photo, style, rows, columns, maps: await maps(photo, style, rows, columns) };
    }
    const data = await together(photo, made, strength);
    if (wanted === wish) show({ ...wanted, data, rows, columns, seconds: (performance.now() - started) / 1000 });
  } catch (error) {
    if (error instanceof Dropped || error instanceof Sentence) throw error;
    const { gpu } = crew;
    crew.dismiss(); // its memory with it
    crew = null;
    if (!gpu) throw error;
    console.warn("WebGPU failed, WebAssembly goes on:", error);
    crew = new Crew(false);
    await fulfil(wanted);
  }
}

/** [rows, columns] of what the network looks at. */
async function viewOfWish({ photo, lines }) {
  const { width, height } = photo;
  if (photo.face === undefined) {
    if (!packs.has("faces")) say("Fetching what finds faces …");
    photo.face = await crew.do("face", { photo }, ["faces"]);
  }
  photo.usual = usualScale(height, width, photo.face);
  photo.scale = Math.min(1, photo.usual * lines, Math.sqrt(LARGEST_VIEW / (width * height)));
  return viewSize(height, width, photo.scale);
}

/** The size of the tiles, cores' rows and columns, that are done first: each is computed with a margin. */
function cores(rows, columns, runners) {
  const long = (side, parts) => Math.min(side, Math.ceil(side / parts) + Math.min(2, parts - 1) * MARGIN);
  let best = { time: Infinity };
  for (let down = 1; down <= Math.ceil(rows / MARGIN); down++) {
    for (let across = 1; across <= Math.ceil(columns / MARGIN); across++) {
      const size = long(rows, down) * long(columns, across), time = Math.ceil((down * across) / runners) * size;
      if (size <= LARGEST_TILE && time < best.time) best = { time, down, across };
    }
  }
  return [Math.ceil(rows / best.down), Math.ceil(columns / best.across)];
}

/** Slopes and intercepts for the whole view: six planes. */
async function maps(photo, style, rows, columns) {
  say(packs.has(style) ? "Drawing …" : "Fetching the style …");
  const view = await crew.do("view", { photo, columns, rows });
  const [high, wide] = cores(rows, columns, crew.runners), whole = new Float32Array(6 * rows * columns);
  const tiles = spans(rows, high).flatMap(span => spans(columns, wide).map(other => [...span, ...other]));
  let done = 0;
  await Promise.all(tiles.map(async ([top, bottom, left, right]) => {
    const [y, x] = [Math.max(0, top - MARGIN), Math.max(0, left - MARGIN)]; // multiples of 4, as all of them
    const tile = cut(view, y, Math.min(rows, bottom + MARGIN), x, Math.min(columns, right + MARGIN));
    const core = [top - y, bottom - y, left - x, right - x];
    const found = await crew.do("maps", { tile, core, style, filter: filters[style] }, [style]);
    for (let map = 0, at = 0; map < 6; map++) {
      for (let row = top; row < bottom; row++, at += right - left) {
        whole.set(found.subarray(at, at + right - left), (map * rows + row) * columns + left);
      }
    }
    done += 1;
    if (tiles.length > 1) say(`Drawing … ${done} of ${tiles.length} parts`, done / tiles.length);
  }));
  return whole;
}

/** Rows and columns of a picture, as one of its own. */
function cut({ data, width }, top, bottom, left, right) {
  const part = new Uint8ClampedArray(4 * (bottom - top) * (right - left));
  for (let row = top; row < bottom; row++) {
    part.set(data.subarray(4 * (row * width + left), 4 * (row * width + right)), 4 * (row - top) * (right - left));
  }
  return { data: part, width: right - left, height: bottom - top };
}

/** The cartoon, RGBA: the maps on the photo, strip by strip. */
async function together({ data, width, height }, { maps, rows, columns, style }, strength) {
  const cartoon = new Uint8ClampedArray(data.length), ratio = Math.max(width / columns, height / rows);
  const drawing = filters[style].radius === 0 && ratio > 1, first = drawing ? 3 : 0; // whose slopes are 0
  const grid = drawing ? Math.max(1, finer(ratio) / ratio) ** 2 : 1; // px of it for one of the photo
  const step = Math.max(1, Math.min(Math.floor(STRIP / grid / width), Math.ceil(height / WORKERS))), jobs = [];
  for (let top = 0; top < height; top += step) {
    const bottom = Math.min(height, top + step), [from, stop] = rowsNeeded(rows, height, top, bottom, drawing);
    const part = new Float32Array((6 - first) * (stop - from) * columns);
    for (let map = first; map < 6; map++) {
      const seen = maps.subarray((map * rows + from) * columns, (map * rows + stop) * columns);
      part.set(seen, (map - first) * (stop - from) * columns);
    }
    const pixels = data.slice(4 * top * width, 4 * bottom * width);
    const place = { width, height, top, bottom, columns, rows, from, strength, drawing };
    jobs.push(crew.do("applied", { ...place, photo: pixels, maps: part }).then(found => {
      cartoon.set(found, 4 * top * width);
    }));
  }
  await Promise.all(jobs);
  return cartoon;
}

// --- showing ---------------------------------------------------------------------------------------------------------

function say(text, part) {
  find("status").textContent = text;
  find("bar").style.width = part === undefined ? "" : `${100 * part}%`;
}

/** Whether the reader waits for something. */
function wait(so) {
  document.body.classList.toggle("busy", so);
  find("stage").setAttribute("aria-busy", so);
}

function fail(error) {
  const memory = error instanceof RangeError || /memory|alloc|abort/i.test(error.message);
  const sentence = memory
    ? "There is too little memory for this: close other pages, or choose a smaller picture."
    : `It could not be drawn (${error.message}): load the page anew.`;
  find("problem").textContent = error instanceof Sentence ? error.message : sentence;
  find("problem").hidden = false;
  say("");
  if (!(error instanceof Sentence)) console.error(error);
}

/** Put a picture on one of the page's two canvases. */
function put(canvas, { data, width, height }) {
  [canvas.width, canvas.height] = [width, height];
  canvas.getContext("2d").putImageData(new ImageData(data, width, height), 0, 0);
}

function show(cartoon) {
  const { photo, data, rows, columns, seconds } = cartoon, { width, height } = photo;
  put(find("cartoon"), { data, width, height });
  find("stage").dataset.drawn = "true";
  shown = cartoon;
  const by = crew.gpu ? "on the graphics card" : `by ${WORKERS === 1 ? "one worker" : `${WORKERS} workers`}`;
  const face = photo.face ? `its largest face is ${photo.face.toFixed(0)} px wide` : "no face was found in it";
  const size = rows === height ? "as it is" : `at ${columns} × ${rows} px`;
  say(`${width} × ${height} px, drawn in ${seconds.toFixed(1)} s ${by}: ${face}, and the network saw it ${size}.`);
  find("save").disabled = false;
  describe();
}

/** Words beside the sliders, and the same drawing as a command. */
function describe() {
  find("strength-is").textContent = `${Math.round(wish.strength * 100)} %`;
  const lines = Math.log2(wish.lines);
  find("lines-is").textContent = lines === 0 ? "as trained" : lines < 0 ? "bolder" : "finer";
  const scale = wish.lines !== 1 && photo.scale ? ` --scale ${photo.scale.toFixed(3)}` : "";
  const strength = wish.strength === 1 ? "" : ` --strength ${wish.strength}`;
  find("command").textContent = `cartoonize ${quoted(photo.name)} --style ${wish.style}${strength}${scale}`;
}

const quoted = name => (/^[\w.-]+$/.test(name) ? name : `'${name.replaceAll("'", "'\\''")}'`);

/** Show a photo, and draw it. source: a file, or an image or video of the page. */
async function take(source, name, type) {
  find("problem").hidden = true;
  wait(true);
  say("Reading the photo …");
  try {
    photo = await read(source, name, type);
  } catch (error) {
    wait(busy);
    return fail(error);
  }
  put(find("photo"), photo);
  find("stage").dataset.drawn = "false";
  find("stage").style.setProperty("--ratio", photo.width / photo.height);
  find("save").disabled = true;
  await draw();
}

async function save() {
  const { photo, style, strength } = shown, suffix = SUFFIXES[photo.type] ?? "png";
  const blob = await new Promise(done => find("cartoon").toBlob(done, suffix === "png" ? "image/png" : photo.type, 0.92));
  if (!blob) return fail(new RangeError());
  const link = document.createElement("a");
  link.href = URL.createObjectURL(blob);
  link.download = `${photo.name.replace(/\.[^.]*$/, "")}-${style}-${Math.round(strength * 100)}.${suffix}`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
}

// --- what the reader does --------------------------------------------------------------------------------------------

function takeFirst(files) {
  if (files.length) take(files[0], files[0].name || "pasted.png", files[0].type);
}

find("file").addEventListener("change", ({ target }) => {
  takeFirst([...target.files]);
  target.value = ""; // so that the same file can be chosen again
});
addEventListener("paste", ({ clipboardData }) => takeFirst([...clipboardData.files]));
addEventListener("dragover", event => {
  event.preventDefault();
  document.body.classList.add("dropping");
});
addEventListener("dragleave", ({ relatedTarget }) => relatedTarget || document.body.classList.remove("dropping"));
addEventListener("drop", event => {
  event.preventDefault();
  document.body.classList.remove("dropping");
  takeFirst([...event.dataTransfer.files]);
});
for (const button of document.querySelectorAll("[data-portrait]")) {
  button.addEventListener("click", () => take(button.querySelector("img"), `${button.dataset.portrait}.png`));
}
find("choices").addEventListener("input", ({ target }) => target.name && draw()); // not the file's, which has none
find("usual").addEventListener("click", () => {
  find("lines").value = 0;
  draw();
});
find("save").addEventListener("click", save);

// The divider: dragged anywhere on the picture, or moved by the arrows.
const divide = value => {
  find("split").value = value;
  find("stage").style.setProperty("--split", `${value}%`);
};
find("split").addEventListener("input", ({ target }) => divide(target.value));
for (const kind of ["pointerdown", "pointermove"]) {
  find("frame").addEventListener(kind, event => {
    if (!event.buttons) return;
    const { left, width } = find("frame").getBoundingClientRect();
    if (kind === "pointerdown") find("frame").setPointerCapture(event.pointerId);
    divide(Math.max(0, Math.min(100, (100 * (event.clientX - left)) / width)));
  });
}

// The camera, where there is one that the page may use.
const stopCamera = () => find("video").srcObject?.getTracks().forEach(track => track.stop());
find("camera").hidden = !navigator.mediaDevices?.getUserMedia;
find("camera").addEventListener("click", async () => {
  find("problem").hidden = true;
  try {
    const wanted = { facingMode: "user", width: { ideal: 1280 }, height: { ideal: 960 } };
    find("video").srcObject = await navigator.mediaDevices.getUserMedia({ video: wanted });
    find("viewfinder").showModal();
  } catch {
    fail(new Sentence("The camera cannot be used: plug one in, and allow this page to use it."));
  }
});
find("shoot").addEventListener("click", async () => {
  await take(find("video"), "camera.jpg", "image/jpeg", find("viewfinder").close());
});
find("viewfinder").addEventListener("close", stopCamera);

document.querySelector("[data-portrait]").click();
