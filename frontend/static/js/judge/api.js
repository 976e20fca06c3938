/** The server's side of the page: requests with session and CSRF token, and the four ways in which they fail. */

/** The server cannot be reached: nothing is known of what it did. */
export class Offline extends Error {}
/** The server answered that it failed. */
export class ServerFailed extends Error {}
/** The session has ended. */
export class SignedOut extends Error {}

/** The server said no, with its reasons by field. */
export class Refused extends Error {
  /** @param {number} status @param {Record<string, string[] | string>} errors */
  constructor(status, errors) {
    super(Object.values(errors).flat().join(" ") || `HTTP ${status}`);
    this.status = status;
    this.errors = errors;
  }
}

const TIMEOUT_MS = 20_000;

function csrfToken() {
  return /(?:^|;\s*)csrftoken=([^;]*)/.exec(document.cookie)?.[1] ?? "";
}

/**
 * Send a request and return the answer's JSON, null where there is none, with the server's clock beside it.
 * @param {string} method @param {string} url @param {unknown} [body]
 * @param {{key?: string, keepalive?: boolean}} [options] key: the Idempotency-Key
 */
export async function send(method, url, body, options = {}) {
  const headers = new Headers({ Accept: "application/json", "X-CSRFToken": csrfToken() });
  if (body !== undefined) headers.set("Content-Type", "application/json");
  if (options.key) headers.set("Idempotency-Key", options.key);
  let answer, text;
  try {
    answer = await fetch(url, {
      method,
      headers,
      body: body === undefined ? undefined : JSON.stringify(body),
      keepalive: options.keepalive ?? false,
      credentials: "same-origin",
      redirect: "error",
      signal: AbortSignal.timeout(TIMEOUT_MS),
    });
    text = await answer.text();
  } catch (error) {
    throw new Offline(String(error));
  }
  if (answer.status === 401) throw new SignedOut();
  if (answer.status >= 500 || answer.status === 429) throw new ServerFailed(`HTTP ${answer.status}`);
  const json = text && answer.headers.get("Content-Type")?.includes("json") ? JSON.parse(text) : null;
  if (!answer.ok) throw new Refused(answer.status, json ?? {});
  const date = Date.parse(answer.headers.get("Date") ?? "");
  return { status: answer.status, json, now: Number.isNaN(date) ? Date.now() : date };
}

/**
 * Sign in by the site's own form; true where the server took the password.
 * @param {string} url @param {string} username @param {string} password
 */
export async function signIn(url, username, password) {
  let answer;
  try {
    if (!csrfToken()) await fetch(url, { credentials: "same-origin" }); // the form's page sets the cookie
    const form = new URLSearchParams({ username, password, csrfmiddlewaretoken: csrfToken(), next: "/" });
    answer = await fetch(url, { method: "POST", body: form, redirect: "manual", credentials: "same-origin" });
  } catch (error) {
    throw new Offline(String(error));
  }
  if (answer.status >= 500) throw new ServerFailed(`HTTP ${answer.status}`);
  return answer.type === "opaqueredirect";
}
