// Colours of the points and which of them are shown; filters go over the whole cloud and combine.

import type { Column } from "../data/tiles";
import { api } from "../data/api";
import { kindColour, numberColour, SIMILARITY, themeOf } from "../scene/palettes";
import { NO_FILTERS, type Filters } from "../state/store";
import { number, t } from "../text";
import type { Context } from "./context";
import { button, h } from "./dom";
import { unreached } from "./unreached";
import { clusterLevel, clusterOptions, colourByCluster } from "./labels";

const LISTED = 12;
const SITES = 200;
const NONE = 65_535;

export function looks(context: Context): HTMLElement {
  const { store, tiles, live } = context;
  if (!tiles) return h("section", { hidden: true });
  const columns = tiles.info.columns;
  const numbers = columns.filter((column) => column.kind === "number");
  const colour = h(
    "select",
    { id: "colour", onchange: () => store.set({ colour: colour.value }) },
    ...columns.filter(({ kind }) => kind !== "cluster").map(({ name }) => h("option", { value: name, selected: name === store.state.colour }, name === "category" ? t("category") : name)),
    ...clusterOptions(context),
    live && h("option", { value: SIMILARITY, selected: store.state.colour === SIMILARITY }, t("similarityToQuery")),
  );
  const status = h("p", { class: "note", role: "status", id: "filter-count" });
  const change = (part: Partial<Filters>): void => store.set({ filters: { ...store.state.filters, ...part } });

  const kinds = h("div", { class: "kinds", role: "group", "aria-label": t("category") });
  tiles.info.categories.slice(0, LISTED).forEach((name, at) => {
    const box = h("input", {
      type: "checkbox",
      checked: store.state.filters.categories.includes(name),
      onchange: () => {
        const others = store.state.filters.categories.filter((other) => other !== name);
        change({ categories: box.checked ? [...others, name] : others });
      },
    });
    const patch = h("span", { class: "patch" });
    patch.style.background = kindColour(at + 1, themeOf());
    kinds.append(h("label", {}, box, patch, name));
  });

  const sites = h("select", { id: "site", onchange: () => change({ domain: sites.value }) }, h("option", { value: "" }, t("allSites")));
  if (columns.some((column) => column.name === "domain")) {
    void tiles.columnValues("domain").then((values) => {
      if (values.length < 2) return sites.parentElement?.remove();
      for (const [name, rows] of values.slice(0, SITES)) sites.append(h("option", { value: name }, `${name} (${number(rows)})`));
      sites.value = store.state.filters.domain;
      return undefined;
    }, context.problem);
  }

  const ranges = numbers.map((column) => rangeFilter(column, store.state.filters.ranges[column.name], (range) => {
    const { [column.name]: _, ...others } = store.state.filters.ranges;
    change({ ranges: range ? { ...others, [column.name]: range } : others });
  }));

  const legend = h("div", { class: "legend", id: "legend" });
  const drawLegend = (): void => {
    const column = columns.find((each) => each.name === store.state.colour);
    if (store.state.colour === SIMILARITY) legend.replaceChildren(...(similar ? scaleLegend(similar) : [h("span", {}, t("similarityNeedsQuery"))]));
    else legend.replaceChildren(...(column?.kind === "number" ? scaleLegend({ low: column.low!, high: column.high! }) : []));
  };
  store.on(["colour", "theme", "query"], (state, before) => {
    if (state.query !== before.query && state.colour !== SIMILARITY) return;
    void colourMap(context).then(drawLegend, context.problem);
  });
  store.on(["space"], (state) => {
    if (clusterLevel(state.colour)) void colourMap(context).catch(context.problem);
  });
  store.on(["filters"], () => void filterMap(context, status).catch(context.problem));
  const reset = button(
    t("clear"),
    () => {
      store.set({ filters: NO_FILTERS });
      for (const input of section.querySelectorAll("input")) {
        if (input.type === "checkbox") input.checked = false;
        else input.value = "";
      }
      sites.value = "";
    },
    { class: "small", id: "clear-filters" },
  );
  const section = h(
    "details",
    { class: "looks" },
    h("summary", {}, h("h2", {}, t("looks"))),
    h("label", { class: "line" }, t("colourBy"), colour),
    legend,
    h("h3", {}, t("filter")),
    tiles.info.categories.length ? kinds : null,
    columns.some((column) => column.name === "domain") ? h("label", { class: "line" }, t("site"), sites) : null,
    ...ranges,
    h("div", { class: "row" }, status, reset),
    live && context.map ? unreached(context) : null,
  );
  drawLegend();
  void colourMap(context).catch(context.problem);
  if (store.state.filters !== NO_FILTERS) void filterMap(context, status).catch(context.problem);
  return section;
}

function rangeFilter(column: Column, range: [number, number] | undefined, changed: (range: [number, number] | null) => void): HTMLElement {
  const [low, high] = [column.low!, column.high!];
  const step = String((high - low) / 200);
  const shorten = (value: number): string => String(Number(value.toPrecision(4)));
  const field = (label: string, value: number | undefined): HTMLInputElement =>
    h("input", { type: "number", step: "any", "data-step": step, placeholder: shorten(label === t("from") ? low : high), "aria-label": `${column.name} ${label}`, value: value === undefined ? "" : shorten(value) });
  const from = field(t("from"), range && range[0] > low ? range[0] : undefined);
  const to = field(t("to"), range && range[1] < high ? range[1] : undefined);
  const update = (): void => {
    const chosen: [number, number] = [from.value === "" ? low : Number(from.value), to.value === "" ? high : Number(to.value)];
    changed(chosen[0] <= low && chosen[1] >= high ? null : chosen);
  };
  from.addEventListener("change", update);
  to.addEventListener("change", update);
  return h("div", { class: "line range", role: "group", "aria-label": column.name }, h("span", {}, column.name), h("span", {}, from, " – ", to));
}

function scaleLegend({ low, high }: { low: number; high: number }): HTMLElement[] {
  const bar = h("span", { class: "bar" });
  const dark = themeOf() === "dark";
  const stops = [0, 0.25, 0.5, 0.75, 1].map((at) => `rgb(${numberColour(0.12 + 0.88 * (dark ? at : 1 - at)).map(Math.round).join(" ")})`);
  bar.style.background = `linear-gradient(90deg, ${stops.join(", ")})`;
  return [h("span", {}, number(low, 3)), bar, h("span", {}, number(high, 3))];
}

let similar: { low: number; high: number } | null = null;

/** Give the map a colour for every row, by the column that was chosen; a comparison has colours of its own. */
export async function colourMap(context: Context): Promise<void> {
  const { store, tiles, map } = context;
  const { colour: name, comparison, query } = store.state;
  if (!map) return;
  map.labels.colour(null);
  if (comparison) return map.colourBy(comparison.kinds.map((kind) => [0, 1, 3][kind]!), "code");
  if (name === SIMILARITY) {
    const found = query ? await api.similarities(query) : null;
    if (store.state.colour !== name || store.state.query !== query) return;
    similar = found;
    return found ? map.colourBy(found.rows, "number") : map.colourBy(null, "code");
  }
  if (clusterLevel(name)) return colourByCluster(context, themeOf());
  const column = tiles!.info.columns.find((each) => each.name === name);
  if (!column || column.kind === "cluster" || name === "category") return map.colourBy(null, "code");
  const codes = await tiles!.column(name);
  if (store.state.colour !== name) return;
  const rows = new Uint8Array(codes.length);
  if (column.kind === "number") for (let row = 0; row < codes.length; row++) rows[row] = codes[row] === NONE ? 0 : 1 + Math.round((codes[row]! / 65_534) * 254);
  else for (let row = 0; row < codes.length; row++) rows[row] = codes[row] ? 1 + ((codes[row]! - 1) % 255) : 0;
  map.colourBy(rows, column.kind);
}

/** Rows that pass the filters: 255 for those, 0 for others; null when there is no filter. */
export async function passing({ store, tiles }: Context): Promise<Uint8Array | null> {
  const { categories, domain, ranges } = store.state.filters;
  const tests: [Uint16Array, (code: number) => boolean][] = [];
  if (categories.length) {
    const codes = new Set(categories.map((name) => tiles!.info.categories.indexOf(name) + 1));
    tests.push([await tiles!.column("category"), (code) => codes.has(code)]);
  }
  if (domain) {
    const wanted = (await tiles!.columnValues("domain")).findIndex(([name]) => name === domain) + 1;
    tests.push([await tiles!.column("domain"), (code) => code === wanted]);
  }
  for (const [name, [low, high]] of Object.entries(ranges)) {
    const column = tiles!.info.columns.find((each) => each.name === name && each.kind === "number");
    if (!column) continue;
    const span = (column.high! - column.low!) / 65_534;
    // half a step of the stored values, so that a bound written as it is shown keeps what has it
    const [from, to] = [(low - column.low!) / span - 0.5, (high - column.low!) / span + 0.5];
    tests.push([await tiles!.column(name), (code) => code !== NONE && code >= from && code <= to]);
  }
  if (!tests.length) return null;
  const rows = new Uint8Array(tiles!.info.rows).fill(255);
  for (const [codes, passes] of tests) for (let row = 0; row < rows.length; row++) if (rows[row] && !passes(codes[row]!)) rows[row] = 0;
  return rows;
}

async function filterMap(context: Context, status: HTMLElement): Promise<void> {
  const filters = context.store.state.filters;
  const rows = await passing(context);
  if (context.store.state.filters !== filters) return;
  context.map?.filter(rows);
  let count = 0;
  for (const row of rows ?? []) if (row) count++;
  status.textContent = rows ? t("filtered", { count, rows: rows.length }) : "";
}
