// What stands above the map and below it: title and switches, and which map is shown.

import { flyHome } from "../scene/view";
import { remember } from "../state/memory";
import type { State } from "../state/store";
import { t } from "../text";
import { spaceName, type Context } from "./context";
import { button, h } from "./dom";

const NEXT_THEME = { system: "dark", dark: "light", light: "system" } as const;

export function topBar(context: Context, title: string): HTMLElement {
  const { store } = context;
  const open = (name: NonNullable<State["open"]>) => store.set({ open: store.state.open === name ? null : name });
  return h(
    "header",
    { class: "bar top" },
    h("h1", {}, title),
    h(
      "nav",
      { class: "row" },
      button(t("wholeMap"), () => flyHome(context), { class: "small wide-only", id: "home" }),
      button(t("tree"), () => open("tree"), { class: "small wide-only", id: "open-tree" }),
      button("◐", () => {
        const theme = NEXT_THEME[store.state.theme];
        remember("latent-atlas-theme", theme);
        store.set({ theme });
      }, { class: "small", "aria-label": t("theme"), title: t("theme"), id: "theme" }),
      button(t("language"), () => {
        remember("latent-atlas-language", store.state.language === "en" ? "zh" : "en");
        history.replaceState(null, "", context.link());
        location.reload();
      }, { class: "small", id: "language", lang: store.state.language === "en" ? "zh-Hans" : "en" }),
      button("?", () => open("about"), { class: "small", "aria-label": t("about"), title: t("about"), id: "open-about" }),
    ),
  );
}

export function bottomBar(context: Context, summary: HTMLElement): HTMLElement {
  return h("footer", { class: "bar bottom" }, spaces(context), summary);
}

function spaces(context: Context): HTMLElement {
  const { store, release } = context;
  const group = h("fieldset", { class: "spaces" }, h("legend", {}, t("spaces")));
  for (const space of release.spaces) {
    const input = h("input", { type: "radio", name: "space", value: space, checked: space === store.state.space });
    input.addEventListener("change", () => store.set({ space }));
    group.append(h("label", {}, input, h("span", {}, spaceName(context, space))));
    store.on(["space"], (state) => (input.checked = state.space === space));
  }
  return group;
}
