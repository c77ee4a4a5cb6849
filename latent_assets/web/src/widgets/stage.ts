// The map in the page: made, named for those who do not see it, following the state.

import { Recent } from "../data/recent";
import { AtlasMap } from "../scene/map";
import type { Place } from "../scene/marks";
import { drawOverlays, followOverlays } from "../scene/overlays";
import { themeOf } from "../scene/palettes";
import { recall, remember } from "../state/memory";
import { t } from "../text";
import { spaceName, type Context } from "./context";
import { button, h } from "./dom";
import { askHere } from "./here";

const PANEL = 372; // pixels of the panel of an image
const HINTED = "latent-atlas-hinted";
const HOVERED_MS = 120;
const quiet = matchMedia("(prefers-reduced-motion: reduce)");
const light = matchMedia("(prefers-color-scheme: light)");

/** Where the map is, or why there is none. */
export function stage(context: Context, summary: HTMLElement): HTMLElement {
  const { tiles } = context;
  const element = h("main", { class: "stage" });
  const tip = h("div", { class: "tip", hidden: true });
  if (!tiles) element.append(h("p", { class: "note stage-note" }, t("noTiles")));
  else if (!tiles.info.rows) element.append(h("p", { class: "note stage-note" }, t("empty")));
  else {
    const ask = asker(context);
    context.map = openMap(context, tip, summary, ask.offer);
    if (context.map) element.append(context.map.canvas, context.map.labels.element, tip, ask.element, hint(context));
    else element.append(h("p", { class: "note stage-note", role: "alert", id: "no-webgl" }, t("noWebgl")));
  }
  return element;
}

/** What can be done with the map, until somebody has done it once. */
function hint({ map, store, live, release }: Context): HTMLElement {
  const element = h("p", { class: "hint", hidden: recall(HINTED) !== null }, t(live && release.synthesis ? "hint" : "hintRead"));
  const done = (): void => {
    element.hidden = true;
    remember(HINTED, "1");
  };
  store.on(["made", "selected", "results"], done);
  for (const kind of ["pointerdown", "wheel", "keydown"]) map!.canvas.addEventListener(kind, done, { once: true, passive: true });
  return element;
}

interface Asker {
  element: HTMLElement;
  /** Offer to ask about a place, at x, y of the stage; null: no longer. */
  offer(at: { x: number; y: number; place: Place } | null): void;
}

/** The question that appears where nothing was clicked. */
function asker(context: Context): Asker {
  let place: Place | null = null;
  const element = button(t("whatIsHere"), () => {
    element.hidden = true;
    if (place) void askHere(context, place);
  }, { class: "ask-here small", id: "ask-here", hidden: true });
  return {
    element,
    offer(at) {
      element.hidden = at === null || !context.live || !context.release.synthesis;
      if (!at) return;
      place = at.place;
      element.style.transform = `translate(${Math.round(at.x)}px, ${Math.round(at.y)}px) translate(-50%, -50%)`;
    },
  };
}

function openMap(context: Context, tip: HTMLElement, summary: HTMLElement, offer: Asker["offer"]): AtlasMap | null {
  const { store, tiles } = context;
  let over = -1;
  try {
    const map = new AtlasMap(
      tiles!,
      {
        picked: (row) => {
          offer(null);
          void tiles!.id(row).then((id) => context.select(id), context.problem);
        },
        empty: (x, y, place) => offer({ x, y, place }),
        hovered: (row, x, y) => {
          tip.hidden = row === null || row !== over;
          tip.style.transform = `translate(${Math.round(x + 14)}px, ${Math.round(y + 14)}px)`;
          if (row === null || row === over) return void (over = row ?? -1);
          over = row;
          window.setTimeout(() => over === row && void nameRow(context, row, tip, () => over === row), HOVERED_MS);
        },
        moved: (camera) => {
          offer(null);
          store.set({ camera });
        },
        settled: ({ shown, images }) => {
          const text = t("summary", { space: spaceName(context, store.state.space), shown, rows: tiles!.info.rows, images });
          if (summary.textContent !== text) summary.textContent = text;
        },
        missing: (file) => context.say(t("missingTile", { file: file.split("/").slice(-3).join("/") }), true),
        lost: (lost) => context.say(t(lost ? "lost" : "restored"), lost),
      },
      () => quiet.matches,
    );
    map.canvas.tabIndex = 0;
    map.canvas.setAttribute("role", "application");
    map.canvas.setAttribute("aria-label", t("map", { rows: tiles!.info.rows }));
    map.canvas.addEventListener("keydown", (event) => {
      if (map.controls.key(event)) event.preventDefault();
    });
    map.controls.view = store.state.camera;
    return map;
  } catch {
    return null; // no WebGL2
  }
}

const names = new Recent<number, string>(2_000);

async function nameRow(context: Context, row: number, tip: HTMLElement, current: () => boolean): Promise<void> {
  try {
    const name = names.get(row) ?? (await context.image(await context.tiles!.id(row))).caption ?? t("caption_none");
    names.set(row, name);
    if (!current()) return;
    tip.textContent = name;
  } catch {
    return; // a name less
  }
  tip.hidden = false;
}

/** The map follows theme, space and overlays. */
export function followMap(context: Context): void {
  const { store, map, tiles } = context;
  const retheme = (): void => {
    applyTheme(store.state.theme);
    map?.setTheme(themeOf());
  };
  store.on(["theme"], retheme);
  light.addEventListener("change", retheme);
  if (!map || !tiles) return;
  map.setTheme(themeOf());
  const show = (): void => void map.show(store.state.space).then(() => drawOverlays(context), context.problem);
  store.on(["space"], show);
  followOverlays(context);
  const cover = (): void => map.cover(store.state.selected && innerWidth > 1100 ? PANEL : 0);
  store.on(["selected"], cover);
  window.addEventListener("resize", cover);
  cover();
  show();
}

export function applyTheme(theme: "system" | "dark" | "light"): void {
  const chosen = theme === "system" ? (light.matches ? "light" : "dark") : theme;
  document.documentElement.dataset["theme"] = chosen;
}
