"use strict";
const at = (id) => document.getElementById(id);
const INVISIBLE = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u202a-\u202e\u2066-\u2069\ufffe\uffff]/gu;
/**
 * `asked` is the request whose order is shown: its query and texts; the order, `own` and `base`; and, for what training
 * changes, the order `before` the last training that was reported, which ended at `trained`.
 */
const state = { key: null, models: [], asked: null, asking: 0, watching: 0 };

class Refused extends Error {
  constructor(status, message, seconds) { super(message); Object.assign(this, { status, seconds }); }
}

const call = async (method, path, body, headers = {}) => {
  const sent = { ...headers, ...(state.key ? { authorization: `Bearer ${state.key}` } : {}) };
  if (body !== undefined) sent["content-type"] = "application/json";
  const answer = await fetch(path, { method, headers: sent, body: body === undefined ? undefined : JSON.stringify(body) })
    .catch(() => { throw new Refused(0, "The server does not answer."); });
  const found = await answer.json().catch(() => ({}));
  at("key-form").hidden = answer.status !== 401;
  if (answer.ok) return found;
  if (answer.status === 401) throw new Refused(401, state.key ? "The server refuses this API key." : "");
  const seconds = Number(answer.headers.get("retry-after"));
  throw new Refused(answer.status, found.error?.message || found.error || `the server answered ${answer.status}`, seconds);
};

const sleep = (seconds) => new Promise((done) => setTimeout(done, 1000 * seconds));

const say = (text, failed = false) => {
  at("status").textContent = text;
  at("status").className = failed ? "failed" : "";
};

const element = (name, attributes = {}, ...children) => {
  const made = document.createElement(name);
  for (const [attribute, value] of Object.entries(attributes)) {
    if (attribute === "class") made.className = value; else made.setAttribute(attribute, value);
  }
  made.append(...children);
  return made;
};

/** A text as nodes; letters that hide or reorder others are shown by their numbers. */
const visible = (text) => {
  const parts = [];
  let last = 0;
  for (const found of text.matchAll(INVISIBLE)) {
    const number = found[0].codePointAt(0).toString(16).toUpperCase().padStart(4, "0");
    parts.push(text.slice(last, found.index), element("span", { class: "hidden-letter" }, `U+${number}`));
    last = found.index + found[0].length;
  }
  return [...parts, text.slice(last)];
};

const decimal = (value, places = 3) => value.toFixed(places).replace("-", "−");
const pieces = (count) => `${count} ${count === 1 ? "piece" : "pieces"} of feedback`;
const user = () => at("user").value.trim();
const chosen = () => state.models.find((each) => each.id === at("ranker").value);
const learns = () => Boolean(chosen()?.learns);
const mode = () => document.querySelector("[name=mode]:checked").value;
/** Whether the chosen ranker scores texts; others choose among the model's responses alone, when these are sampled. */
const reranks = () => mode() !== "route" && chosen()?.does === "rerank";

const showMode = () => {
  for (const each of document.querySelectorAll("[data-for]")) each.hidden = each.dataset.for !== mode();
  at("who").hidden = mode() === "route" || !at("ranker").length;
  at("user").closest("p").hidden = at("lesson").hidden = !learns();
  at("go").textContent = { give: "Rank", search: "Search", chat: "Ask", route: "Choose" }[mode()];
};

const fill = (select, values) => select.replaceChildren(...values.map((each) => element("option", { value: each.value ?? each }, each.text ?? each)));

/** Show what can be done with the chosen ranker; whether there is anything. */
const offer = () => {
  const modes = {
    give: chosen()?.does === "rerank", search: at("pool").length > 0, chat: Boolean(chosen()?.chats_with), route: at("router").length > 0,
  };
  const choices = [...document.querySelectorAll("[name=mode]")];
  for (const each of choices) each.closest("label").hidden = !modes[each.value];
  if (!modes[mode()]) (choices.find((each) => modes[each.value]) ?? choices[0]).checked = true;
  at("modes").hidden = Object.values(modes).filter(Boolean).length < 2;
  showMode();
  return Object.values(modes).some(Boolean);
};

/** The rankers of the server, once it has loaded them. */
const models = async () => {
  for (;;) {
    try {
      return (await call("GET", "v1/models")).data;
    } catch (error) {
      if (error.status !== 503) throw error;
      say("The server is loading its rankers: this page waits for them.");
      await sleep(Math.min(Math.max(error.seconds || 2, 1), 60));
    }
  }
};

const start = async () => {
  try {
    state.models = await models();
  } catch (error) {
    say(error.message, true);
    if (error.status === 401) at("key").select();
    return;
  }
  const rankers = state.models.filter((each) => each.does === "rerank" || each.does === "chat");
  const pools = state.models.filter((each) => each.does === "search").flatMap((each) => each.pools.map((pool) => ({ value: JSON.stringify([each.id, pool]), text: `${each.id}: ${pool}` })));
  fill(at("ranker"), rankers.map((each) => each.id));
  fill(at("pool"), pools);
  fill(at("router"), state.models.filter((each) => each.does === "route").map((each) => each.id));
  at("ask").hidden = !offer();
  say(at("ask").hidden ? "This server has no ranker that this page can ask." : "", true);
  await refreshHead();
};

const candidates = async (query) => {
  if (mode() === "search") {
    const [model, pool] = JSON.parse(at("pool").value);
    const found = await call("POST", "v1/search", { query, model, pool, top_k: Number(at("top").value) });
    return { texts: found.results.map((each) => each.document.text), scores: found.results.map((each) => each.score), title: `Found by ${model}` };
  }
  if (mode() === "route") {
    const found = await call("POST", "v1/route", { query, model: at("router").value });
    const texts = found.ranking.map((each) => [each.id, ...each.reasons].join("\n"));
    return { texts, scores: found.ranking.map((each) => each.score), title: `Chosen by ${found.router}` };
  }
  if (mode() === "chat") {
    const asked = { messages: [{ role: "user", content: query }], ranker: at("ranker").value, best_of: Number(at("samples").value), return_candidates: true };
    const found = await call("POST", "v1/chat/completions", { model: at("ranker").value, ...asked });
    const sampled = [...found.ranking.candidates].sort((one, other) => one.index - other.index);
    return { texts: sampled.map((each) => each.text), scores: sampled.map((each) => each.score), first: "the first sample", title: `Chosen by ${asked.ranker}` };
  }
  return { texts: at("given").value.split("\n").map((each) => each.trim()).filter(Boolean) };
};

/** Whether the server finds nothing to read in a text. */
const isEmpty = (text) => !text.replace(/[\u001c-\u001f\u0085]/gu, "").trim();

/** The order of texts by the ranker, which reads those that are `given`; empty ones come last, without a score. */
const rerank = async (asked, of) => {
  const documents = asked.given.map((index) => asked.texts[index]);
  const body = { model: asked.ranker, query: asked.query, documents, raw_scores: true, return_documents: false };
  const found = await call("POST", "v1/rerank", of ? { ...body, user: of } : body);
  const results = found.results.map((each) => ({ index: asked.given[each.index], relevance_score: each.relevance_score }));
  const empty = [...asked.texts.keys()].filter((index) => !asked.given.includes(index)).map((index) => ({ index, relevance_score: null }));
  return { version: found.meta.personal?.version ?? 0, results: [...results, ...empty] };
};

const places = (order) => {
  const found = [];
  order.results.forEach((each, place) => { found[each.index] = place + 1; });
  return found;
};

const item = (asked, each, place, was, canPick) => {
  const line = element("p", {}, element("strong", {}, `${place}`));
  if (each.relevance_score === null) line.append(element("span", { class: "note" }, "empty, so not scored"));
  else line.append(element("span", {}, element("span", { class: "note" }, "score "), decimal(each.relevance_score)));
  if (was !== undefined && was !== place) {
    const way = was > place ? "up" : "down";
    line.append(element("span", { class: `moved ${way}` }, `${way === "up" ? "▲" : "▼"} ${Math.abs(was - place)} ${way}, from ${was}`));
  }
  if (asked.first && each.index === 0) line.append(element("span", { class: "tag" }, asked.first));
  if (asked.picked === each.index) line.append(element("span", { class: "tag" }, "your pick"));
  if (canPick && each.relevance_score !== null) {
    const button = element("button", { type: "button", "aria-label": `Pick as the best: ${asked.texts[each.index].slice(0, 80)}`, "data-index": each.index }, "This is the best");
    button.addEventListener("click", () => pick(asked, each.index));
    line.append(button);
  }
  const text = element("div", { class: "text", dir: "auto" }, ...visible(asked.texts[each.index]));
  return element("li", asked.picked === each.index ? { class: "picked" } : {}, line, text);
};

const show = (asked, { own, base }) => {
  const before = places(base), isSame = state.asked === asked;
  const focused = isSame ? document.activeElement?.dataset?.index : undefined;
  state.asked = Object.assign(asked, { own, base });
  at("results").hidden = false;
  at("base").hidden = own === null;
  at("summary").textContent = own === null ? "" : own.results[0].index === base.results[0].index
    ? "Both orders begin with the same candidate."
    : `Without what you taught it, the ranker would have begun with the candidate that is now number ${places(own)[base.results[0].index]}.`;
  const shown = own ?? base;
  at("own-title").textContent = own === null ? asked.title : `For ${asked.user}: ${own.version ? `version ${own.version}` : "version 0, the base ranker"}`;
  at("base-title").textContent = "For everybody else: the base ranker";
  at("own-list").replaceChildren(...shown.results.map((each, place) => item(asked, each, place + 1, own === null ? undefined : before[each.index], own !== null && asked.given.length > 1)));
  at("base-list").replaceChildren(...base.results.map((each, place) => item(asked, each, place + 1, undefined, false)));
  if (focused !== undefined) document.querySelector(`#own-list [data-index="${focused}"]`)?.focus();
};

const rank = async (asked) => {
  if (!asked.ranker) {
    const results = asked.texts.map((_, index) => ({ index, relevance_score: asked.scores[index] }));
    return { own: null, base: { results: results.sort((one, other) => other.relevance_score - one.relevance_score) } };
  }
  const [base, own] = await Promise.all([rerank(asked), asked.user ? rerank(asked, asked.user) : null]);
  return { own, base };
};

/** Rank the texts that are shown again; an answer that comes late, after other texts or a newer order, is not shown. */
const refresh = async (asked) => {
  const turn = asked.turn = (asked.turn ?? 0) + 1, order = await rank(asked);
  if (asked === state.asked && turn === asked.turn) show(asked, order);
};

const ask = async () => {
  if (at("go").disabled) return;
  const asking = ++state.asking, query = at("query").value;
  const ranker = reranks() ? at("ranker").value : null, of = learns() ? user() : "";
  say("Working …");
  at("go").disabled = true;
  try {
    const found = await candidates(query);
    if (!found.texts.length) throw new Error("There are no candidates.");
    const asked = { ...found, query, ranker, user: of, picked: null, ...(ranker ? { title: "The ranker's order" } : {}) };
    asked.given = [...found.texts.keys()].filter((index) => !isEmpty(found.texts[index]));
    if (ranker && !asked.given.length) throw new Error("All candidates are empty.");
    const order = await rank(asked);
    asked.trained = (await showHead())?.last_training?.created;
    if (asking !== state.asking) return;
    asked.before = order.own;
    show(asked, order);
    at("head-change").textContent = "";
    say(`${found.texts.length} candidates, best first.`);
  } catch (error) {
    if (asking === state.asking) say(error.message, true);
  } finally {
    if (asking === state.asking) at("go").disabled = false;
  }
};

const pick = async (asked, index) => {
  const id = crypto.randomUUID?.() ?? `${Date.now()}-${Math.random()}`;
  try {
    const given = { candidates: asked.given.map((place) => asked.texts[place]), picked: asked.given.indexOf(index) };
    const body = { user: asked.user, model: asked.ranker, query: asked.query, ...given };
    const found = await call("POST", "v1/feedback", body, { "idempotency-key": id });
    if (asked !== state.asked) return;
    asked.picked = index;
    say(`Kept: your pick is number ${found.feedback} of your feedback.`);
    await refresh(asked);
    await watch(asked);
  } catch (error) {
    say(error.message, true);
  }
};

/** Wait for the training that feedback has begun, if any, and show what it has changed. */
const watch = async (asked) => {
  const mine = ++state.watching;
  for (let wait = 0.5; wait < 20 && mine === state.watching; wait *= 1.3) {
    const head = await showHead().catch(() => null);
    if (!head || mine !== state.watching || asked !== state.asked) return;
    if (head.last_training && head.last_training.created !== asked.trained) {
      asked.trained = head.last_training.created;
      await refresh(asked);
      sayTrained(asked, head);
      asked.before = asked.own;
      return;
    }
    if (!head.is_training && head.feedback - head.learnt < head.learnsAfter) return;
    await sleep(wait);
  }
};

const sayTrained = (asked, head) => {
  const { before } = asked;
  if (head.version === before.version) {
    const why = head.last_training.outcome === "too little feedback" ? "there is too little feedback yet" : "nothing better was found";
    say(`Your ranker has learnt, and ${head.version ? `version ${head.version}` : "the base ranker"} stays: ${why}.`);
    return;
  }
  const was = places(before), is = places(asked.own);
  const moved = is.filter((place, index) => place !== was[index]).length;
  const picked = asked.picked === null ? "" : ` Your pick went from number ${was[asked.picked]} to number ${is[asked.picked]}.`;
  at("head-change").textContent = `Version ${before.version} became version ${head.version}: ${moved} of ${is.length} candidates stand elsewhere.${picked}`;
  say(`Your ranker has changed: version ${head.version}.`);
};

const outcome = (last) => {
  if (!last) return "";
  const than = last.new === undefined ? "" : ` (on ${last.held_out} held out: base ${decimal(last.base)}, present ${decimal(last.present)}, new ${decimal(last.new)})`;
  return ` The last training: ${last.outcome}${than}.`;
};

/** Show the head of the user and the ranker in the form, unless these have changed meanwhile. */
const showHead = async () => {
  const of = learns() ? user() : "", ranker = at("ranker").value;
  at("head").hidden = !of;
  if (!of) return null;
  let found;
  try {
    found = await call("GET", `v1/users/${encodeURIComponent(of)}`);
  } catch (error) {
    if (error.status !== 404) throw error;
    found = { rankers: [] };
  }
  if (of !== user() || ranker !== at("ranker").value) return null;
  const head = found.rankers.find((each) => each.model === ranker);
  at("versions-region").hidden = !head?.versions.length;
  at("forget").disabled = !found.rankers.length;
  if (!head) {
    at("head-state").textContent = `Nothing is kept of ${of}. Pick the best candidate of a few queries, and the ranker learns.`;
    return null;
  }
  head.learnsAfter = found.learns_after;
  const left = head.learnt + head.learnsAfter - head.feedback;
  const next = head.is_training ? " It is being trained now." : left > 0 ? ` It learns after ${left} more.` : " It is about to be trained.";
  at("head-state").textContent = `Version ${head.version}${head.version ? "" : ", the base"}, with ${pieces(head.feedback)} from ${of}.${next}${outcome(head.last_training)}`;
  const rows = [...head.versions, { version: 0 }].map((each) => {
    const use = element("button", { type: "button", "aria-label": `Use version ${each.version}` }, "use");
    use.addEventListener("click", () => goBack(each.version));
    const cells = [each.feedback, each.held_out, each.base, each.new].map((value, column) => element("td", {}, value === undefined ? "" : column > 1 ? decimal(value) : `${value}`));
    return element("tr", {}, element("th", { scope: "row" }, each.version ? `${each.version}` : "0, the base"), element("td", {}, each.version === head.version ? "in use" : use), ...cells);
  });
  at("versions").replaceChildren(...rows);
  return head;
};

/** Rank again after what is no training. */
const afresh = async () => {
  const { asked } = state;
  if (!asked?.user) return;
  await refresh(asked);
  asked.before = asked.own;
};

const refreshHead = () => showHead().catch((error) => say(error.message, true));

/** Hide what belongs to another user or ranker than those of the form, and wait for none of it. */
const leave = () => {
  if (at("go").disabled || !at("results").hidden) say("");
  state.asking++;
  state.watching++;
  state.asked = null;
  at("go").disabled = false;
  at("results").hidden = at("head").hidden = true;
  at("head-change").textContent = "";
};

const goBack = async (version) => {
  try {
    await call("PATCH", `v1/users/${encodeURIComponent(user())}`, { version, model: at("ranker").value });
    at("head-change").textContent = "";
    await afresh();
    await showHead();
    say(`Version ${version} is in use.`);
  } catch (error) {
    say(error.message, true);
  }
};

const forget = async () => {
  if (!confirm(`Delete all that is kept of ${user()}?`)) return;
  try {
    const found = await call("DELETE", `v1/users/${encodeURIComponent(user())}`);
    state.watching++;
    at("head-change").textContent = "";
    if (state.asked) state.asked.picked = null;
    await afresh();
    await showHead();
    say(`Forgotten: ${pieces(found.deleted.feedback)} and ${found.deleted.versions} of the versions.`);
  } catch (error) {
    say(error.message, true);
  }
};

at("key-form").addEventListener("submit", (event) => {
  event.preventDefault();
  state.key = at("key").value.trim();
  start();
});
at("ask").addEventListener("submit", (event) => { event.preventDefault(); ask(); });
at("ask").addEventListener("keydown", (event) => {
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) at("ask").requestSubmit();
});
at("modes").addEventListener("change", showMode);
at("ranker").addEventListener("change", offer);
for (const id of ["user", "ranker"]) {
  at(id).addEventListener("input", leave);
  at(id).addEventListener("change", refreshHead);
}
at("forget").addEventListener("click", forget);
start();
