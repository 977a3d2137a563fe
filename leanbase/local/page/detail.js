// Shows one event or request. Received data becomes text nodes, and is never parsed as HTML.

const LONG = 600; // characters of a string that are shown at first
const MANY = 200; // entries of an object or array that are shown per step

/** Create an element. Children are elements or strings; strings become text nodes. */
export function element(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value !== undefined && value !== false) made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

// Control characters, zero-width characters, and characters that change the direction of text.
const HIDDEN = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u00ad\u061c\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]/g;

/** Return nodes that show a string, isolated from the surrounding text direction, with hidden characters as codes. */
export function shown(text, className = "") {
  const box = element("bdi", className ? { class: className } : {});
  let from = 0;
  for (const match of text.matchAll(HIDDEN)) {
    box.append(text.slice(from, match.index));
    const code = match[0].codePointAt(0).toString(16).toUpperCase().padStart(4, "0");
    box.append(element("span", { class: "escape" }, `U+${code}`));
    from = match.index + 1;
  }
  box.append(text.slice(from));
  return box;
}

function long(text, className) {
  if (text.length <= LONG) return shown(text, className);
  const box = element("span", {}, shown(text.slice(0, LONG), className), "… ");
  box.append(
    element("button", { class: "small", onclick: () => box.replaceWith(shown(text, className)) }, `Show all ${text.length.toLocaleString("en")} characters`),
  );
  return box;
}

function leaf(value) {
  if (typeof value === "string") return long(value, "string");
  return element("span", { class: typeof value === "number" ? "number" : "word" }, String(value));
}

function branch(name, value, depth) {
  const key = element("span", { class: "key" }, shown(name), ": ");
  if (value === null || typeof value !== "object") return element("li", {}, element("span", { class: "leaf" }, key, leaf(value)));
  const size = Object.keys(value).length;
  const summary = element("summary", {}, key, element("span", { class: "size" }, Array.isArray(value) ? `[${size}]` : `{${size}}`));
  const details = element("details", { open: depth < 1 && size <= 20 }, summary);
  const fill = () => details.open && details.children.length === 1 && details.append(entries(value, depth + 1));
  details.addEventListener("toggle", fill);
  fill();
  return element("li", {}, details);
}

function entries(value, depth) {
  const list = element("ul");
  const all = Object.entries(value);
  const add = (from) => {
    list.append(...all.slice(from, from + MANY).map(([name, each]) => branch(name, each, depth)));
    if (from + MANY < all.length) {
      const item = element("li", {}, element("button", { class: "small", onclick: () => (item.remove(), add(from + MANY)) }, `Show more of ${all.length}`));
      list.append(item);
    }
  };
  add(0);
  return list;
}

/** Return properties as a tree. The properties of the SDK come last. */
export function tree(properties) {
  const names = Object.keys(properties).sort((a, b) => a.startsWith("$") - b.startsWith("$") || (a < b ? -1 : 1));
  const sorted = Object.fromEntries(names.map((name) => [name, properties[name]]));
  // Object.fromEntries puts integer-like names first. This does no harm here.
  return element("div", { class: "tree" }, entries(sorted, 0));
}

function frame(each, isOpen) {
  const place = `${each.filename ?? each.abs_path ?? "?"}:${each.lineno ?? "?"}`;
  const title = element("span", { class: each.in_app ? "" : "library" }, shown(String(each.function ?? "?")), " ", shown(place));
  const source = typeof each.context_line === "string";
  if (!source) return element("li", {}, title);
  const before = Array.isArray(each.pre_context) ? each.pre_context : [];
  const after = Array.isArray(each.post_context) ? each.post_context : [];
  const first = (each.lineno ?? 1) - before.length;
  const lines = [...before, each.context_line, ...after].map((line, index) => {
    const isHere = index === before.length;
    return element("span", isHere ? { class: "here" } : {}, `${String(first + index).padStart(4)}  `, shown(String(line)));
  });
  return element("li", {}, element("details", { open: isOpen }, element("summary", {}, title), element("pre", { tabindex: "0" }, ...lines)));
}

/** Return the exceptions of an event with their frames, innermost first; null if it has no exceptions. */
export function exceptions(properties) {
  const list = properties.$exception_list;
  if (!Array.isArray(list)) return null;
  const box = element("div", {}, element("h3", {}, list.length > 1 ? `${list.length} exceptions` : "Exception"));
  for (const each of list) {
    if (each === null || typeof each !== "object") continue;
    const frames = Array.isArray(each.stacktrace?.frames) ? [...each.stacktrace.frames].reverse() : [];
    const seen = frames.filter((one) => one && typeof one === "object");
    const hasOwn = seen.some((one) => one.in_app);
    const handled = { true: "handled", false: "not handled" }[String(each.mechanism?.handled)];
    box.append(
      element(
        "div",
        { class: "exception" },
        element("strong", {}, shown(String(each.type ?? "?"))),
        handled ? element("span", { class: "badge" }, handled) : null,
        element("p", {}, long(String(each.value ?? ""), "")),
        element("ol", { class: "frames" }, ...seen.map((one, index) => frame(one, hasOwn ? Boolean(one.in_app) : index === 0))),
      ),
    );
  }
  return box;
}

export function facts(pairs) {
  const list = element("dl");
  for (const [name, value] of pairs) {
    if (value === null || value === undefined || value === "") continue;
    list.append(element("dt", {}, name), element("dd", {}, value instanceof Node ? value : shown(String(value))));
  }
  return list;
}

export function bytes(count) {
  return count < 1024 ? `${count} bytes` : count < 1024 ** 2 ? `${(count / 1024).toFixed(1)} KiB` : `${(count / 1024 ** 2).toFixed(1)} MiB`;
}
