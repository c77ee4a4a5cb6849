// The address follows the view, and a changed address changes it.

import type { Context } from "../widgets/context";
import type { Link } from "./permalink";

const SETTLED_MS = 250;

export function followAddress(context: Context, link: Link): void {
  const { store } = context;
  let timer = 0;
  store.on(["space", "camera", "selected", "colour", "query", "mode", "filters", "made"], () => {
    clearTimeout(timer);
    timer = window.setTimeout(() => history.replaceState(null, "", context.link()), SETTLED_MS);
  });
  window.addEventListener("hashchange", () => location.reload());
  if (link.selected && !link.camera) context.select(link.selected, true);
}
