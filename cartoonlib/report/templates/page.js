"use strict";
const contents = document.getElementById("contents");
const narrow = matchMedia("screen and (max-width: 67.99rem)");
const fold = () => { contents.open = !narrow.matches; };
fold();
narrow.addEventListener("change", fold);
contents.addEventListener("click", event => {
  if (narrow.matches && event.target.closest("a")) contents.open = false;
});

const button = document.getElementById("all-code");
button.hidden = false;
button.addEventListener("click", () => {
  const show = button.getAttribute("aria-pressed") !== "true";
  button.setAttribute("aria-pressed", show);
  button.textContent = show ? "Hide all code" : "Show all code";
  for (const code of document.querySelectorAll("details.code")) code.open = show;
});

// A click on a picture shows it in its own size.
const large = document.getElementById("large");
document.addEventListener("click", event => {
  if (event.target.closest("#large")) large.close();
  else if (event.target.matches(".card img")) {
    large.firstElementChild.src = event.target.src;
    large.firstElementChild.alt = event.target.alt;
    large.showModal();
  }
});

// The section that is read is marked in the contents.
const links = new Map([...contents.querySelectorAll("a")].map(link => [link.hash.slice(1), link]));
const headings = [...links.keys()].map(id => document.getElementById(id)).filter(Boolean);
let marked = null;
const mark = () => {
  const above = headings.filter(heading => heading.getBoundingClientRect().top < 120);
  const link = links.get((above.at(-1) ?? headings[0]).id);
  if (link === marked) return;
  marked?.removeAttribute("aria-current");
  link.setAttribute("aria-current", "true");
  marked = link;
  if (narrow.matches) return;
  const nav = contents.parentElement;
  const { top, bottom } = link.getBoundingClientRect();
  if (top < 40 || bottom > innerHeight - 40) nav.scrollTop += top - innerHeight / 2;
};
let waiting = false;
addEventListener("scroll", () => {
  if (waiting) return;
  waiting = true;
  requestAnimationFrame(() => { waiting = false; mark(); });
}, { passive: true });
mark();

// On paper nothing is folded but code, which is left out.
addEventListener("beforeprint", () => {
  for (const details of document.querySelectorAll("details:not(.code)")) details.open = true;
});
