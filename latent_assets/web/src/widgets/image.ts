// One image: what it shows, where it comes from, what is near it on each map.

import { address, ApiError, type ImageFacts } from "../data/api";
import { MissingTile } from "../data/tiles";
import type { End } from "../state/store";
import { pickEnd } from "../state/walking";
import { number, t } from "../text";
import { spaceName, type Context } from "./context";
import { button, h, webAddress } from "./dom";
import { strip } from "./yours";

export function imagePanel(context: Context): HTMLElement {
  const { store } = context;
  const body = h("div", { class: "body" });
  const title = h("h2", { id: "image-title", tabIndex: -1 }, t("image"));
  const panel = h(
    "aside",
    { class: "panel image", "aria-labelledby": "image-title", hidden: true, id: "image-panel" },
    h("header", {}, title, button("×", () => context.select(null), { class: "small", "aria-label": t("close") })),
    body,
  );
  let asking: AbortController | null = null;

  async function show(id: string | null): Promise<void> {
    asking?.abort();
    panel.hidden = id === null;
    if (id === null) return;
    const own = (asking = new AbortController());
    body.replaceChildren(h("p", { class: "note" }, "…"));
    try {
      const facts = await context.image(id, own.signal);
      if (own.signal.aborted) return;
      title.textContent = facts.caption ?? t("image");
      body.replaceChildren(...content(context, facts));
    } catch (error) {
      if (own.signal.aborted) return;
      const gone = error instanceof MissingTile || (error instanceof ApiError && [400, 404, 422].includes(error.status));
      title.textContent = t("image");
      body.replaceChildren(h("p", { class: "bad", role: "alert" }, gone ? t("goneImage") : t("unreachable")), h("p", { class: "note" }, id));
    }
  }
  store.on(["selected"], (state) => void show(state.selected));
  void show(store.state.selected);
  return panel;
}

function content(context: Context, facts: ImageFacts): HTMLElement[] {
  const picture = h("img", { class: "large", src: address(facts.thumbnail), alt: facts.caption ?? t("caption_none") });
  const page = webAddress(facts.source_url);
  const file = webAddress(facts.url);
  const outside = { target: "_blank", rel: "noopener noreferrer nofollow" };
  const scores = Object.entries(facts.scores).filter(([, value]) => value !== null);
  const contact = context.release.contact;
  const neighbours = Object.entries(facts.neighbours);
  return [
    h("figure", {}, picture),
    h(
      "div",
      { class: "row" },
      button(t("fly"), () => context.flyTo(facts.positions), { class: "small" }),
      button(t("copyLink"), () => void copy(context), { class: "small" }),
      ...(context.release.synthesis ? walkButtons(context, facts) : []),
    ),
    h(
      "dl",
      {},
      ...pair(t("category"), facts.category),
      ...pair("", t("size", { width: String(facts.width), height: String(facts.height) })),
      h("dt", {}, t("source")),
      h(
        "dd",
        {},
        page ? h("a", { href: page, id: "source-link", ...outside }, `${t("page")} (${new URL(page).host})`) : null,
        page && file ? h("br") : null,
        file ? h("a", { href: file, id: "file-link", ...outside }, `${t("file")} (${new URL(file).host})`) : page ? null : facts.url,
      ),
      ...pair(t("licence"), facts.licence ?? null),
      ...pair(t("attribution"), facts.attribution),
      ...scores.flatMap(([name, value]) => pair(name, number(value!, 3))),
    ),
    ...(neighbours.length ? [h("h3", {}, t("neighbours")), h("p", { class: "note" }, t("neighboursNote"))] : []),
    h(
      "div",
      { class: "neighbours" },
      ...neighbours.map(([space, images]) =>
        h("section", { "aria-label": spaceName(context, space) }, h("h4", {}, spaceName(context, space)), strip(context, images.slice(0, 12))),
      ),
    ),
    h("p", { class: "note" }, facts.id),
    ...(contact ? [report(contact, facts.id)] : []),
  ];
}

function walkButtons(context: Context, { id, caption, thumbnail }: ImageFacts): HTMLElement[] {
  const end: End = { kind: "image", value: id, name: caption ?? t("caption_none"), thumbnail: address(thumbnail) };
  return [
    button(t("walkStart"), () => pickEnd(context, end, "start"), { class: "small", id: "walk-from-here" }),
    button(t("walkEnd"), () => pickEnd(context, end, "end"), { class: "small", id: "walk-to-here" }),
  ];
}

function pair(name: string, value: string | null | undefined): HTMLElement[] {
  return value ? [h("dt", {}, name), h("dd", {}, value)] : [];
}

function report(contact: string, id: string): HTMLElement {
  const web = webAddress(contact);
  const href = web ?? `mailto:${encodeURIComponent(contact).replace("%40", "@")}?subject=${encodeURIComponent(id)}`;
  return h("p", {}, h("a", { href, rel: "noopener noreferrer", id: "report-link" }, t("report")));
}

async function copy(context: Context): Promise<void> {
  const link = new URL(context.link(), location.href).href;
  history.replaceState(null, "", context.link());
  try {
    await navigator.clipboard.writeText(link);
    context.say(t("copied"));
  } catch {
    context.say(link);
  }
}
