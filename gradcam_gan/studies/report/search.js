// Searches SECTIONS (search_index.js) for sections that have every word; those with a word in their heading come first.
const MOST = 20; // results that are shown
const AROUND = 80; // characters on either side of a word that was found
const [box, count, found] = ["search", "count", "found"].map((id) => document.getElementById(id));

const escaped = (text) => text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&");

function excerpt(text, words) {
  const places = words.map((word) => text.toLowerCase().indexOf(word)).filter((place) => place >= 0);
  const place = places.length ? Math.min(...places) : 0;
  const [start, end] = [Math.max(0, place - AROUND), place + AROUND];
  // whole words only
  const before = start > 0 ? text.slice(start, place).replace(/^\S*\s*/, "…") : text.slice(0, place);
  const after = end < text.length ? text.slice(place, end).replace(/\s*\S*$/, "…") : text.slice(place);
  return before + after;
}

function marked(text, words) {
  // split by a group keeps what it splits at: every second part is a word that was found
  return text.split(new RegExp(`(${words.map(escaped).join("|")})`, "gi")).map((part, i) => {
    if (i % 2 === 0) return part;
    const mark = document.createElement("mark");
    mark.textContent = part;
    return mark;
  });
}

function result(section, words) {
  const [item, link, text] = ["li", "a", "p"].map((name) => document.createElement(name));
  link.href = section.href;
  link.append(`${section.notebook} · `, ...marked(section.heading, words));
  text.append(...marked(excerpt(section.text, words), words));
  item.append(link, text);
  return item;
}

function search() {
  const words = box.value.toLowerCase().split(/\s+/).filter(Boolean);
  const inHeading = (section) => words.some((word) => section.heading.toLowerCase().includes(word));
  const hits = SECTIONS.filter((section) => {
    const all = `${section.heading} ${section.text}`.toLowerCase();
    return words.length && words.every((word) => all.includes(word));
  }).sort((a, b) => inHeading(b) - inHeading(a));
  found.replaceChildren(...hits.slice(0, MOST).map((section) => result(section, words)));
  const more = hits.length > MOST ? `, the first ${MOST} of them below` : "";
  count.textContent = words.length ? `${hits.length} ${hits.length === 1 ? "section" : "sections"}${more}` : "";
}

box.addEventListener("input", search);
search(); // a browser that goes back fills in what was searched
