// What the map says and what it does not, how good it is, whose images these are.

import type { TilesInfo } from "../data/tiles";
import { date, number, t, type Key } from "../text";
import { spaceName, type Context } from "./context";
import { button, h } from "./dom";

// measures of a map, and what a share of them means
const MEASURES: Record<string, Key> = { trustworthiness: "trustworthiness", continuity: "continuity", recall: "recall", triplets: "triplets" };

/** A row for each measure, a column for each map. */
function qualityTable(context: Context, { spaces }: TilesInfo): HTMLElement {
  const names = Object.keys(spaces);
  const cell = (value: number | string | undefined): HTMLElement => h("td", {}, typeof value === "number" ? `${number(value * 100, 1)} %` : "–");
  return h(
    "table",
    { class: "quality" },
    h("thead", {}, h("tr", {}, h("td"), ...names.map((space) => h("th", { scope: "col" }, spaceName(context, space))))),
    h("tbody", {}, ...Object.entries(MEASURES).map(([name, text]) => h("tr", {}, h("th", { scope: "row" }, t(text)), ...names.map((space) => cell(spaces[space]!.quality[name]))))),
  );
}

export function about(context: Context): HTMLDialogElement {
  const { tiles, release, store } = context;
  const info = tiles?.info;
  const dialog = h(
    "dialog",
    { class: "about", "aria-labelledby": "about-title", id: "about" },
    h("header", {}, h("h2", { id: "about-title" }, t("about")), button("×", () => dialog.close(), { class: "small", "aria-label": t("close") })),
    h("p", {}, t("aboutDistance")),
    h("p", {}, h("strong", {}, t("aboutNever"))),
    h("p", {}, t("aboutUncertainty")),
    release.synthesis ? h("p", {}, t("aboutWalks")) : null,
    h("p", {}, `${t("release")} ${release.release} · ${number(release.rows)} ${t("images")} · ${date(release.published)}`),
    info?.attribution ? h("p", {}, `${t("attribution")}: ${info.attribution}`) : null,
    info ? h("h3", {}, t("quality")) : null,
    info ? qualityTable(context, info) : null,
    h("h3", {}, t("keys")),
    h("p", {}, t("keysList")),
  );
  dialog.addEventListener("close", () => store.state.open === "about" && store.set({ open: null }));
  store.on(["open"], (state) => {
    if (state.open === "about" && !dialog.open) dialog.showModal();
    else if (state.open !== "about" && dialog.open) dialog.close();
  });
  return dialog;
}
