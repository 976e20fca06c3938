/** A verdict while it is being made: every change returns a new one, so that undoing is taking back the one before. */

/**
 * @typedef {{tiers: string[][], all_bad: boolean, strength: number | null,
 *   ratings: Record<string, Record<string, number>>, flags: Record<string, string[]>,
 *   rewrites: Record<string, string>, rationale: string}} Verdict
 * @typedef {{key: string, label: string, minimum: number, maximum: number, required: boolean,
 *   anchors: Record<string, string>, letter: string, labels: Record<string, string>}} Attribute
 * @typedef {{name: string, label: string, description: string, letter: string, labels: Record<string, string>}} Flag
 * @typedef {{ranking: string, ties: boolean, partial: boolean, all_bad: boolean, strength: string,
 *   strength_levels: number, strength_labels: string[], two_sided?: boolean, attributes: Attribute[], flags: Flag[],
 *   rationale: string, rewrites: boolean, translations?: Record<string, Record<string, string>>}} Protocol
 * @typedef {{id: string, text: string, html: string}} Response
 * @typedef {{id: string, assignment: {id: string, expires_at: string | null},
 *   prompt: {messages: {role: string, content: string, html: string}[]}, responses: Response[],
 *   protocol: Protocol, draft: any, guidelines?: {id: string, read: boolean} | null}} Task
 * @typedef {{part: string, words: string, key?: string, response?: string}} Missing
 */

/** @returns {Verdict} */
export function blank() {
  return { tiers: [], all_bad: false, strength: null, ratings: {}, flags: {}, rewrites: {}, rationale: "" };
}

/** Read a stored judgment or a draft; what the task does not know is left out. @param {any} stored @param {Task} task */
export function read(stored, task) {
  const known = new Set(task.responses.map((response) => response.id));
  /** @param {any} values */
  const ofKnown = (values) => Object.fromEntries(Object.entries(values ?? {}).filter(([id]) => known.has(id)));
  const tiers = Array.isArray(stored?.ranking) ? stored.ranking : [];
  return {
    ...blank(),
    tiers: tiers.map((/** @type {string[]} */ tier) => tier.filter((id) => known.has(id))).filter(
      (/** @type {string[]} */ tier) => tier.length,
    ),
    all_bad: stored?.all_bad === true,
    strength: Number.isInteger(stored?.strength) ? stored.strength : null,
    ratings: ofKnown(stored?.ratings),
    flags: ofKnown(stored?.flags),
    rewrites: ofKnown(stored?.rewrites),
    rationale: typeof stored?.rationale === "string" ? stored.rationale : "",
  };
}

/** @param {string[][]} tiers @param {string} id */
function without(tiers, id) {
  return tiers.map((tier) => tier.filter((other) => other !== id)).filter((tier) => tier.length);
}

/** Put a response next in the ranking. @param {Verdict} verdict @param {string} id @returns {Verdict} */
export function place(verdict, id) {
  return { ...verdict, tiers: [...without(verdict.tiers, id), [id]] };
}

/** Tie a response with the last placed. @param {Verdict} verdict @param {string} id @returns {Verdict} */
export function tie(verdict, id) {
  const tiers = without(verdict.tiers, id);
  const last = tiers.pop() ?? [];
  return { ...verdict, tiers: [...tiers, [...last, id]] };
}

/** Take a response back, the last one if none is named. @param {Verdict} verdict @param {string} [id] */
export function takeBack(verdict, id = verdict.tiers.at(-1)?.at(-1)) {
  return id === undefined ? verdict : { ...verdict, tiers: without(verdict.tiers, id) };
}

/**
 * Move a response into a tier, or into a new tier before it.
 * @param {Verdict} verdict @param {string} id @param {number} index @param {boolean} asNew @returns {Verdict}
 */
export function move(verdict, id, index, asNew) {
  const tiers = verdict.tiers.map((tier) => tier.filter((other) => other !== id));
  if (asNew || !tiers[index]) tiers.splice(index, 0, [id]);
  else tiers[index] = [...tiers[index], id];
  return { ...verdict, tiers: tiers.filter((tier) => tier.length) };
}

/** @param {Verdict} verdict @param {Task} task @returns {Verdict} */
export function allEqual(verdict, task) {
  return { ...verdict, tiers: [task.responses.map((response) => response.id)] };
}

/** @param {Verdict} verdict @returns {Verdict} */
export function toggleBad(verdict) {
  return { ...verdict, all_bad: !verdict.all_bad };
}

/** Rate a response; the same rating again takes it back. @param {Verdict} verdict @param {string} id
 * @param {string} key @param {number} score @returns {Verdict} */
export function rate(verdict, id, key, score) {
  const { [key]: before, ...others } = verdict.ratings[id] ?? {};
  const scores = before === score ? others : { ...others, [key]: score };
  return { ...verdict, ratings: { ...verdict.ratings, [id]: scores } };
}

/** @param {Verdict} verdict @param {string} id @param {string} name @returns {Verdict} */
export function toggleFlag(verdict, id, name) {
  const names = verdict.flags[id] ?? [];
  const changed = names.includes(name) ? names.filter((other) => other !== name) : [...names, name];
  return { ...verdict, flags: { ...verdict.flags, [id]: changed } };
}

/** @param {Verdict} verdict @param {string} id @param {string | null} text @returns {Verdict} */
export function rewrite(verdict, id, text) {
  const { [id]: _before, ...rewrites } = verdict.rewrites;
  return { ...verdict, rewrites: text === null ? rewrites : { ...rewrites, [id]: text } };
}

/**
 * Return the ranking with what follows by itself: the only one left comes last, and where all are bad and nothing is
 * placed they are equal. In a partial ranking whoever is left out stays unranked.
 * @param {Verdict} verdict @param {Task} task @returns {{tiers: string[][], follows: string[]}}
 */
export function ranking(verdict, task) {
  const placed = new Set(verdict.tiers.flat());
  const left = task.responses.map((response) => response.id).filter((id) => !placed.has(id));
  const { partial, ties } = task.protocol;
  if (placed.size === 0 && verdict.all_bad && ties && task.protocol.ranking !== "off") {
    return { tiers: [left], follows: left };
  }
  if (placed.size > 0 && left.length === 1 && !partial) return { tiers: [...verdict.tiers, left], follows: left };
  return { tiers: verdict.tiers, follows: [] };
}

/** Whether two responses are ranked, neither above the other. @param {string[][]} tiers */
export function isTie(tiers) {
  return tiers.length === 1 && tiers[0].length > 1;
}

/**
 * The step of a two-sided scale that a verdict says: below 0 the first one shown is better, 0 they are equal, above 0 the
 * second; half a step where the strength is open yet, null where nothing is placed.
 * @param {Verdict} verdict @param {Task} task @returns {number | null}
 */
export function sideOf(verdict, task) {
  const { tiers } = ranking(verdict, task);
  if (tiers.flat().length !== 2) return null;
  if (isTie(tiers)) return 0;
  return (tiers[0][0] === task.responses[0].id ? -1 : 1) * (verdict.strength || 0.5);
}

/** Say ranking and strength in one; the same step again takes it back. @param {Verdict} verdict @param {Task} task
 * @param {number} side @returns {Verdict} */
export function toSide(verdict, task, side) {
  if (sideOf(verdict, task) === side) return { ...verdict, tiers: [], strength: null };
  const [first, second] = task.responses.map((response) => response.id);
  const tiers = side === 0 ? [[first, second]] : side < 0 ? [[first], [second]] : [[second], [first]];
  return { ...verdict, tiers, strength: Math.abs(side) };
}

/** The steps of a two-sided scale. @param {Protocol} protocol */
export function sides({ strength_levels: most, ties }) {
  return Array.from({ length: 2 * most + 1 }, (_, place) => place - most).filter((side) => side !== 0 || ties);
}

/** Return the API's judgment. @param {Verdict} verdict @param {Task} task @param {number} seconds */
export function asBody(verdict, task, seconds) {
  const { protocol } = task;
  const { tiers } = ranking(verdict, task);
  /** @type {Record<string, unknown>} */
  const body = { lead_time: Math.round(seconds * 10) / 10 };
  if (protocol.ranking !== "off" && tiers.length) body.ranking = tiers;
  if (protocol.all_bad) body.all_bad = verdict.all_bad;
  if (protocol.strength !== "off" && tiers.length) body.strength = isTie(tiers) ? 0 : verdict.strength;
  if (protocol.attributes.length) body.ratings = verdict.ratings;
  if (protocol.flags.length) body.flags = verdict.flags;
  if (protocol.rewrites) body.rewrites = changedRewrites(verdict, task);
  if (protocol.rationale !== "off") body.rationale = verdict.rationale;
  return body;
}

/** @param {Verdict} verdict @param {Task} task */
function changedRewrites(verdict, task) {
  const texts = new Map(task.responses.map((response) => [response.id, response.text]));
  return Object.fromEntries(Object.entries(verdict.rewrites).filter(([id, text]) => text !== texts.get(id)));
}

/** Return the draft that the server and this device keep. @param {Verdict} verdict @param {number} seconds */
export function asDraft(verdict, seconds) {
  const { tiers, ...others } = verdict;
  return { ...others, ranking: tiers, lead_time: Math.round(seconds * 10) / 10, at: Date.now() };
}

/** Return what the protocol still wants. @param {Verdict} verdict @param {Task} task @returns {Missing[]} */
export function missing(verdict, task) {
  const { protocol } = task;
  /** @type {Missing[]} */
  const found = [];
  const { tiers } = ranking(verdict, task);
  const placed = tiers.flat().length;
  if (protocol.two_sided && protocol.ranking === "required" && placed === 0) {
    found.push({ part: "strength", words: "need_scale" });
  } else if (protocol.ranking === "required" && placed === 0) {
    found.push({ part: "ranking", words: protocol.partial ? "need_ranking_some" : "need_ranking" });
  } else if (protocol.ranking !== "off" && placed > 0 && placed < task.responses.length && !protocol.partial) {
    found.push({ part: "ranking", words: "need_ranking" });
  }
  if (protocol.strength === "required" && placed === 2 && !isTie(tiers) && verdict.strength === null) {
    found.push({ part: "strength", words: "need_strength" });
  }
  for (const { id } of task.responses) {
    for (const { key, required } of protocol.attributes) {
      if (required && verdict.ratings[id]?.[key] === undefined) {
        found.push({ part: "rating", words: "need_rating", key, response: id });
      }
    }
  }
  if (protocol.rationale === "required" && !verdict.rationale.trim()) {
    found.push({ part: "rationale", words: "need_rationale" });
  }
  return found;
}
