"use strict";

const find = (id) => document.getElementById(id);
const canvas = find("canvas");
const pen = canvas.getContext("2d", { willReadFrequently: true });
const about = document.body.dataset;
const [digits, dark] = [about.digits === "1", about.dark === "1"];

// --- asking the net: one request at a time, and then the latest picture

let wanted = null; // what to ask next: { body, done }
let asking = false;
let round = 0; // a later round has begun with "Clear": what comes from an earlier one is not shown

function ask(body, done = () => {}) {
  wanted = { body, done };
  if (!asking) askOn();
}

async function askOn() {
  asking = true;
  while (wanted) {
    const { body, done } = wanted;
    const asked = round;
    wanted = null;
    try {
      const answer = await look(await body());
      if (asked === round) {
        show(answer);
        done();
      }
    } catch (error) {
      if (asked === round) fail(error.message);
    }
  }
  asking = false;
}

async function look(body) {
  const response = await fetch("look", { method: "POST", body }).catch(() => {
    throw new Error("The demo does not answer. Start it again, and reload this page.");
  });
  const answer = await response.json().catch(() => {
    throw new Error(`The demo failed (status ${response.status}). Its terminal says more.`);
  });
  if (!response.ok) throw new Error(answer.error);
  await Promise.all(answer.stages.map(decodeMaps));
  return answer;
}

async function decodeMaps(stage) {
  stage.image = new Image();
  stage.image.src = stage.maps;
  await stage.image.decode();
}

function fail(sentence) {
  find("error").textContent = sentence;
}

// --- showing its answer

function show(answer) {
  fail("");
  find("empty").hidden = true;
  find("results").hidden = false;
  find("invitation").hidden = true;
  const winner = answer.classes[0].name;
  for (const place of document.querySelectorAll(".winner")) place.textContent = winner;
  speak(`The net says ${winner}.`);
  showClasses(answer.classes);
  for (const view of ["seen", "saliency", "grad_cam"]) {
    if (answer[view]) find(view).src = answer[view];
  }
  answer.stages.forEach(showStage);
}

// A screen reader speaks when this text changes.
function speak(sentence) {
  if (find("spoken").textContent !== sentence) find("spoken").textContent = sentence;
}

function showClasses(classes) {
  const list = find("classes");
  while (list.children.length < classes.length) {
    const row = add(list, "li");
    add(row, "span", "name");
    add(add(row, "span", "track"), "span", "bar");
    add(row, "span", "share");
  }
  classes.forEach(({ name, probability }, i) => {
    const row = list.children[i];
    const percent = `${(100 * probability).toFixed(1)}%`;
    row.querySelector(".name").textContent = name;
    row.querySelector(".name").title = name;
    row.querySelector(".bar").style.width = percent;
    row.querySelector(".share").textContent = percent;
  });
}

function showStage(stage, i) {
  const element = find("stages").children[i] ?? addStage(stage, i + 1);
  element.querySelectorAll("canvas").forEach((tile, channel) => {
    tile.getContext("2d").drawImage(stage.image, 0, -channel * stage.height);
  });
}

function addStage({ height, width, channels, image }, number) {
  const tiles = image.height / height; // they are below one another
  const element = add(find("stages"), "div", "stage");
  const title = add(element, "h3");
  title.textContent = `Stage ${number} `;
  const count = tiles < channels ? `the first ${tiles} of ${channels} maps` : `${channels} maps`;
  add(title, "span").textContent = `${count} of ${height} × ${width}`;
  const maps = add(element, "div", "maps");
  maps.setAttribute("role", "img");
  maps.setAttribute("aria-label", `Feature maps of stage ${number}`);
  for (let i = 0; i < tiles; i++) {
    const tile = add(maps, "canvas");
    [tile.width, tile.height] = [width, height];
  }
  return element;
}

function add(parent, tag, name = "") {
  const child = parent.appendChild(document.createElement(tag));
  child.className = name;
  return child;
}

// --- drawing

let last = null; // where the pen is, while it is down
let holdsFile = false;

function takeFreshPaper() {
  pen.fillStyle = dark ? "black" : "white";
  pen.fillRect(0, 0, canvas.width, canvas.height);
  holdsFile = false;
}

function place(event) {
  const box = canvas.getBoundingClientRect();
  return [((event.clientX - box.left) / box.width) * canvas.width, ((event.clientY - box.top) / box.height) * canvas.height];
}

function strokeTo(point) {
  pen.strokeStyle = dark ? "white" : find("ink")?.value ?? "black";
  pen.lineWidth = Math.min(canvas.width, canvas.height) / 13;
  pen.lineCap = pen.lineJoin = "round";
  pen.beginPath();
  pen.moveTo(...last);
  pen.lineTo(point[0] + 0.01, point[1]); // a line of no length would be no dot
  pen.stroke();
  last = point;
}

const drawing = () => new Promise((resolve) => canvas.toBlob(resolve));

canvas.addEventListener("pointerdown", (event) => {
  if (!event.isPrimary || event.button !== 0) return;
  canvas.setPointerCapture(event.pointerId);
  find("invitation").hidden = true;
  if (digits && holdsFile) takeFreshPaper(); // one digit at a time
  last = place(event);
  strokeTo(last);
  ask(drawing);
});
canvas.addEventListener("pointermove", (event) => {
  if (!last || !event.isPrimary) return;
  const moves = event.getCoalescedEvents?.() ?? [];
  for (const move of moves.length ? moves : [event]) strokeTo(place(move));
  ask(drawing);
});
for (const end of ["pointerup", "pointercancel"]) {
  canvas.addEventListener(end, (event) => {
    if (event.isPrimary) last = null;
  });
}

find("clear").addEventListener("click", () => {
  round += 1;
  wanted = null;
  takeFreshPaper();
  fail("");
  speak("");
  find("invitation").hidden = false;
  find("results").hidden = true;
  find("empty").hidden = false;
});

// --- pictures from elsewhere: opened, dropped or pasted

async function openFile(file) {
  if (file.size > about.maxBytes) {
    fail(`The file has more than ${about.maxBytes >> 20} MiB: make it smaller.`);
    return;
  }
  try {
    const bytes = await file.arrayBuffer();
    const image = await createImageBitmap(file).catch(() => null); // the net reads formats that a browser does not
    ask(() => bytes, () => showFile(image));
  } catch {
    fail("The file cannot be read.");
  }
}

function showFile(image) {
  takeFreshPaper();
  holdsFile = true;
  if (!image) return;
  const scales = [canvas.width / image.width, canvas.height / image.height];
  const fit = digits ? "pad" : about.fit;
  const scale = fit === "crop" ? Math.max(...scales) : Math.min(...scales);
  const [width, height] = fit === "stretch" ? [canvas.width, canvas.height] : [scale * image.width, scale * image.height];
  const box = [(canvas.width - width) / 2, (canvas.height - height) / 2, width, height];
  pen.fillStyle = "black";
  pen.fillRect(0, 0, canvas.width, canvas.height);
  pen.fillStyle = "white"; // under what is transparent
  pen.fillRect(...box);
  pen.drawImage(image, ...box);
}

find("open").addEventListener("click", () => find("file").click());
find("file").addEventListener("change", () => {
  const [file] = find("file").files;
  if (file) openFile(file);
  find("file").value = ""; // so that the same file can be opened again
});
document.addEventListener("paste", (event) => {
  const [file] = event.clipboardData.files;
  if (file) openFile(file);
});
document.addEventListener("dragover", (event) => {
  event.preventDefault();
  document.body.classList.add("dropping");
});
document.addEventListener("dragleave", (event) => {
  if (!event.relatedTarget) document.body.classList.remove("dropping");
});
document.addEventListener("drop", (event) => {
  event.preventDefault();
  document.body.classList.remove("dropping");
  const [file] = event.dataTransfer.files;
  if (file) openFile(file);
  else fail("This is no file: save the picture first, then drop it here.");
});

takeFreshPaper();
