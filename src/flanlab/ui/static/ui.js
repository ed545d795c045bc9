// A form asks the server for a piece of the page and puts it in its place. The server escapes every text.
"use strict";

const encoded = (form, action) => {
  const fields = new URLSearchParams(new FormData(form));
  if (action) fields.set("action", action);
  return fields;
};

// What was written outlives the page: a template by its task and number, a conversation under one name.
const keyOf = (form) =>
  form.dataset.keep ?? (form.hasAttribute("data-draft") && `draft ${form.elements.task.value} ${form.elements.template.value}`);

const keep = (form) => {
  try {
    localStorage.setItem(keyOf(form), encoded(form));
  } catch {
    // The browser's store is full: the page goes on without it.
  }
};

const running = new Map();

async function ask(form, address, target, action) {
  running.get(target)?.abort();
  const control = new AbortController();
  running.set(target, control);
  target.setAttribute("aria-busy", "true");
  try {
    const answer = await fetch(address, { method: "POST", body: encoded(form, action), signal: control.signal });
    const text = await answer.text();
    if (answer.ok || !form.dataset.keep) target.innerHTML = text;
    else tell(target).innerHTML = text;
    if (answer.ok && action !== "show" && target.querySelector("[data-answered]")) form.elements.question.value = "";
    if (answer.ok && target.querySelector("[data-saved]")) localStorage.removeItem(keyOf(form));
  } catch (error) {
    if (error.name === "AbortError") return;
    tell(target).textContent = "The app does not answer. Start it again with `flan ui`; what you wrote is kept in this browser.";
  }
  target.removeAttribute("aria-busy");
}

// A place for a message above what is shown already.
const tell = (target) => {
  const note = target.querySelector(":scope > .told") ?? document.createElement("div");
  note.className = "told";
  target.prepend(note);
  return note;
};

for (const form of document.querySelectorAll("form[data-live]")) {
  const target = document.querySelector(form.dataset.target);
  const preview = () => form.elements.prompt.value.trim() && ask(form, form.dataset.live, target);
  const written = [...form.elements].filter((one) => one.matches("textarea, [name=direction]"));
  let timer;
  form.addEventListener("input", (event) => {
    if (event.target.name === "name") return;
    clearTimeout(timer);
    timer = setTimeout(preview, 300);
    if (written.includes(event.target)) keep(form);
  });
  form.addEventListener("submit", (event) => event.preventDefault());
  const kept = new URLSearchParams(localStorage.getItem(keyOf(form)) ?? "");
  const differs = written.filter((one) => kept.has(one.name) && one.value !== kept.get(one.name).replaceAll("\r\n", "\n"));
  for (const one of differs) {
    one.value = kept.get(one.name);
    const around = one.closest("details");
    if (around) around.open = true;
  }
  document.querySelector("#restored").hidden = !differs.length;
  document.querySelector("[data-discard]").addEventListener("click", () => {
    localStorage.removeItem(keyOf(form));
    location.reload();
  });
  preview();
}

for (const form of document.querySelectorAll("form[data-keep]")) {
  const button = form.querySelector("button[data-post]");
  form.addEventListener("input", () => keep(form));
  form.addEventListener("submit", (event) => event.preventDefault());
  const kept = new URLSearchParams(localStorage.getItem(keyOf(form)) ?? "");
  const target = button && document.querySelector(button.dataset.target);
  for (const [name, value] of kept) {
    const field = form.elements[name];
    if (field?.type === "checkbox") field.checked = true;
    else if (field?.options ? [...field.options].some((one) => one.value === value) : field) field.value = value;
    else if (target && name.startsWith("history:")) {
      const turns = document.createElement("input");
      Object.assign(turns, { type: "hidden", name, value });
      target.append(turns);
    }
  }
  if (target?.hasChildNodes()) ask(form, button.dataset.post, target, "show");
}

for (const button of document.querySelectorAll("button[data-post]")) {
  button.addEventListener("click", async () => {
    const { form } = button;
    if (!button.formNoValidate && !form.reportValidity()) return;
    const target = document.querySelector(button.dataset.target);
    button.disabled = true;
    if (form.dataset.keep) keep(form);
    await ask(form, button.dataset.post, target, button.dataset.action);
    if (form.dataset.keep) keep(form);
    button.disabled = false;
  });
}
