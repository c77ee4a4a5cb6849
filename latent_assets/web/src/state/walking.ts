// Walks as they are made: asked of the server, told frame by frame.

import { api, ApiError, type Frame, type Point, type WalkEnd } from "../data/api";
import { t } from "../text";
import type { Context } from "../widgets/context";
import type { End, Walk } from "./store";

export const FRAMES = 9;
let running: AbortController | null = null;

function asked({ kind, value, seed }: End): WalkEnd {
  if (kind === "image") return { image: value };
  if (kind === "generated") return { generated: value };
  return seed === undefined ? { prompt: value } : { prompt: value, seed };
}

/** Walk between the ends that were picked. */
export async function startWalk(context: Context): Promise<void> {
  const { store } = context;
  const { start, end } = store.state.ends;
  if (!start || !end) return;
  running?.abort();
  const own = (running = new AbortController());
  const change = (part: Partial<Walk>): void => {
    if (!own.signal.aborted && store.state.walk) store.set({ walk: { ...store.state.walk, ...part } });
  };
  store.set({ walk: { frames: [], wanted: FRAMES, at: 0, done: false, queued: 0, how: "", problem: "" } });
  try {
    const { how, frames } = await api.walk(
      { start: asked(start), end: asked(end), frames: FRAMES },
      {
        queued: (queued) => change({ queued }),
        frame: (frame) => {
          const frames = [...(store.state.walk?.frames ?? []), frame];
          change({ frames, at: frames.length - 1, queued: 0 });
          if (frames.length === 1) context.flyTo(frame.positions);
        },
      },
      own.signal,
    );
    change({ how, frames, done: true });
    showWhole(context, frames);
  } catch (error) {
    change({ done: true, problem: error instanceof ApiError && error.message ? error.message : t("unreachable") });
  }
}

/** All of a walk in view. */
function showWhole(context: Context, frames: Frame[]): void {
  const { space } = context.store.state;
  const places = frames.map((frame) => frame.positions[space]).filter((place) => place !== undefined);
  if (!places.length) return;
  const middle = [0, 1, 2].map((axis) => places.reduce((sum, place) => sum + place[axis]!, 0) / places.length) as Point;
  const reach = Math.max(...places.map((place) => Math.hypot(...place.map((value, axis) => value - middle[axis]!))));
  context.flyTo({ [space]: middle }, reach);
}

export function leaveWalk({ store }: Context): void {
  running?.abort();
  store.set({ walk: null });
}

/** Pick an image as an end: the start first, then the end; once both are there the end is replaced. */
export function pickEnd({ store }: Context, end: End, which?: "start" | "end"): void {
  const { ends } = store.state;
  store.set({ ends: { ...ends, [which ?? (ends.start ? "end" : "start")]: end } });
  document.querySelector("#walk")?.setAttribute("open", "");
}
