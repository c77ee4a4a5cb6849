// First on the page: describe an image or drop one, and see where it lands.

import { api, address, ApiError, type Neighbour, type Placed } from "../data/api";
import { earlierMade, MOST_SHOWN, positionsOf, rememberMade, restoreMade } from "../state/made";
import type { Made } from "../state/store";
import { number, t } from "../text";
import { spaceName, type Context } from "./context";
import { button, h } from "./dom";

const SHOWN_AGAIN = 4;

export function yours(context: Context): HTMLElement {
  const { store, release, live } = context;
  const runs = new Map<string, AbortController>();
  const cards = new Map<string, HTMLElement>();
  const list = h("div", { class: "made", "aria-live": "polite" });
  const change = (key: string, part: Partial<Made>): void =>
    store.set({ made: store.state.made.map((one) => (one.key === key ? { ...one, ...part } : one)) });

  async function follow(made: Made, work: (signal: AbortSignal) => Promise<Placed>): Promise<void> {
    const controller = new AbortController();
    runs.set(made.key, controller);
    store.set({ made: [made, ...store.state.made].slice(0, MOST_SHOWN) });
    try {
      const placed = await work(controller.signal);
      change(made.key, { placed, image: placed.image ? address(placed.image) : made.image });
      if (placed.prompt) rememberMade(placed);
      context.flyTo(positionsOf(placed), placed.placements[store.state.space]?.uncertainty);
    } catch (error) {
      if (controller.signal.aborted) store.set({ made: store.state.made.filter((one) => one.key !== made.key) });
      else change(made.key, { problem: error instanceof ApiError && error.message ? error.message : t("unreachable") });
    } finally {
      runs.delete(made.key);
    }
  }

  function generate(prompt: string, seed: number, guidance: number | undefined): void {
    const made: Made = { key: crypto.randomUUID(), prompt, placed: null, steps: [], image: "", problem: "", queued: 0, near: {} };
    const wanted = guidance === undefined ? { prompt, seed } : { prompt, seed, guidance };
    void follow(made, (signal) =>
      api.generate(
        wanted,
        {
          queued: (position) => change(made.key, { queued: position }),
          step: (step) => {
            const steps = store.state.made.find((one) => one.key === made.key)?.steps ?? [];
            change(made.key, { steps: [...steps, step], image: step.preview, queued: 0 });
          },
        },
        signal,
      ),
    );
  }

  function place(file: Blob, name: string): void {
    if (file.type && !file.type.startsWith("image/")) return context.say(t("notImage", { file: name }), true);
    const image = URL.createObjectURL(file);
    const made: Made = { key: crypto.randomUUID(), prompt: name, placed: null, steps: [], image, problem: "", queued: 0, near: {} };
    void follow(made, () => api.place(file));
  }

  const prompt = h("input", { type: "text", id: "prompt", name: "prompt", maxLength: 1000, autocomplete: "off", required: true });
  const examples = release.examples?.length ? release.examples : [];
  prompt.placeholder = examples.length ? t("promptExample", { example: examples[0]! }) : "";
  const seed = h("input", { type: "number", id: "seed", min: "0", max: "4294967295", step: "1", value: "" });
  const guidance = h("input", { type: "number", id: "guidance", min: "0", max: "30", step: "0.5", value: "" });
  const form = h(
    "form",
    {
      class: "prompt",
      onsubmit: (event: Event) => {
        event.preventDefault();
        const text = prompt.value.trim();
        const chosen = seed.value === "" ? Math.floor(Math.random() * 2 ** 31) : Number(seed.value);
        if (text) generate(text, chosen, guidance.value === "" ? undefined : Number(guidance.value));
      },
    },
    h("label", { for: "prompt" }, t("prompt")),
    h("div", { class: "row" }, prompt, h("button", { type: "submit", class: "main" }, t("generate"))),
    h(
      "details",
      { class: "fine" },
      h("summary", {}, t("more")),
      h("div", { class: "row" }, h("label", {}, t("seed"), seed), h("label", {}, t("guidance"), guidance)),
    ),
  );

  const file = h("input", { type: "file", accept: "image/*", class: "hidden-file", id: "place-file" });
  file.addEventListener("change", () => {
    const found = file.files?.[0];
    if (found) place(found, found.name);
    file.value = "";
  });
  const drop = h(
    "div",
    { class: "drop" },
    h("span", {}, t("drop"), " "),
    h("label", { for: "place-file", class: "link" }, t("choose")),
    file,
  );
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    drop.classList.add("over");
  });
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) drop.classList.remove("over");
  });
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    const found = event.dataTransfer?.files[0];
    if (found && live) place(found, found.name);
  });
  document.addEventListener("paste", (event) => {
    const found = [...(event.clipboardData?.files ?? [])].find((one) => one.type.startsWith("image/"));
    if (found && live) place(found, found.name || t("you"));
  });

  function draw(): void {
    const wanted = store.state.made;
    for (const [key, card] of cards) {
      if (wanted.some((one) => one.key === key)) continue;
      card.remove();
      cards.delete(key);
    }
    wanted.forEach((one, index) => {
      const card = cards.get(one.key) ?? h("article", { class: "card" });
      const remove = (): void => {
        runs.get(one.key)?.abort();
        store.set({ made: store.state.made.filter((other) => other.key !== one.key) });
      };
      card.replaceChildren(...cardContent(context, one, index, remove, () => generate(one.prompt, Math.floor(Math.random() * 2 ** 31), one.placed?.guidance)));
      card.setAttribute("aria-busy", String(!one.placed && !one.problem));
      cards.set(one.key, card);
      if (list.children[index] !== card) list.insertBefore(card, list.children[index] ?? null);
    });
  }
  store.on(["made", "space"], draw);
  draw();

  const earlier = button(
    t("earlier"),
    () => {
      earlier.hidden = true;
      void restoreMade(context, earlierMade().slice(0, SHOWN_AGAIN));
    },
    { class: "small", id: "earlier", hidden: !earlierMade().length },
  );
  const content: (HTMLElement | false)[] = live
    ? [release.generation && form, !release.generation && h("p", { class: "note" }, t("noGeneration")), drop, earlier]
    : [h("p", { class: "note" }, t("staticSite"))];
  return h("section", { class: "yours", "aria-labelledby": "yours-title" }, h("h2", { id: "yours-title" }, t("yours")), ...content, list);
}

function cardContent(context: Context, one: Made, index: number, remove: () => void, again: () => void): HTMLElement[] {
  const space = context.store.state.space;
  const place = one.placed?.placements[space];
  const step = one.steps.at(-1);
  const title = one.prompt || t("you");
  const head = h(
    "div",
    { class: "card-head" },
    one.image ? h("img", { src: one.image, alt: title, class: "preview" }) : h("span", { class: "preview" }),
    h(
      "div",
      { class: "grow" },
      h("strong", {}, h("span", { class: `dot made-${index % 4}` }), title),
      one.problem
        ? h("p", { class: "bad", role: "alert" }, one.problem)
        : !one.placed &&
            h(
              "p",
              { class: "note" },
              one.queued ? t("queued", { position: one.queued }) : step ? t("step", { step: step.step, steps: step.steps }) : t("placing"),
              step ? h("progress", { max: step.steps, value: step.step, "aria-label": title }) : null,
            ),
      place && h("p", {}, h("span", { class: `verdict ${place.verdict}` }, place.sentence)),
    ),
    button("×", remove, { class: "small", "aria-label": `${t("remove")}: ${title}`, title: one.placed ? t("remove") : t("stop") }),
  );
  if (!place || !one.placed) return [head];
  const facts = [
    t("uncertainty", { value: number(place.uncertainty, 2) }),
    one.placed.agreement !== null && t("agreement", { percent: number(one.placed.agreement * 100) }),
    ...place.behind
      .filter(({ low }) => low > 1)
      .slice(0, 3)
      .map(({ value, lift, low, high }) =>
        t("behind", { value, lift: number(lift, 1), low: number(low, 1), high: number(high, 1) }),
      ),
  ].filter((text): text is string => !!text);
  return [
    head,
    h("ul", { class: "facts" }, ...facts.map((text) => h("li", {}, text))),
    h("p", { class: "note" }, `${spaceName(context, space)}: ${t("nearest")}`),
    strip(context, place.neighbours.slice(0, 8)),
    h(
      "div",
      { class: "row" },
      button(t("fly"), () => context.flyTo(positionsOf(one.placed!), place.uncertainty), { class: "small" }),
      one.placed.prompt ? button(t("again"), again, { class: "small" }) : null,
      one.placed.seed !== undefined ? h("span", { class: "note" }, `${t("seed")} ${one.placed.seed}`) : null,
    ),
  ];
}

/** Thumbnails in a row, each a button that shows its image. */
export function strip(context: Context, images: Neighbour[]): HTMLElement {
  return h(
    "ul",
    { class: "strip" },
    ...images.map(({ id, caption, similarity, thumbnail }) => {
      const name = caption ?? t("caption_none");
      const title = `${name} (${number(similarity, 3)})`;
      const image = h("img", { src: address(thumbnail), alt: "", loading: "lazy" });
      return h("li", {}, h("button", { type: "button", title, "aria-label": title, onclick: () => context.select(id, true) }, image));
    }),
  );
}
