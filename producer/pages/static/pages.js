// Extras of the pages: dropping files, following jobs, times in the reader's time zone.
// The pages work without this script: they reload instead.

const POLL_MS = 2000;
const DETAILS_MS = 3000;

// Replaces parts of the page by fresh ones with the same ids. A field that is being edited stays
// as it is, and open details stay open.
function replace(html) {
  const fresh = new DOMParser().parseFromString(html, "text/html");
  for (const part of fresh.body.children) {
    const there = document.getElementById(part.id);
    if (there) swap(there, part);
  }
}

function swap(there, part) {
  const kept = there.querySelector("#gallery");
  const focused = document.activeElement;
  const inside = there.contains(focused);
  if (inside && focused.matches("input, select, textarea")) return;
  if (there.querySelector(".ask[open]")) return;
  for (const open of there.querySelectorAll("details[id][open]")) {
    part.querySelector(`#${open.id}`)?.setAttribute("open", "");
  }
  // If the pictures are the same, keeping them avoids flicker and reloading.
  const gallery = part.querySelector("#gallery");
  if (kept && gallery && kept.textContent === gallery.textContent) gallery.replaceWith(kept);
  const path = inside ? pathOf(focused, there) : null;
  there.replaceWith(part);
  localTimes(part);
  if (path) follow(path, part)?.focus({ preventScroll: true });
}

function pathOf(node, root) {
  const path = [];
  for (let at = node; at !== root; at = at.parentElement) {
    path.unshift([...at.parentElement.children].indexOf(at));
  }
  return path;
}

function follow(path, root) {
  return path.reduce((at, n) => at?.children[n], root);
}

// Converts times from UTC to the reader's time zone.
function localTimes(root) {
  const form = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });
  for (const time of root.querySelectorAll("time[datetime]")) {
    time.title = time.textContent;
    time.textContent = form.format(new Date(time.dateTime));
  }
}

async function load(address) {
  const answer = await fetch(address, { credentials: "same-origin", redirect: "error" });
  if (!answer.ok) throw new Error(answer.statusText);
  replace(await answer.text());
}

// Reloads a part from its URL in `data-poll`.
function poll() {
  const part = document.querySelector("[data-poll]");
  if (!part) return;
  const again = () => setTimeout(poll, POLL_MS);
  if (document.hidden) again();
  else load(part.dataset.poll).catch(() => {}).then(again);
}

// Follows a job by server-sent events. A hidden page closes its connection, since a browser has
// only six.
class Followed {
  constructor(address) {
    this.address = address;
    this.loadedAt = 0;
    document.addEventListener("visibilitychange", () => this.look());
    window.addEventListener("pagehide", () => this.close());
    window.addEventListener("pageshow", () => this.look());
    this.look();
  }

  look() {
    if (document.hidden) this.close();
    else if (!this.source && !this.ended) this.open();
  }

  open() {
    this.source = new EventSource(this.address);
    this.source.addEventListener("progress", (event) => this.show(event, DETAILS_MS));
    this.source.addEventListener("end", (event) => {
      this.ended = true;
      this.close();
      this.show(event, 0);
    });
  }

  close() {
    this.source?.close();
    this.source = null;
  }

  show(event, leastMs) {
    const html = JSON.parse(event.data);
    if (!html) return location.assign("/");
    replace(html);
    if (Date.now() - this.loadedAt < leastMs) return;
    this.loadedAt = Date.now();
    const address = new URL(location.href);
    address.searchParams.set("part", "details");
    load(address).catch(() => {});
  }
}

// Sends files at once when they are chosen, or dropped anywhere on the page.
function takeDrops(form) {
  const input = form.querySelector("input[type=file]");
  const zone = input.closest("label");
  const send = () => {
    form.classList.add("sending");
    zone.querySelector("strong").textContent = "Sending …";
    form.requestSubmit();
  };
  let inside = 0;
  const isFiles = (event) => event.dataTransfer?.types.includes("Files");
  const mark = (event, step) => {
    if (!isFiles(event)) return;
    event.preventDefault();
    inside = Math.max(0, inside + step);
    zone.classList.toggle("over", inside > 0);
  };
  addEventListener("dragenter", (event) => mark(event, 1));
  addEventListener("dragleave", (event) => mark(event, -1));
  addEventListener("dragover", (event) => mark(event, 0));
  addEventListener("drop", (event) => {
    if (!isFiles(event)) return;
    event.preventDefault();
    zone.classList.remove("over");
    input.files = event.dataTransfer.files;
    send();
  });
  input.addEventListener("change", () => input.files.length && send());
  addEventListener("pageshow", () => form.classList.remove("sending"));
}

localTimes(document);
poll();
const followed = document.querySelector("[data-events]");
if (followed) new Followed(followed.dataset.events);
for (const form of document.querySelectorAll("form[data-drop]")) takeDrops(form);
document.querySelector("form[data-send]")?.requestSubmit();
