// "What is here?": a place of the map, and the picture that the mean of what is around it decodes to.

import { api, ApiError } from "../data/api";
import { mapPlace } from "../scene/view";
import { number, t } from "../text";
import type { Context } from "./context";
import { button, h } from "./dom";

export function here(context: Context): HTMLElement {
  const { store, live, release } = context;
  const section = h("section", { class: "section here", hidden: true, "aria-labelledby": "here-title", id: "here" });
  if (!live || !release.synthesis || !context.map) return section;
  store.on(["here"], ({ here: asked }) => {
    section.hidden = asked === null;
    if (!asked) return;
    const { found, problem } = asked;
    section.replaceChildren(
      h(
        "header",
        {},
        h("h2", { id: "here-title" }, t("whatIsHere")),
        button("×", () => store.set({ here: null }), { class: "small", "aria-label": t("close") }),
      ),
      problem
        ? h("p", { class: "bad", role: "alert" }, problem)
        : !found
          ? h("p", { class: "note", role: "status" }, t("placing"))
          : h(
              "div",
              {},
              h("div", { class: "card-head" }, h("img", { class: "film-frame", src: found.frame.preview, alt: t("synthesis") }), h("p", { class: "grow" }, h("strong", {}, t("synthesis")), " ", t("synthesisSaid", { count: found.mean_of.length }))),
              h("p", { class: "note" }, t("meanOf", { near: number(found.mean_of[0]?.distance ?? 0, 2), far: number(found.mean_of.at(-1)?.distance ?? 0, 2) })),
              h("ul", { class: "strip" }, ...found.mean_of.map(({ id, distance }) => thumbnail(context, id, distance))),
            ),
    );
  });
  return section;
}

function thumbnail(context: Context, id: string, distance: number): HTMLElement {
  const title = t("unitsAway", { distance: number(distance, 2) });
  const image = h("img", { src: `api/images/${id}/thumbnail?release=${context.release.release}`, alt: "", loading: "lazy" });
  return h("li", {}, h("button", { type: "button", title, "aria-label": title, onclick: () => context.select(id, true) }, image));
}

/** Ask what a place of the scene stands for. */
export async function askHere(context: Context, place: [number, number, number]): Promise<void> {
  const { store } = context;
  const asked = { space: store.state.space, position: mapPlace(context, place), found: null, problem: "" };
  store.set({ here: asked });
  const current = (): boolean => store.state.here === asked;
  try {
    const found = await api.synthesis(asked.space, asked.position);
    if (current()) store.set({ here: { ...asked, found } });
  } catch (error) {
    const problem = error instanceof ApiError && error.message ? error.message : t("unreachable");
    if (current()) store.set({ here: { ...asked, problem } });
  }
  document.querySelector("#here")?.scrollIntoView({ block: "nearest" });
}
