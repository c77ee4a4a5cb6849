// What every widget is given: the state, what can be asked, and what can be done.

import type { ImageFacts, Release } from "../data/api";
import type { Tiles } from "../data/tiles";
import type { AtlasMap } from "../scene/map";
import type { Key } from "../text";
import { t } from "../text";
import type { Store } from "../state/store";

export interface Context {
  store: Store;
  release: Release;
  /** Whether a server answers from this release: not of a static copy, and not of a release before the live one. */
  live: boolean;
  /** The release that a server answers from; null without a server. */
  current: string | null;
  tiles: Tiles | null;
  map: AtlasMap | null;
  /** All that is known of an image of the atlas. */
  image(id: string, signal?: AbortSignal): Promise<ImageFacts>;
  say(text: string, serious?: boolean): void;
  problem(error: unknown): void;
  /** Fly to where an image is on the map shown; `reach` in map units is in view, too. */
  flyTo(positions: Record<string, [number, number, number]> | undefined, reach?: number): void;
  select(id: string | null, fly?: boolean): void;
  link(): string;
}

const NAMED = ["clip", "vae", "joint"];

export function spaceName(context: Context, space: string): string {
  return NAMED.includes(space) ? t(`space_${space}` as Key) : context.tiles?.info.spaces[space]?.shows || space;
}
