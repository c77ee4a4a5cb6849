// Generated images that are shown: those of this page, of its address, of this browser's memory, and of the inbox.

import { address, api, ApiError, type Placed } from "../data/api";
import type { Context } from "../widgets/context";
import { recall, remember } from "./memory";

export const MADE_COLOURS = ["#ffd166", "#ff7fb0", "#8ce99a", "#b197fc"]; // style.css has them, too
export const MOST_SHOWN = 8;
const REMEMBERED = "latent-atlas-made";
const MOST_REMEMBERED = 24;
const LINES = 6; // to its nearest images
const POLL_MS = 5_000;

export function positionsOf(placed: Placed): Record<string, [number, number, number]> {
  return Object.fromEntries(Object.entries(placed.placements).map(([space, place]) => [space, place.position]));
}

export function addMade({ store }: Context, placed: Placed): void {
  if (store.state.made.some((one) => one.placed?.generated_id === placed.generated_id)) return;
  const image = address(placed.image ?? `api/generated/${placed.generated_id}/image`);
  const made = { key: placed.generated_id, prompt: placed.prompt ?? "", placed, steps: [], image, problem: "", queued: 0, near: {} };
  store.set({ made: [made, ...store.state.made].slice(0, MOST_SHOWN) });
}

/** Generated images by their ids, those that the server still has. */
export async function restoreMade(context: Context, ids: string[]): Promise<void> {
  if (!context.live) return;
  for (const id of [...ids].reverse()) {
    try {
      addMade(context, await api.generatedOne(id));
    } catch (error) {
      if (!(error instanceof ApiError) || error.status !== 404) context.problem(error);
    }
  }
}

/** Look up where the nearest images of what was made are, for the lines that lead to them. */
export function findNearest(context: Context): void {
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

/** What came through the inbox since the page was opened appears without reloading. */
export function followInbox(context: Context): void {
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

/** Ids of what this browser made, newest first. */
export function earlierMade(): string[] {
  try {
    const found: unknown = JSON.parse(recall(REMEMBERED) ?? "[]");
    return Array.isArray(found) ? found.filter((id): id is string => typeof id === "string" && /^[0-9a-f]+$/.test(id)) : [];
  } catch {
    return [];
  }
}

export function rememberMade(placed: Placed): void {
  const ids = [placed.generated_id, ...earlierMade().filter((id) => id !== placed.generated_id)];
  remember(REMEMBERED, JSON.stringify(ids.slice(0, MOST_REMEMBERED)));
}
