// A form asks the server for a piece of the page and puts it in its place. The server escapes every text.
"use strict";

const encoded = (form, action) => {
  const fields = new URLSearchParams(new FormData(form));
  if (action) fields.set("action", action);
  return fields;
};

const draftOf = (form) => form.hasAttribute("data-draft") && `draft ${location.pathname}${location.search}`;

const running = new Map();

async function ask(form, address, target, action) {
  running.get(target)?.abort();
  const control = new AbortController();
  running.set(target, control);
  target.setAttribute("aria-busy", "true");
  try {
    const answer = await fetch(address, { method: "POST", body: encoded(form, action), signal: control.signal });
    target.innerHTML = await answer.text();
    if (target.querySelector("[data-saved]")) localStorage.removeItem(draftOf(form));
  } catch (error) {
    if (error.name === "AbortError") return;
    target.textContent = "The app does not answer. Start it again with `flan ui`; what you wrote is kept in this browser.";
  }
  target.removeAttribute("aria-busy");
}

for (const form of document.querySelectorAll("form[data-live]")) {
  const target = document.querySelector(form.dataset.target);
  const preview = () => form.elements.prompt.value.trim() && ask(form, form.dataset.live, target);
  let timer;
  form.addEventListener("input", (event) => {
    if (event.target.name === "name") return;
    clearTimeout(timer);
    timer = setTimeout(preview, 300);
    if (["prompt", "target", "options"].includes(event.target.name)) localStorage.setItem(draftOf(form), encoded(form));
  });
  form.addEventListener("submit", (event) => event.preventDefault());
  const kept = new URLSearchParams(localStorage.getItem(draftOf(form)) ?? "");
  const differs = ["prompt", "target", "options"].filter((name) => kept.has(name) && form.elements[name]?.value !== kept.get(name));
  for (const name of differs) form.elements[name].value = kept.get(name);
  document.querySelector("#restored").hidden = !differs.length;
  document.querySelector("[data-discard]").addEventListener("click", () => {
    localStorage.removeItem(draftOf(form));
    location.reload();
  });
  preview();
}

for (const button of document.querySelectorAll("button[data-post]")) {
  button.addEventListener("click", async () => {
    const target = document.querySelector(button.dataset.target);
    button.disabled = true;
    await ask(button.form, button.dataset.post, target, button.dataset.action);
    button.disabled = false;
  });
}
