"use strict";
const page = JSON.parse(document.getElementById("data").textContent);
const total = page.items.length, rating = page.mode === "rating";
const PREFIX = `kljax-judging ${page.id} `, PAUSE = 200; // ms in which a second tap or key is none
const CHOICES = rating
  ? [[1, "1", "bad"], [2, "2", ""], [3, "3", ""], [4, "4", ""], [5, "5", "very good"]]
  : [["first", "1 is better", ""], ["tie", "Tie", ""], ["second", "2 is better", ""]];
const KEYS = rating
  ? { 1: 1, 2: 2, 3: 3, 4: 4, 5: 5 }
  : { 1: "first", ArrowLeft: "first", 2: "second", ArrowRight: "second", t: "tie", ArrowDown: "tie" };
const $ = (id) => document.getElementById(id);
const memory = browserMemory();
let state = null, shownAt = 0, unsaved = false;

function browserMemory() {
  try { // forbidden for files on some phones, and in private windows
    localStorage.setItem(`${PREFIX}?`, "1");
    localStorage.removeItem(`${PREFIX}?`);
    return localStorage;
  } catch { return null; }
}

function parsed(text) { try { return JSON.parse(text); } catch { return null; } }

function isState(found) { // of a file, or of the browser's memory: of this page, and its answers are the first so many
  return found !== null && typeof found === "object" && found.page === page.id && typeof found.judge === "string"
    && found.judge.trim() !== "" && Array.isArray(found.answers) && found.answers.length <= total
    && found.answers.every((one, i) => one && one.item === i + 1 && CHOICES.some(([choice]) => choice === one.choice)
      && typeof one.note === "string");
}

function keep() {
  unsaved = true;
  try { if (memory) memory.setItem(PREFIX + state.judge, JSON.stringify(state)); }
  catch { say("This browser has no room left: save the file before you close this page."); }
}

function say(text) { $("message").textContent = text; }

function show(section) {
  for (const id of ["start", "item", "end"]) $(id).hidden = id !== section;
  say("");
}

function fill(where, text) { // text is text, whatever is in it
  const box = document.createElement("p");
  if (text.trim() === "") {
    box.className = "blank";
    box.textContent = text === "" ? "(empty)" : "(only spaces or line breaks)";
  } else {
    box.className = "text";
    box.dir = "auto";
    box.textContent = text;
  }
  where.replaceChildren(box);
  if (where.id === "prompt" && box.scrollHeight > box.clientHeight) box.tabIndex = 0; // so that keys can scroll it
}

function showItem() {
  const i = state.answers.length;
  if (i >= total) return showEnd();
  show("item");
  const [prompt, ...texts] = page.items[i];
  $("count").textContent = `${i + 1} of ${total}`;
  $("progress").max = total;
  $("progress").value = i;
  $("undo").disabled = i === 0;
  fill($("prompt"), prompt);
  $("two").className = rating ? "" : "pair";
  $("two").replaceChildren(...texts.map((text, j) => {
    const card = document.createElement("article"), head = document.createElement("h2"), box = document.createElement("div");
    card.className = "card";
    head.textContent = rating ? "Text" : `${j + 1}`;
    head.id = `text-${j + 1}`;
    card.setAttribute("aria-labelledby", head.id);
    card.append(head, box);
    fill(box, text);
    return card;
  }));
  $("note").value = state.draft;
  $("note-box").open = state.draft !== "";
  shownAt = performance.now();
  scrollTo(0, 0);
  $("question").focus({ preventScroll: true });
}

function choose(choice) {
  if ($("item").hidden || performance.now() - shownAt < PAUSE) return;
  state.answers.push({ item: state.answers.length + 1, choice, note: state.draft });
  state.draft = "";
  keep();
  showItem();
}

function undo() {
  if (!state || !state.answers.length) return;
  state.draft = state.answers.pop().note;
  keep();
  showItem();
  say("Taken back: judge this one again.");
}

function showEnd() {
  const done = state.answers.length, left = total - done;
  show("end");
  $("end-title").textContent = left ? `${done} of ${total} are judged` : "Done. Thank you!";
  $("end-says").textContent = left
    ? "Save what is there and send the file, or go on. The same page goes on where you stopped."
    : "Now save the file and send it to whoever gave you this page.";
  $("back").textContent = left ? "Go on judging" : "";
  $("back").hidden = !left;
  $("again").hidden = !done;
  $("copy-box").hidden = true;
  $("end-title").focus({ preventScroll: true });
}

function checksum(text) { // FNV-1a of UTF-8: finds what got lost on the way, and is no signature
  let hash = 0x811c9dc5;
  for (const byte of new TextEncoder().encode(text)) hash = Math.imul(hash ^ byte, 0x01000193) >>> 0;
  return hash.toString(16).padStart(8, "0");
}

function whole(text) { return new TextDecoder().decode(new TextEncoder().encode(text)); } // half a character becomes a sign

function answersText() {
  const answers = state.answers.map((one) => ({ ...one, note: whole(one.note) }));
  const lines = answers.map((one) => `${one.item}\t${one.choice}\t${one.note}\n`);
  return `${JSON.stringify({
    kljax_judgments: 1, page: page.id, mode: page.mode, judge: whole(state.judge), items: total, answers,
    saved: new Date().toISOString(), checksum: checksum(page.id + "\n" + lines.join("")),
  }, null, 1)}\n`;
}

function save() {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([answersText()], { type: "application/json" }));
  link.download = `answers_${page.id}_${state.judge.replace(/[^\p{L}\p{N}-]+/gu, "-")}.json`;
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 60000);
  unsaved = false;
  say(`Saved as ${link.download}, where your browser puts downloads. If there is no file, copy the answers.`);
}

async function copy() {
  const box = $("answers");
  $("copy-box").hidden = false;
  box.value = answersText();
  box.focus();
  box.select();
  let done = false;
  try { await navigator.clipboard.writeText(box.value); done = true; }
  catch { try { done = document.execCommand("copy"); } catch { done = false; } }
  if (done) unsaved = false;
  say(done ? "Copied: paste it into a message, and send it as it is." : "Select the text above, copy it, and send it as it is.");
}

function begin(judge) {
  const before = memory ? parsed(memory.getItem(PREFIX + judge)) : null;
  state = isState(before) && before.judge === judge ? { draft: "", ...before } : { page: page.id, judge, answers: [], draft: "" };
  unsaved = false;
  showItem();
}

async function resume(file) {
  const found = parsed(await file.text());
  if (!isState(found)) {
    const other = found && found.kljax_judgments && found.page !== page.id;
    return say(other ? "That file is of another page." : "That is no file of answers of this page, or it is damaged.");
  }
  const here = memory ? parsed(memory.getItem(PREFIX + found.judge)) : null;
  if (isState(here) && here.answers.length > found.answers.length) {
    return say(`This browser has more answers of ${found.judge} than that file: go on as ${found.judge} above.`);
  }
  state = { page: page.id, judge: found.judge, answers: found.answers, draft: "" };
  keep();
  unsaved = false;
  showItem();
}

function earlier() {
  if (!memory) return [];
  const names = Object.keys(memory).filter((key) => key.startsWith(PREFIX));
  return names.map((name) => parsed(memory.getItem(name))).filter(isState);
}

function list(where, texts) {
  where.replaceChildren(...texts.map((text) => Object.assign(document.createElement("li"), { textContent: text })));
}

function showStart() {
  show("start");
  $("start-title").textContent = $("question").textContent = page.question;
  list($("criteria"), page.criteria);
  list($("criteria-again"), page.criteria);
  $("criteria-box").hidden = $("why").hidden = page.criteria.length === 0;
  $("how").textContent = rating
    ? `You see ${total} texts, one after another. Give each a number from 1 (bad) to 5 (very good).`
    : `You see ${total} pairs of texts, one after another, each pair an answer to the same prompt. Choose the better one. Say ` +
      "“tie” where you cannot. Some pairs may look familiar: judge each as if you had not seen it.";
  $("keys").textContent = rating
    ? "Keys: 1 to 5 for a choice, U undo, N note (Esc leaves it)."
    : "Keys: 1 or ← for the first, 2 or → for the second, T or ↓ for a tie, U undo, N note (Esc leaves it).";
  $("keeps").textContent = memory
    ? "This browser remembers your answers: you can close the page and come back."
    : "This browser remembers nothing for this page: save the file before you close it; you can go on from the file.";
  $("earlier").replaceChildren(...earlier().map((one) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = `Go on as ${one.judge} (${one.answers.length} of ${total})`;
    button.onclick = () => begin(one.judge);
    return button;
  }));
  $("choices").replaceChildren(...CHOICES.map(([choice, label, below]) => {
    const button = document.createElement("button");
    button.type = "button";
    button.textContent = label;
    button.dataset.choice = choice;
    if (below) button.append(Object.assign(document.createElement("small"), { textContent: below }));
    button.onclick = () => choose(choice);
    return button;
  }));
}

$("begin-form").onsubmit = (event) => {
  event.preventDefault();
  const judge = $("judge").value.trim().replace(/\s+/g, " ");
  if (judge) begin(judge);
  else say("Write your name or initials first.");
};
$("resume").onchange = (event) => { if (event.target.files[0]) resume(event.target.files[0]); event.target.value = ""; };
$("undo").onclick = $("again").onclick = undo;
$("stop").onclick = showEnd;
$("back").onclick = showItem;
$("save").onclick = save;
$("copy").onclick = copy;
$("note").oninput = () => { state.draft = $("note").value; keep(); };

addEventListener("keydown", (event) => {
  if (!state || event.ctrlKey || event.metaKey || event.altKey || event.repeat || event.isComposing) return;
  if (event.target.id === "note") {
    if (event.key === "Escape") { event.preventDefault(); $("question").focus({ preventScroll: true }); }
    return;
  }
  if (/^(TEXTAREA|INPUT)$/.test(event.target.tagName)) return;
  const key = event.key.length === 1 ? event.key.toLowerCase() : event.key;
  if (key === "u") { event.preventDefault(); undo(); return; }
  if ($("item").hidden) return;
  if (key === "n") {
    event.preventDefault();
    $("note-box").open = true;
    $("note").focus();
  } else if (Object.hasOwn(KEYS, key) && !(key.startsWith("Arrow") && event.target.tabIndex === 0 && event.target.className === "text")) {
    event.preventDefault();
    choose(KEYS[key]);
  }
});
addEventListener("storage", (event) => { // another tab goes on as the same judge
  if (!state || event.key !== PREFIX + state.judge) return;
  const found = parsed(event.newValue);
  if (isState(found)) { state = { draft: "", ...found }; showItem(); }
});
addEventListener("beforeunload", (event) => { if (unsaved && !memory) event.preventDefault(); });

showStart();
