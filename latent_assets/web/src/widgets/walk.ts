// A walk: two ends, the film of what lies between, the regions it crosses.

import { regionOf } from "../scene/regions";
import type { End } from "../state/store";
import { leaveWalk, startWalk } from "../state/walking";
import { t } from "../text";
import type { Context } from "./context";
import { button, h } from "./dom";

const FRAME_MS = 450;
const quiet = matchMedia("(prefers-reduced-motion: reduce)");

export function walk(context: Context): HTMLElement {
  const { release, live } = context;
  if (!live || !release.synthesis) return h("section", { hidden: true });
  const go = h("button", { type: "submit", class: "main", id: "walk-go" }, t("walkGo"));
  const form = h(
    "form",
    {
      class: "ends",
      onsubmit: (event: Event) => {
        event.preventDefault();
        for (const each of [first, last]) each.take();
        const { start, end } = context.store.state.ends;
        if (!start || !end) return context.say(t("walkEnds"), true);
        void startWalk(context);
      },
    },
  );
  const first = endField(context, "start", t("walkFrom"));
  const last = endField(context, "end", t("walkTo"));
  form.append(first.element, last.element, go);
  return h(
    "details",
    { class: "section walk", id: "walk" },
    h("summary", {}, h("h2", {}, t("walk"))),
    h("p", { class: "note" }, t(release.generation ? "walkNote" : "walkNoteImages")),
    form,
    film(context),
  );
}

interface EndField {
  element: HTMLElement;
  /** Words that were typed become the end. */
  take(): void;
}

function endField(context: Context, which: "start" | "end", label: string): EndField {
  const { store, release } = context;
  const id = `walk-${which}`;
  const field = h("input", { type: "text", id, maxLength: 1000, autocomplete: "off", placeholder: t(release.generation ? "walkField" : "walkPick") });
  field.disabled = !release.generation;
  const set = (end: End | null): void => store.set({ ends: { ...store.state.ends, [which]: end } });
  const chip = h("span", { class: "chip", hidden: true });
  const draw = (): void => {
    const end = store.state.ends[which];
    const picked = end !== null && end.kind !== "prompt";
    chip.hidden = !picked;
    field.hidden = picked;
    if (end?.kind === "prompt") field.value = end.value;
    if (!picked) return;
    chip.replaceChildren(
      end.thumbnail ? h("img", { src: end.thumbnail, alt: "" }) : "",
      h("span", { class: "grow" }, end.name),
      button("×", () => set(null), { class: "small", "aria-label": `${t("remove")}: ${end.name}` }),
    );
  };
  store.on(["ends"], draw);
  draw();
  return {
    element: h("div", { class: "line" }, h("label", { for: id }, label), chip, field),
    take() {
      const words = field.value.trim();
      if (!field.hidden) set(words ? { kind: "prompt", value: words, name: words, thumbnail: null } : null);
    },
  };
}

/** The frames as a film, with the regions it crosses. */
function film(context: Context): HTMLElement {
  const { store } = context;
  let timer = 0;
  const picture = h("img", { class: "film-frame", alt: "" });
  const slider = h("input", { type: "range", min: "0", step: "1", "aria-label": t("walkFrame"), id: "walk-frame" });
  const note = h("p", { class: "note", role: "status", id: "walk-status" });
  const regions = h("ol", { class: "regions", "aria-label": t("walkRegions") });
  const how = h("p", { class: "note" });
  const play = button(t("play"), () => (timer ? stop() : run()), { class: "small", id: "walk-play" });
  const element = h(
    "div",
    { class: "film", hidden: true },
    h("div", { class: "card-head" }, picture, h("div", { class: "grow" }, note, h("div", { class: "row" }, play, button(t("remove"), () => leaveWalk(context), { class: "small" })))),
    slider,
    regions,
    how,
  );
  const show = (at: number): void => {
    if (store.state.walk) store.set({ walk: { ...store.state.walk, at } });
  };
  slider.addEventListener("input", () => {
    stop();
    show(Number(slider.value));
  });
  function stop(): void {
    clearInterval(timer);
    timer = 0;
    play.textContent = t("play");
  }
  function run(): void {
    play.textContent = t("pause");
    let step = 1;
    timer = window.setInterval(() => {
      const walk = store.state.walk;
      if (!walk || walk.frames.length < 2) return stop();
      if (walk.at + step < 0 || walk.at + step >= walk.frames.length) step = -step; // there and back
      show(walk.at + step);
    }, FRAME_MS);
  }
  store.on(["walk", "space"], ({ walk, space }, before) => {
    element.hidden = walk === null;
    if (!walk) return stop();
    const frame = walk.frames[walk.at];
    picture.hidden = !frame;
    if (frame && picture.src !== frame.preview) picture.src = frame.preview;
    const around = (frame?.near[space] ?? []).slice(0, 2).flatMap(({ caption }) => (caption ? [caption] : []));
    picture.alt = around.length ? t("walkAlt", { near: around.join(", ") }) : "";
    slider.max = String(Math.max(walk.frames.length - 1, 0));
    slider.value = String(walk.at);
    slider.hidden = walk.frames.length < 2;
    play.hidden = !walk.done || walk.frames.length < 2;
    note.className = walk.problem ? "bad" : "note";
    note.textContent = walk.problem || (walk.queued ? t("queued", { position: walk.queued }) : walk.done ? t("walkDone", { frames: walk.frames.length }) : t("step", { step: walk.frames.length, steps: walk.wanted }));
    how.textContent = walk.how ? t("walkHow", { how: walk.how }) : "";
    if (walk.frames !== before.walk?.frames || space !== before.space) {
      regions.replaceChildren(...crossed(walk.frames.map((each) => regionOf(each.near[space]))).map(({ name, at }) => h("li", {}, button(name, () => show(at), { class: "small" }))));
    }
    if (walk.done && !before.walk?.done && !walk.problem && !quiet.matches) run();
  });
  return element;
}

/** The regions in the order in which they are crossed, and the first frame in each. */
export function crossed(names: (string | null)[]): { name: string; at: number }[] {
  const found: { name: string; at: number }[] = [];
  names.forEach((name, at) => {
    if (name && found.at(-1)?.name !== name) found.push({ name, at });
  });
  return found;
}
