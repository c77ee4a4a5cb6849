// The releases that are kept: open another one, or see what moved, came and went since.

import { address, api, type ReleaseEntry } from "../data/api";
import { compare, LARGEST } from "../data/comparison";
import { openTiles } from "../data/release";
import { GONE_COLOUR } from "../scene/overlays/gone";
import { kindColour, themeOf } from "../scene/palettes";
import { date, number, t } from "../text";
import type { Context } from "./context";
import { button, h } from "./dom";
import { colourMap } from "./looks";

const FLIGHT_MS = 2_200;
const quiet = matchMedia("(prefers-reduced-motion: reduce)");

export function releases(context: Context): HTMLElement {
  const { store, release, current, tiles } = context;
  const section = h("details", { class: "section releases", id: "releases", hidden: true }, h("summary", {}, h("h2", {}, t("releases"))));
  if (current === null || !tiles) return section;
  const own = String(release.release);
  const select = h("select", { id: "release", "aria-label": t("releases") });
  const result = h("div", { class: "comparison" });
  const status = h("p", { class: "note", role: "status", id: "comparison-status" });
  let entries: ReleaseEntry[] = [];
  const chosen = (): ReleaseEntry | undefined => entries.find((one) => String(one.release) === select.value);
  section.append(
    h("p", { class: "note" }, t("releaseShown", { release: own, date: date(release.published), rows: release.rows }), " ", current === own ? t("releaseLive") : ""),
    h("div", { class: "row" }, select, button(t("releaseOpen"), () => openRelease(select.value), { class: "small", id: "open-release" }), button(t("compare"), () => void start(), { class: "small", id: "compare" })),
    status,
    result,
  );
  void api.releases().then(({ releases: found }) => {
    entries = found.filter((one) => String(one.release) !== own && one.tiles);
    select.replaceChildren(...entries.map((one) => h("option", { value: String(one.release) }, t("releaseEntry", { release: String(one.release), date: date(one.published), rows: one.rows }))));
    section.hidden = !entries.length;
  }, () => undefined); // without a list there is nothing to switch to

  async function start(): Promise<void> {
    const entry = chosen();
    if (!entry || !tiles) return;
    if (Math.max(entry.rows, tiles.info.rows) > LARGEST) return context.say(t("compareTooLarge", { rows: LARGEST }), true);
    status.textContent = t("loading");
    try {
      const other = await openTiles(address(entry.tiles!));
      const { space } = store.state;
      if (!other?.info.spaces[space]) return void (status.textContent = t("compareNoMap"));
      const comparison = await compare(tiles, other, space);
      status.textContent = "";
      store.set({ comparison, share: 0 });
      fly(1);
    } catch (error) {
      status.textContent = "";
      context.problem(error);
    }
  }

  let flight = 0;
  function fly(to: number): void {
    cancelAnimationFrame(flight);
    if (quiet.matches) return store.set({ share: to });
    const from = store.state.share;
    const began = performance.now();
    const step = (now: number): void => {
      const part = Math.min(Math.max((now - began) / FLIGHT_MS, 0), 1);
      if (!store.state.comparison) return;
      store.set({ share: from + (to - from) * part * part * (3 - 2 * part) });
      if (part < 1) flight = requestAnimationFrame(step);
    };
    flight = requestAnimationFrame(step);
  }

  const slider = h("input", { type: "range", min: "0", max: "1", step: "0.01", "aria-label": t("compareShare"), id: "comparison-share" });
  slider.addEventListener("input", () => {
    cancelAnimationFrame(flight);
    store.set({ share: Number(slider.value) });
  });
  store.on(["share", "comparison"], ({ share, comparison }) => {
    slider.value = String(share);
    context.map?.between(comparison?.origins ?? null, share);
  });
  store.on(["space"], () => store.state.comparison && store.set({ comparison: null, share: 1 }));
  store.on(["comparison", "theme"], ({ comparison }) => {
    void colourMap(context).catch(context.problem);
    if (!comparison) return result.replaceChildren();
    const kinds: [string, string][] = [
      [kindColour(0, themeOf()), t("stayed", { count: comparison.stayed - comparison.moved })],
      [kindColour(1, themeOf()), t("moved", { count: comparison.moved })],
      [kindColour(3, themeOf()), t("came", { count: comparison.came })],
      [GONE_COLOUR, t("went", { count: comparison.went })],
    ];
    result.replaceChildren(
      h("div", { class: "row" }, h("span", { class: "note" }, t("before")), slider, h("span", { class: "note" }, t("now"))),
      h("ul", { class: "kinds plain" }, ...kinds.map(([colour, text]) => h("li", {}, patch(colour), text))),
      h("p", { class: "note" }, t("compareMedian", { percent: number(comparison.median * 100, 2) })),
      h(
        "div",
        { class: "row" },
        button(t("flyAgain"), () => fly(store.state.share > 0.5 ? 0 : 1), { class: "small", id: "fly-between" }),
        button(t("close"), () => store.set({ comparison: null, share: 1 }), { class: "small" }),
      ),
    );
  });
  return section;
}

function patch(colour: string): HTMLElement {
  const found = h("span", { class: "patch" });
  found.style.background = colour;
  return found;
}

/** The address of another release; the page opens it anew. */
function openRelease(release: string): void {
  const link = new URLSearchParams(location.hash.slice(1));
  link.set("release", release);
  location.hash = String(link);
}
