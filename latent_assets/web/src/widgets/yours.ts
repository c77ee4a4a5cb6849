// First on the page: describe an image or drop one, and see where it lands.

import { api, address, ApiError, type Neighbour, type Placed, type Placement } from "../data/api";
import { earlierMade, MOST_SHOWN, positionsOf, rememberMade, restoreMade } from "../state/made";
import type { End, Made } from "../state/store";
import { pickEnd } from "../state/walking";
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

  /** One after the other: a server takes few generations of one visitor at a time. */
  async function branches(prompt: string, variations: { seed: number; guidance: number | undefined }[]): Promise<void> {
    for (const { seed, guidance } of variations) await generate(prompt, seed, guidance);
  }

  function generate(prompt: string, seed: number, guidance: number | undefined): Promise<void> {
    const made: Made = { key: crypto.randomUUID(), prompt, placed: null, steps: [], image: "", problem: "", queued: 0, near: {} };
    const wanted = guidance === undefined ? { prompt, seed } : { prompt, seed, guidance };
    return follow(made, (signal) =>
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
        const chosen = seed.value === "" ? drawSeed() : Number(seed.value);
        if (text) void generate(text, chosen, guidance.value === "" ? undefined : Number(guidance.value));
      },
    },
    h("label", { for: "prompt" }, t("prompt")),
    h("div", { class: "row" }, prompt, h("button", { type: "submit", class: "main" }, t("generate"))),
    h("div", { class: "row examples" }, ...examples.slice(0, 3).map((example) => button(example, () => tryExample(example), { class: "small" }))),
    h(
      "details",
      { class: "fine" },
      h("summary", {}, t("more")),
      h("div", { class: "row" }, h("label", {}, t("seed"), seed), h("label", {}, t("guidance"), guidance)),
    ),
  );

  function tryExample(example: string): void {
    prompt.value = example;
    form.requestSubmit();
  }

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
      const open = card.querySelector("details")?.open ?? false;
      card.replaceChildren(...cardContent(context, one, index, remove, (variations) => void branches(one.prompt, variations)));
      if (open) card.querySelector("details")!.open = true;
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
    : [h("p", { class: "note" }, t(context.current === null ? "staticSite" : "releaseBefore", { release: String(release.release), now: context.current ?? "" }))];
  return h("section", { class: "yours", "aria-labelledby": "yours-title" }, h("h2", { id: "yours-title" }, t("yours")), ...content, list);
}

interface Variation {
  seed: number;
  guidance: number | undefined;
}

const drawSeed = (): number => Math.floor(Math.random() * 2 ** 31);

function cardContent(context: Context, one: Made, index: number, remove: () => void, branch: (variations: Variation[]) => void): HTMLElement[] {
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
      settings(one.placed),
      one.problem
        ? h("p", { class: "bad", role: "alert" }, one.problem)
        : !one.placed &&
            h(
              "p",
              { class: "note" },
              one.queued ? t("queued", { position: one.queued }) : step ? t("step", { step: step.step, steps: step.steps }) : t("placing"),
              step ? h("progress", { max: step.steps, value: step.step, "aria-label": title }) : null,
            ),
    ),
    button("×", remove, { class: "small", "aria-label": `${t("remove")}: ${title}`, title: one.placed ? t("remove") : t("stop") }),
  );
  if (!place || !one.placed) return [head];
  return [
    head,
    h("p", { class: "verdict" }, place.sentence),
    h("p", { class: "note" }, `${spaceName(context, space)}: ${t("nearest")}`),
    strip(context, place.neighbours.slice(0, 8)),
    behindIt(context, one.placed, place),
    h(
      "div",
      { class: "row" },
      button(t("fly"), () => context.flyTo(positionsOf(one.placed!), place.uncertainty), { class: "small" }),
      ...(one.placed.prompt && context.release.generation ? branchButtons(one.placed, branch) : []),
      ...walkButtons(context, one),
    ),
  ];
}

function settings(placed: Placed | null): HTMLElement | null {
  if (placed?.seed === undefined || placed.seed === null) return null;
  const guidance = placed.guidance === undefined || placed.guidance === null ? "" : ` · ${t("guidance")} ${number(placed.guidance, 1)}`;
  return h("p", { class: "note" }, `${t("seed")} ${placed.seed}${guidance}`);
}

function branchButtons(placed: Placed, branch: (variations: Variation[]) => void): HTMLElement[] {
  const { guidance, seed } = placed;
  return [
    button(t("again"), () => branch([{ seed: drawSeed(), guidance }]), { class: "small" }),
    button(t("otherSeeds"), () => branch([0, 1, 2].map(() => ({ seed: drawSeed(), guidance }))), { class: "small other-seeds" }),
    ...(seed !== undefined && guidance ? [button(t("otherGuidance"), () => branch([{ seed, guidance: guidance / 2 }, { seed, guidance: guidance * 2 }]), { class: "small other-guidance" })] : []),
  ];
}

/** Images that the server keeps can be ends of a walk. */
function walkButtons(context: Context, one: Made): HTMLElement[] {
  const { generated_id: value, prompt } = one.placed!;
  if (!context.release.synthesis || !prompt) return [];
  const end: End = { kind: "generated", value, name: one.prompt, thumbnail: one.image };
  return [
    button(t("walkStart"), () => pickEnd(context, end, "start"), { class: "small" }),
    button(t("walkEnd"), () => pickEnd(context, end, "end"), { class: "small" }),
  ];
}

/** What the verdict and the neighbours rest on, with every number. */
function behindIt(context: Context, placed: Placed, place: Placement): HTMLElement {
  const facts = [
    place.percentile !== null && t("percentile", { percent: number(place.percentile) }),
    place.p_value !== null && t("pValue", { percent: number(place.p_value * 100, 1) }),
    t("uncertainty", { value: number(place.uncertainty, 2) }),
    placed.agreement !== null && t("agreement", { percent: number(placed.agreement * 100) }),
  ].filter((text): text is string => !!text);
  const copy = place.copy;
  const rows = place.behind.slice(0, 8).map(({ value, count, of, lift, low, high, unusual }) =>
    h("tr", { class: unusual ? "unusual" : "" }, h("th", { scope: "row" }, value), h("td", {}, `${number(count)}/${number(of)}`), h("td", {}, number(lift, 1)), h("td", {}, `${number(low, 1)}–${number(high, 1)}${unusual ? ` ${t("unusual")}` : ""}`)),
  );
  return h(
    "details",
    { class: "behind" },
    h("summary", {}, t("details")),
    h("ul", { class: "facts" }, ...facts.map((text) => h("li", {}, text))),
    copy && h("p", {}, button(t("possibleCopy", { correlation: number(copy.correlation, 3) }), () => context.select(copy.id, true), { class: "small" })),
    rows.length ? h("table", {}, h("thead", {}, h("tr", {}, ...["", t("share"), t("lift"), t("interval")].map((name) => h("th", { scope: "col" }, name || h("span", { class: "unseen" }, t("category")))))), h("tbody", {}, ...rows)) : null,
  );
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
