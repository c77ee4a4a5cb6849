// Keys that work everywhere on the page but in fields; keys of the map are the map's.

import { flyHome } from "../scene/view";
import type { Context } from "./context";
import { askHere } from "./here";

// elements that mean something else by a letter
const WRITTEN_IN = "input:not([type=range], [type=checkbox], [type=radio], [type=file]), select, textarea";

export function followKeys(context: Context): void {
  const { store, release } = context;
  const focus = (selector: string): void => document.querySelector<HTMLElement>(selector)?.focus();
  const keys: Record<string, () => unknown> = {
    "/": () => focus("#search"),
    g: () => focus("#prompt"),
    "0": () => flyHome(context),
    l: () => store.set({ open: store.state.open === "tree" ? null : "tree" }),
    h: () => context.live && release.synthesis && context.map && void askHere(context, context.map.controls.view.target),
    "?": () => store.set({ open: "about" }),
  };
  release.spaces.slice(0, 9).forEach((space, at) => (keys[String(at + 1)] = () => store.set({ space })));
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") return leave(context);
    const target = event.target as HTMLElement;
    const action = keys[event.key];
    if (!action || event.ctrlKey || event.metaKey || event.altKey || target.matches(WRITTEN_IN)) return;
    action();
    event.preventDefault();
  });
}

/** Close what was opened last. */
function leave(context: Context): void {
  const { store, map } = context;
  if (store.state.open === "tree" && map) store.set({ open: null });
  else if (store.state.here) store.set({ here: null });
  else if (store.state.selected) context.select(null);
  else if (store.state.results) store.set({ results: null, query: "" });
}
