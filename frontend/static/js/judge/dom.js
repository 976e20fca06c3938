/** Elements made in one line, and the page's words with their blanks filled in. */

const page = JSON.parse(document.getElementById("page")?.textContent ?? "{}");

/** What the server gave the page: addresses, words, the person's keys. */
export const PAGE = /** @type {{slug: string, user: string, username: string, language: string, today: number, returned: string,
  keymap: Record<string, string>, urls: Record<string, string>, guidelines: string,
  words: Record<string, string>}} */ (page);

/**
 * Return a sentence with its %(name)s filled in.
 * @param {string} name @param {Record<string, string | number>} [values]
 */
export function say(name, values = {}) {
  const sentence = PAGE.words[name];
  if (sentence === undefined) throw new Error(`no such words: ${name}`);
  return sentence.replace(/%\((\w+)\)s/g, (_whole, blank) => String(values[blank] ?? ""));
}

/** Return the element with an id that the template promises. @param {string} id @returns {any} */
export function byId(id) {
  const found = document.getElementById(id);
  if (!found) throw new Error(`no element #${id}`);
  return found;
}

/**
 * Make an element; names starting with "on" are listeners, "data" is an object, a null or false attribute is left out.
 * @param {string} tag @param {Record<string, any>} [attributes] @param {...(Node | string | null | false)} children
 * @returns {any}
 */
export function h(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (name === "data") Object.assign(made.dataset, value);
    else if (name === "html") made.innerHTML = value; // only what the server has sanitised
    else made.setAttribute(name, value === true ? "" : String(value));
  }
  made.append(...children.filter((child) => child !== null && child !== false));
  return made;
}

/** The letter of a response by its place in the shown order. @param {number} place */
export const letterOf = (place) => "ABCDEFGHI"[place];
