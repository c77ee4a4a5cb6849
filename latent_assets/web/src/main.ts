// The page is put together here: what can be asked, the map, the widgets.

import { api, ApiError } from "./data/api";
import { Facts } from "./data/facts";
import { findRelease, type FoundRelease } from "./data/release";
import type { Tiles } from "./data/tiles";
import { flyTo, home } from "./scene/view";
import { followAddress } from "./state/address";
import { findNearest, followInbox, restoreMade } from "./state/made";
import { remembered } from "./state/memory";
import { readLink, writeLink, type Link } from "./state/permalink";
import { Store, type State } from "./state/store";
import { t, useLanguage } from "./text";
import { about } from "./widgets/about";
import { announcer, type Announcer } from "./widgets/announcer";
import { bottomBar, topBar } from "./widgets/bars";
import type { Context } from "./widgets/context";
import { button, h } from "./widgets/dom";
import { find } from "./widgets/find";
import { imagePanel } from "./widgets/image";
import { followKeys } from "./widgets/keys";
import { here } from "./widgets/here";
import { looks } from "./widgets/looks";
import { releases } from "./widgets/releases";
import { applyTheme, followMap, stage } from "./widgets/stage";
import { tree } from "./widgets/tree";
import { walk } from "./widgets/walk";
import { yours } from "./widgets/yours";
import "./style.css";

/** The sections of the left panel, from above. */
const SECTIONS: ((context: Context) => HTMLElement)[] = [yours, find, walk, here, looks, releases, tree];

const language = remembered("latent-atlas-language", ["en", "zh"], navigator.language.startsWith("zh") ? "zh" : "en");
useLanguage(language);

async function start(): Promise<void> {
  const link = readLink(location.hash);
  const announce = announcer();
  const loading = h("p", { class: "note loading", role: "status" }, t("loading"));
  const app = h("div", { class: "app" }, loading);
  document.body.append(app, announce.element);
  document.title = t("title");
  let found: FoundRelease;
  try {
    found = await findRelease(link.release, (why) => (loading.textContent = `${t("loading")} ${why}`));
  } catch (error) {
    const text = error instanceof ApiError && error.message ? error.message : t("unreachable");
    app.replaceChildren(h("div", { class: "failed", role: "alert" }, h("p", {}, text), button(t("retry"), () => location.reload())));
    return;
  }
  show(found, link, app, announce);
}

function show(found: FoundRelease, link: Link, app: HTMLElement, announce: Announcer): void {
  const { release, live, tiles } = found;
  const context = contextOf(found, link, announce);
  const { store } = context;
  applyTheme(store.state.theme);
  const title = tiles?.info.title || release.title || release.profile || t("title");
  document.title = title;
  const summary = h("p", { class: "summary", role: "status", id: "summary" });
  const middle = stage(context, summary); // makes the map, which sections use
  const left = h("div", { class: "panel left", id: "left" }, ...SECTIONS.map((section) => section(context)));
  app.replaceChildren(topBar(context, title), middle, left, imagePanel(context), bottomBar(context, summary), about(context));
  if (!context.map) store.set({ open: "tree" });
  followMap(context);
  followAddress(context, link);
  followKeys(context);
  if (live && release.writes !== undefined) followInbox(context);
  if (link.release && link.release !== String(release.release)) {
    announce.say(t("goneRelease", { release: link.release, now: String(release.release) }));
  }
  store.on(["made", "space"], () => findNearest(context));
  void restoreMade(context, link.made);
  Object.assign(window, { latentAtlas: { store, context } });
}

function contextOf({ release, live, current, tiles }: FoundRelease, link: Link, { say }: Announcer): Context {
  const store = new Store(firstState(link, release.spaces, tiles));
  const facts = tiles && current === null ? new Facts(tiles) : null;
  const number = String(release.release);
  const context: Context = {
    store,
    release,
    live,
    current,
    tiles,
    map: null,
    image: (id, signal) => facts?.image(id) ?? api.image(id, signal, live ? undefined : number),
    say,
    problem: (error) => say(error instanceof Error && error.message ? error.message : t("unreachable"), true),
    flyTo: (positions, reach) => flyTo(context, positions, reach),
    select: (id, fly = false) => {
      store.set({ selected: id });
      if (id && fly) {
        context.image(id).then((facts) => store.state.selected === id && context.flyTo(facts.positions), () => undefined);
      }
    },
    link: () => writeLink(store.state, number),
  };
  return context;
}

function firstState(link: Link, spaces: string[], tiles: Tiles | null): State {
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
    ends: { start: null, end: null },
    walk: null,
    here: null,
    comparison: null,
    share: 1,
    unreached: false,
    open: null,
    language,
    theme: remembered("latent-atlas-theme", ["system", "dark", "light"], "system"),
  };
}

void start();
