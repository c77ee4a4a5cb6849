// The map as a tree for keyboard and screen reader: spaces, their clusters level by level, images, their neighbours.

import { api, type ImageFacts } from "../data/api";
import type { Label } from "../data/tiles";
import { number, t } from "../text";
import { spaceName, type Context } from "./context";
import { h } from "./dom";
import { rowsOf } from "./labels";

const IMAGES = 40; // of a search
const AT_ONCE = 12; // images of a cluster

interface Item {
  element: HTMLElement;
  label: string;
  level: number;
  open: (() => Promise<Item[]>) | null;
  act: () => void;
  parent: Item | null;
  children: Item[] | null;
}

export function tree(context: Context): HTMLElement {
  const { store, tiles, live } = context;
  const root = h("ul", { role: "tree", "aria-label": t("tree"), class: "tree" });
  const section = h(
    "section",
    { class: "tree-section", hidden: true, id: "tree", "aria-labelledby": "tree-title" },
    h("h2", { id: "tree-title" }, t("tree")),
    h("p", { class: "note" }, t("treeNote")),
    root,
  );
  store.on(["open"], (state) => {
    section.hidden = state.open !== "tree";
    if (state.open === "tree") visible()[0]?.element.focus();
  });
  if (!tiles) return section;

  const top: Item[] = Object.keys(tiles.info.spaces).map((space) =>
    item(`${t("spaces")} ${spaceName(context, space)}`, 1, null, async (own) => parts(space, await tiles.labels(space), null, own), () => store.set({ space })),
  );

  /** The clusters that are part of one, or of none. */
  function parts(space: string, labels: Label[], whole: Label | null, parent: Item): Item[] {
    return labels
      .filter((label) => (label.parent ?? null) === (whole?.id ?? null) && label !== whole)
      .map((label) => {
        const open = async (own: Item): Promise<Item[]> => {
          const finer = label.id ? parts(space, labels, label, own) : [];
          return [...finer, ...(label.id ? await members(space, label, own, 0) : await ofCategory(space, label.text, own))];
        };
        const known = label.id !== undefined || live;
        return item(`${label.text}, ${number(label.rows)} ${t("images")}`, parent.level + 1, parent, known ? open : null, () => {
          store.set({ space });
          context.flyTo({ [space]: label.position }, label.radius);
        });
      });
  }

  /** Images of a cluster, some at a time. */
  async function members(space: string, label: Label, parent: Item, from: number): Promise<Item[]> {
    const ids = await rowsOf(context, space, label, from, from + AT_ONCE);
    const found = await Promise.all(ids.map((id) => context.image(id)));
    const items = found.map((facts) => image(space, facts.id, facts.caption, facts.positions, parent, facts));
    if (from + ids.length < label.rows && ids.length) {
      items.push(item(t("moreImages"), parent.level + 1, parent, (own) => members(space, label, own, from + AT_ONCE), () => undefined));
    }
    return items;
  }

  async function ofCategory(space: string, category: string, parent: Item): Promise<Item[]> {
    const { results } = await api.search({ q: category, mode: "meaning", k: String(IMAGES), category });
    return results.map(({ id, caption, positions }) => image(space, id, caption, positions, parent));
  }

  /** An image, which opens to its neighbours on the map. */
  function image(space: string, id: string, caption: string | null, positions: ImageFacts["positions"] | null, parent: Item, facts?: ImageFacts): Item {
    const neighbours = async (own: Item): Promise<Item[]> => {
      const near = (facts ?? (await context.image(id))).neighbours[space] ?? [];
      return near.map((other) => image(space, other.id, other.caption, null, own));
    };
    return item(caption ?? t("caption_none"), parent.level + 1, parent, live ? neighbours : null, () => {
      store.set({ space });
      context.select(id, positions === null);
      if (positions) context.flyTo(positions);
    });
  }

  function item(label: string, level: number, parent: Item | null, open: ((own: Item) => Promise<Item[]>) | null, act: () => void): Item {
    const element = h("li", { role: "treeitem", tabIndex: -1, "aria-level": level, "aria-expanded": open ? "false" : undefined }, h("span", {}, label));
    element.classList.add(`level-${level}`);
    const own: Item = { element, label, level, open: open ? () => open(own) : null, act, parent, children: null };
    element.addEventListener("click", (event) => {
      event.stopPropagation();
      focus(own);
      void toggle(own);
      act();
    });
    return own;
  }

  async function toggle(own: Item, wanted?: boolean): Promise<void> {
    if (!own.open) return;
    const opened = wanted ?? own.element.getAttribute("aria-expanded") !== "true";
    if (opened && !own.children) {
      own.element.setAttribute("aria-busy", "true");
      try {
        own.children = await own.open();
      } catch (error) {
        return context.problem(error);
      } finally {
        own.element.removeAttribute("aria-busy");
      }
      own.element.append(h("ul", { role: "group" }, ...own.children.map((child) => child.element)));
    }
    own.element.setAttribute("aria-expanded", String(opened));
    const group = own.element.querySelector<HTMLElement>(":scope > ul");
    if (group) group.hidden = !opened;
  }

  function visible(items: Item[] = top): Item[] {
    return items.flatMap((own) => [own, ...(own.element.getAttribute("aria-expanded") === "true" ? visible(own.children ?? []) : [])]);
  }

  function focus(own: Item): void {
    for (const other of root.querySelectorAll<HTMLElement>("[tabindex='0']")) other.tabIndex = -1;
    own.element.tabIndex = 0;
    own.element.focus();
  }

  root.addEventListener("keydown", (event) => {
    const items = visible();
    const at = items.findIndex((own) => own.element === document.activeElement);
    const own = items[at];
    if (!own) return;
    const opened = own.element.getAttribute("aria-expanded") === "true";
    if (event.key === "ArrowDown") focus(items[Math.min(at + 1, items.length - 1)]!);
    else if (event.key === "ArrowUp") focus(items[Math.max(at - 1, 0)]!);
    else if (event.key === "Home") focus(items[0]!);
    else if (event.key === "End") focus(items.at(-1)!);
    else if (event.key === "ArrowRight") opened && own.children?.[0] ? focus(own.children[0]) : void toggle(own, true);
    else if (event.key === "ArrowLeft") opened ? void toggle(own, false) : own.parent && focus(own.parent);
    else if (event.key === "Enter" || event.key === " ") own.act();
    else return;
    event.preventDefault();
    event.stopPropagation();
  });
  root.append(...top.map((own) => own.element));
  if (top[0]) top[0].element.tabIndex = 0;
  return section;
}
