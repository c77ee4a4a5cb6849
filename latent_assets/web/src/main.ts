// The page is put together here: what can be asked, the map, the widgets, the address, the keys.

import * as THREE from "three";
import { address, api, ApiError, STARTING, type Placed, type Release } from "./data/api";
import { Facts } from "./data/facts";
import { Tiles } from "./data/tiles";
import { AtlasMap } from "./scene/map";
import type { Pin } from "./scene/labels";
import type { Halo, Line, Mark, Place } from "./scene/marks";
import { readLink, writeLink, type Link } from "./state/permalink";
import { Store, type Camera, type State } from "./state/store";
import { t, useLanguage } from "./text";
import { about } from "./widgets/about";
import { spaceName, type Context } from "./widgets/context";
import { button, h } from "./widgets/dom";
import { find } from "./widgets/find";
import { imagePanel } from "./widgets/image";
import { looks, themeOf } from "./widgets/looks";
import { tree } from "./widgets/tree";
import { positionsOf, yours } from "./widgets/yours";
import "./style.css";

const HOME: Camera = { target: [0, 0, 0], radius: 3.1, theta: 0.6, phi: 1.2 };
const PANEL = 372; // pixels
const MADE_COLOURS = ["#ffd166", "#ff7fb0", "#8ce99a", "#b197fc"];
const POLL_MS = 5_000;

function remembered<T extends string>(key: string, known: readonly T[], otherwise: T): T {
  try {
    const found = localStorage.getItem(key) as T | null;
    return found && known.includes(found) ? found : otherwise;
  } catch {
    return otherwise;
  }
}

function remember(key: string, value: string): void {
  try {
    localStorage.setItem(key, value);
  } catch {
    // forbidden: it holds until the page is left
  }
}

const language = remembered("latent-atlas-language", ["en", "zh"], navigator.language.startsWith("zh") ? "zh" : "en");
useLanguage(language);
const quiet = matchMedia("(prefers-reduced-motion: reduce)");
const light = matchMedia("(prefers-color-scheme: light)");

/** The release a server has; a static copy has tiles alone. */
async function findRelease(
  link: Link,
  waits: (why: string) => void,
): Promise<{ release: Release; live: boolean; tiles: Tiles | null }> {
  try {
    const release = await whenStarted(api.release, waits);
    return { release, live: true, tiles: release.tiles ? await openTiles(address(release.tiles)) : null };
  } catch (error) {
    if (error instanceof ApiError && error.status >= 400 && error.status !== 404) throw error;
    const listed = await fetch("tiles/releases.json").then((found) => (found.ok ? found.json() : null)).catch(() => null);
    const all: { release: string }[] = listed?.releases ?? [];
    if (!all.length) throw error;
    const chosen = all.find((one) => one.release === link.release) ?? all[0]!;
    const tiles = await Tiles.open(`tiles/${chosen.release}/`);
    const { rows, created, title, spaces } = tiles.info;
    const release = { release: chosen.release, rows, published: created, spaces: Object.keys(spaces), generation: false, writes: false };
    return { release: { ...release, profile: title, contact: null, tiles: tiles.base }, live: false, tiles };
  }
}

/** A server that loads its models says so for a while. */
async function whenStarted<T>(ask: () => Promise<T>, waits: (why: string) => void): Promise<T> {
  for (;;) {
    try {
      return await ask();
    } catch (error) {
      if (!(error instanceof ApiError) || error.status !== STARTING) throw error;
      waits(error.message);
      await new Promise((resolve) => setTimeout(resolve, 1_000));
    }
  }
}

async function openTiles(base: string): Promise<Tiles | null> {
  try {
    return await Tiles.open(base.endsWith("/") ? base : `${base}/`);
  } catch {
    return null;
  }
}

/** The whole map of a space, without its outliers. */
function home(tiles: Tiles | null, space: string): Camera {
  const info = tiles?.info.spaces[space];
  if (!info) return HOME;
  const target = info.middle.map((value, axis) => ((value - info.origin[axis]!) / info.edge) * 2 - 1) as Place;
  return { ...HOME, target, radius: Math.min(Math.max((info.reach / info.edge) * 5, 0.2), 4) };
}

function firstState(link: Link, release: Release, tiles: Tiles | null): State {
  const spaces = release.spaces;
  const space = link.space && spaces.includes(link.space) ? link.space : (spaces[0] ?? "");
  return {
    space,
    camera: link.camera ?? home(tiles, space),
    selected: link.selected,
    colour: link.colour ?? "category",
    query: link.query,
    mode: link.mode,
    results: null,
    filters: link.filters,
    made: [],
    open: null,
    language,
    theme: remembered("latent-atlas-theme", ["system", "dark", "light"], "system"),
  };
}

function announcer(): { element: HTMLElement; say: (text: string, serious?: boolean) => void } {
  const polite = h("div", { class: "toast", role: "status", "aria-live": "polite", hidden: true });
  const urgent = h("div", { class: "toast bad", role: "alert", hidden: true });
  let timer = 0;
  return {
    element: h("div", { class: "toasts" }, polite, urgent),
    say(text, serious = false) {
      const [shown, other] = serious ? [urgent, polite] : [polite, urgent];
      other.hidden = true;
      shown.textContent = text;
      shown.hidden = !text;
      clearTimeout(timer);
      timer = window.setTimeout(() => (shown.hidden = true), serious ? 12_000 : 6_000);
    },
  };
}

async function start(): Promise<void> {
  const link = readLink(location.hash);
  const announce = announcer();
  const loading = h("p", { class: "note loading", role: "status" }, t("loading"));
  const app = h("div", { class: "app" }, loading);
  document.body.append(app, announce.element);
  document.title = t("title");
  let found: Awaited<ReturnType<typeof findRelease>>;
  try {
    found = await findRelease(link, (why) => (loading.textContent = `${t("loading")} ${why}`));
  } catch (error) {
    const text = error instanceof ApiError && error.message ? error.message : t("unreachable");
    app.replaceChildren(h("div", { class: "failed", role: "alert" }, h("p", {}, text), button(t("retry"), () => location.reload())));
    return;
  }
  const { release, live, tiles } = found;
  const store = new Store(firstState(link, release, tiles));
  applyTheme(store.state.theme);
  const title = tiles?.info.title || release.title || release.profile || t("title");
  document.title = title;

  const facts = tiles && !live ? new Facts(tiles) : null;
  const context: Context = {
    store,
    release,
    live,
    tiles,
    map: null,
    image: live ? api.image : (id) => facts!.image(id),
    say: announce.say,
    problem: (error) => announce.say(error instanceof Error && error.message ? error.message : t("unreachable"), true),
    flyTo: (positions, reach = 0) => {
      const place = scenePlace(context, positions);
      const info = tiles?.info.spaces[store.state.space];
      if (!place || !info || !context.map) return;
      const near = Math.max(closeTo((info.spacing / info.edge) * 2), (reach / info.edge) * 6);
      context.map.controls.flyTo(place, reach ? near : Math.min(context.map.controls.view.radius, near));
    },
    select: (id, fly = false) => {
      store.set({ selected: id });
      if (id && fly) {
        context.image(id).then((facts) => store.state.selected === id && context.flyTo(facts.positions), () => undefined);
      }
    },
    restore: (ids) => restoreMade(context, ids),
    link: () => writeLink(store.state, String(release.release)),
  };

  const stage = h("main", { class: "stage" });
  const tip = h("div", { class: "tip", hidden: true });
  const summary = h("p", { class: "summary", role: "status", id: "summary" });
  if (!tiles) stage.append(h("p", { class: "note stage-note" }, t("noTiles")));
  else if (!tiles.info.rows) stage.append(h("p", { class: "note stage-note" }, t("empty")));
  else context.map = openMap(context, tip, summary);
  if (context.map) stage.append(context.map.canvas, context.map.labels.element, tip);
  else if (tiles?.info.rows) stage.append(h("p", { class: "note stage-note", role: "alert", id: "no-webgl" }, t("noWebgl")));

  const treeSection = tree(context);
  const left = h("div", { class: "panel left", id: "left" }, yours(context), find(context), looks(context), treeSection);
  const dialog = about(context);
  app.replaceChildren(
    header(context, title),
    stage,
    left,
    imagePanel(context),
    h("footer", { class: "bar bottom" }, spaces(context), summary),
    dialog,
  );
  if (!context.map) store.set({ open: "tree" });

  wireMap(context);
  wireAddress(context, link);
  wireKeys(context);
  if (live && release.writes !== undefined) followInbox(context);
  if (link.release && link.release !== String(release.release)) {
    announce.say(t("goneRelease", { release: link.release, now: String(release.release) }));
  }
  store.on(["made", "space"], () => findNearest(context));
  void restoreMade(context, link.made);
  Object.assign(window, { latentAtlas: { store, context } });
}

function header(context: Context, title: string): HTMLElement {
  const { store } = context;
  const themes = { system: "dark", dark: "light", light: "system" } as const;
  const open = (name: "tree" | "about") => store.set({ open: store.state.open === name ? null : name });
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
        const theme = themes[store.state.theme];
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

function applyTheme(theme: State["theme"]): void {
  const chosen = theme === "system" ? (light.matches ? "light" : "dark") : theme;
  document.documentElement.dataset["theme"] = chosen;
}

// -- the map -----------------------------------------------------------------------------------------

function openMap(context: Context, tip: HTMLElement, summary: HTMLElement): AtlasMap | null {
  const { store, tiles } = context;
  let over = -1;
  try {
    const map = new AtlasMap(
      tiles!,
      {
        picked: (row) => void tiles!.id(row).then((id) => context.select(id), context.problem),
        hovered: (row, x, y) => {
          tip.hidden = row === null || row !== over;
          tip.style.transform = `translate(${Math.round(x + 14)}px, ${Math.round(y + 14)}px)`;
          if (row === null || row === over) return void (over = row ?? -1);
          over = row;
          window.setTimeout(() => over === row && void nameRow(context, row, tip, () => over === row), 120);
        },
        moved: (camera) => store.set({ camera }),
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

const names = new Map<number, string>();

async function nameRow(context: Context, row: number, tip: HTMLElement, current: () => boolean): Promise<void> {
  try {
    if (!names.has(row)) names.set(row, (await context.image(await context.tiles!.id(row))).caption ?? t("caption_none"));
  } catch {
    return;
  }
  if (!current()) return;
  tip.textContent = names.get(row)!;
  tip.hidden = false;
}

/** How near a flight to an image ends: a dozen of its neighbours are in view. */
function closeTo(spacing: number): number {
  return Math.min(Math.max(spacing * 22, 0.05), 1.2);
}

function flyHome({ map, tiles, store }: Context): void {
  const { target, radius } = home(tiles, store.state.space);
  map?.controls.flyTo(target, radius);
}

function scenePlace({ tiles, store }: Context, positions: Record<string, Place> | undefined): Place | null {
  const place = positions?.[store.state.space];
  const info = tiles?.info.spaces[store.state.space];
  if (!place || !info) return null;
  return place.map((value, axis) => ((value - info.origin[axis]!) / info.edge) * 2 - 1) as Place;
}

function wireMap(context: Context): void {
  const { store, map, tiles } = context;
  store.on(["theme"], (state) => {
    applyTheme(state.theme);
    map?.setTheme(themeOf());
  });
  light.addEventListener("change", () => {
    applyTheme(store.state.theme);
    map?.setTheme(themeOf());
  });
  if (!map || !tiles) return;
  map.setTheme(themeOf());
  const show = (): void => void map.show(store.state.space).then(() => drawMarks(context), context.problem);
  store.on(["space"], show);
  store.on(["results", "selected", "made", "theme"], () => drawMarks(context));
  const cover = (): void => map.cover(store.state.selected && innerWidth > 1100 ? PANEL : 0);
  store.on(["selected"], cover);
  window.addEventListener("resize", cover);
  cover();
  show();
}

let chosenPlace: { id: string; positions: Record<string, Place> } | null = null;

/** Results, the chosen image, and generated images with their paths, halos and lines to their nearest. */
function drawMarks(context: Context): void {
  const { store, map } = context;
  if (!map) return;
  const { results, selected, made } = store.state;
  const colour = (text: string): THREE.Color => new THREE.Color().setStyle(text, THREE.LinearSRGBColorSpace);
  const marks: Mark[] = [];
  const lines: Line[] = [];
  const halos: Halo[] = [];
  const first: [Place, number][] = [];
  const pins: Pin[] = [];
  const scores = (results ?? []).map((result) => result.similarity ?? 0);
  const best = Math.max(...scores, 0);
  const worst = Math.min(...scores, best);
  (results ?? []).forEach((result) => {
    const place = scenePlace(context, result.positions);
    const share = best > worst ? ((result.similarity ?? 0) - worst) / (best - worst) : 1;
    if (!place) return;
    marks.push({ place, colour: colour("#ff5d3b"), pixels: 6 + 6 * share });
    first.push([place, 1.001]);
  });
  made.forEach((one, index) => {
    const own = colour(MADE_COLOURS[index % MADE_COLOURS.length]!);
    const space = store.state.space;
    const path = one.placed?.path?.[space] ?? one.steps.flatMap((step) => (step.positions[space] ? [step.positions[space]] : []));
    const places = path.map((place) => scenePlace(context, { [space]: place })).filter((place) => place !== null);
    const info = context.tiles!.info.spaces[space]!;
    const radius = Math.min(Math.max((info.spacing / info.edge) * 0.6, 0.0008), 0.006);
    if (places.length > 1) lines.push({ places, colour: own, opacity: 0.8, radius });
    const end = scenePlace(context, one.placed ? positionsOf(one.placed) : undefined) ?? places.at(-1);
    if (!end) return;
    marks.push({ place: end, colour: own, pixels: 14 });
    if (one.image) pins.push({ key: one.key, place: end, image: one.image, name: one.prompt, colour: MADE_COLOURS[index % 4]! });
    for (const other of one.near[space] ?? []) {
      const near = scenePlace(context, { [space]: other });
      if (near) lines.push({ places: [end, near], colour: own, opacity: 0.75, radius });
    }
    const placement = one.placed?.placements[space];
    if (placement) halos.push({ place: end, radius: (placement.uncertainty / info.edge) * 2, colour: own });
  });
  if (selected && chosenPlace?.id !== selected) {
    context.image(selected).then(
      (facts) => {
        chosenPlace = { id: selected, positions: facts.positions };
        if (store.state.selected === selected) drawMarks(context);
      },
      () => undefined,
    );
  } else if (selected && chosenPlace) {
    const place = scenePlace(context, chosenPlace.positions);
    if (place) {
      marks.push({ place, colour: colour(themeOf() === "dark" ? "#ffffff" : "#10141f"), pixels: -(results ? 22 : 26) });
      first.push([place, 2]);
    }
  }
  map.labels.pin(pins);
  map.mark(marks, lines, halos, first);
  map.fade(results?.length ? 0.72 : 0);
}

// -- address, keys, what others make -------------------------------------------------------------------

function wireAddress(context: Context, link: Link): void {
  const { store } = context;
  let timer = 0;
  store.on(["space", "camera", "selected", "colour", "query", "mode", "filters", "made"], () => {
    clearTimeout(timer);
    timer = window.setTimeout(() => history.replaceState(null, "", context.link()), 250);
  });
  window.addEventListener("hashchange", () => location.reload());
  if (link.selected && !link.camera) context.select(link.selected, true);
}

function wireKeys(context: Context): void {
  const { store, release } = context;
  const focus = (selector: string): void => document.querySelector<HTMLElement>(selector)?.focus();
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") {
      if (store.state.open === "tree" && context.map) store.set({ open: null });
      else if (store.state.selected) context.select(null);
      else if (store.state.results) store.set({ results: null, query: "" });
      return;
    }
    const target = event.target as HTMLElement;
    if (event.ctrlKey || event.metaKey || event.altKey || target.matches("input, select, textarea")) return;
    const space = release.spaces[Number(event.key) - 1];
    if (event.key === "/") focus("#search");
    else if (event.key === "g") focus("#prompt");
    else if (event.key === "0") flyHome(context);
    else if (event.key === "l") store.set({ open: store.state.open === "tree" ? null : "tree" });
    else if (event.key === "?") store.set({ open: "about" });
    else if (space) store.set({ space });
    else return;
    event.preventDefault();
  });
}

/** Generated images by their ids, of an address or of this browser's memory. */
async function restoreMade(context: Context, ids: string[]): Promise<void> {
  if (!context.live) return;
  for (const id of [...ids].reverse()) {
    try {
      addMade(context, await api.generatedOne(id));
    } catch (error) {
      if (!(error instanceof ApiError) || error.status !== 404) context.problem(error);
    }
  }
}

const LINES = 6; // to its nearest images

/** Look up where the nearest images of what was made are, for the lines that lead to them. */
function findNearest(context: Context): void {
  const { store, live } = context;
  const { space, made } = store.state;
  for (const one of made) {
    const neighbours = one.placed?.placements[space]?.neighbours.slice(0, LINES);
    if (!live || !neighbours || one.near[space]) continue;
    one.near[space] = [];
    void Promise.allSettled(neighbours.map(({ id }) => context.image(id))).then((found) => {
      const near = found.flatMap((each) => (each.status === "fulfilled" ? [each.value.positions[space]] : []));
      const places = near.filter((place) => place !== undefined);
      store.set({
        made: store.state.made.map((each) => (each.key === one.key ? { ...each, near: { ...each.near, [space]: places } } : each)),
      });
    });
  }
}

function addMade(context: Context, placed: Placed): void {
  const { store } = context;
  if (store.state.made.some((one) => one.placed?.generated_id === placed.generated_id)) return;
  const image = address(placed.image ?? `api/generated/${placed.generated_id}/image`);
  const made = { key: placed.generated_id, prompt: placed.prompt ?? "", placed, steps: [], image, problem: "", queued: 0, near: {} };
  store.set({ made: [made, ...store.state.made].slice(0, 8) });
}

/** What came through the inbox since the page was opened appears without reloading. */
function followInbox(context: Context): void {
  let newest: string | undefined;
  let first = true;
  let failures = 0;
  const look = async (): Promise<void> => {
    try {
      const { generated } = await api.generated(newest);
      const unseen = first ? [] : generated;
      if (generated[0]) newest = generated[0].generated_id;
      first = false;
      failures = 0;
      for (const one of [...unseen].reverse()) addMade(context, await api.generatedOne(one.generated_id));
    } catch {
      failures++;
    }
    window.setTimeout(() => void look(), POLL_MS * Math.min(2 ** failures, 24));
  };
  window.setTimeout(() => void look(), POLL_MS);
}

void start();
