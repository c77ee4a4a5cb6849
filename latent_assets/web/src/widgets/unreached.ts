// Regions that no generated image of this installation has reached: they stand out, the others fade.

import { api } from "../data/api";
import { scenePlace } from "../scene/view";
import { number, t } from "../text";
import type { Context } from "./context";
import { h } from "./dom";

const NEAR = 0.15; // of the distance within which most of the map lies
const ASKED = 500;

export function unreached(context: Context): HTMLElement {
  const { store } = context;
  const box = h("input", { type: "checkbox", id: "unreached", onchange: () => store.set({ unreached: box.checked }) });
  const note = h("p", { class: "note", role: "status", id: "unreached-note" });
  store.on(["unreached", "space", "made"], () => void show(context, note).catch(context.problem));
  return h("div", {}, h("label", { class: "check" }, box, t("unreached")), note);
}

async function show(context: Context, note: HTMLElement): Promise<void> {
  const { store, map, tiles } = context;
  note.textContent = "";
  if (!store.state.unreached) return map!.reach(null, 0);
  const { space } = store.state;
  const { generated } = await api.generated(undefined, ASKED);
  if (store.state.space !== space || !store.state.unreached) return;
  const info = tiles!.info.spaces[space]!;
  const radius = info.reach * NEAR;
  const places = generated.map(({ positions }) => scenePlace(context, positions)).filter((place) => place !== null);
  map!.reach(places, (radius / info.edge) * 2);
  note.textContent = t("unreachedNote", { count: places.length, radius: number(radius, 2) });
}
