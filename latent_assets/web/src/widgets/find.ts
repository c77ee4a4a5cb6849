// One field to find images by meaning, words or both, or by an image; a list of what was found.

import { address, api, type Result } from "../data/api";
import type { Mode } from "../state/store";
import { number, t } from "../text";
import type { Context } from "./context";
import { button, h } from "./dom";

const ASKED = 48;
const MODES: Mode[] = ["meaning", "words", "both"];

export function find(context: Context): HTMLElement {
  const { store, live } = context;
  let asking: AbortController | null = null;
  const field = h("input", {
    type: "search",
    id: "search",
    name: "q",
    maxLength: 1000,
    autocomplete: "off",
    placeholder: t("searchField"),
    "aria-label": t("searchField"),
    value: store.state.query,
  });
  const mode = h(
    "select",
    { id: "mode", "aria-label": t("search") },
    ...MODES.map((each) => h("option", { value: each, selected: each === store.state.mode }, t(each))),
  );
  const list = h("ol", { class: "results" });
  const count = h("p", { class: "note", role: "status", id: "result-count" });

  async function ask(answer: (signal: AbortSignal) => Promise<{ results: Result[] }>): Promise<void> {
    asking?.abort();
    const own = (asking = new AbortController());
    list.setAttribute("aria-busy", "true");
    try {
      const { results } = await answer(own.signal);
      const { categories } = store.state.filters;
      const among = (result: Result): boolean => !categories.length || categories.includes(result.category ?? "");
      store.set({ results: results.filter(among) });
    } catch (error) {
      if (!own.signal.aborted) context.problem(error);
    } finally {
      if (asking === own) list.removeAttribute("aria-busy");
    }
  }

  function search(): void {
    const query = field.value.trim();
    store.set({ query, mode: mode.value as Mode });
    if (!query) return clear();
    const { categories, domain } = store.state.filters;
    const words: Record<string, string> = { q: query, mode: mode.value, k: String(ASKED) };
    if (categories.length === 1) words["category"] = categories[0]!;
    if (domain) words["domain"] = domain;
    void ask((signal) => api.search(words, signal));
  }

  function clear(): void {
    asking?.abort();
    field.value = "";
    store.set({ query: "", results: null });
  }

  const file = h("input", { type: "file", accept: "image/*", class: "hidden-file", id: "search-file" });
  file.addEventListener("change", () => {
    const found = file.files?.[0];
    if (found) void ask(() => api.searchImage(found, { k: String(ASKED) }));
    file.value = "";
  });

  function draw(): void {
    const { results } = store.state;
    count.textContent = results === null ? "" : results.length ? t("results", { count: results.length }) : t("noResults");
    list.replaceChildren(...(results ?? []).map((result) => h("li", {}, row(context, result))));
    clearButton.hidden = results === null;
  }
  const clearButton = button(t("clear"), clear, { class: "small" });
  store.on(["results"], draw);
  store.on(["query"], (state) => {
    if (document.activeElement !== field) field.value = state.query;
  });
  mode.addEventListener("change", () => field.value.trim() && search());
  store.on(["filters"], (state) => state.query && state.results && search());
  draw();
  if (store.state.query && live) queueMicrotask(search);
  const form = h(
    "form",
    {
      role: "search",
      onsubmit: (event: Event) => {
        event.preventDefault();
        search();
      },
    },
    h("div", { class: "row" }, field, h("button", { type: "submit" }, t("search"))),
    h("div", { class: "row" }, mode, h("label", { for: "search-file", class: "link" }, t("searchImage")), file, clearButton),
  );
  return h("section", { class: "find", "aria-labelledby": "find-title", hidden: !live }, h("h2", { id: "find-title" }, t("find")), form, count, list);
}

export function row(context: Context, result: Result): HTMLElement {
  const name = result.caption ?? t("caption_none");
  return h(
    "button",
    { type: "button", class: "result", onclick: () => context.select(result.id, true), "data-id": result.id },
    h("img", { src: address(result.thumbnail), alt: "", loading: "lazy" }),
    h("span", { class: "grow" }, name, result.category ? h("small", {}, result.category) : null),
    result.similarity === null ? null : h("small", {}, number(result.similarity, 3)),
  );
}
