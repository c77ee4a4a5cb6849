// The release that the page shows: what the server has, or what lies beside a static copy.

import { address, api, ApiError, STARTING, type Release } from "./api";
import { Tiles } from "./tiles";

export interface FoundRelease {
  release: Release;
  /** Whether a server answers from it: not of a static copy, and not of a release before the live one. */
  live: boolean;
  /** The release that a server answers from; null without a server. */
  current: string | null;
  tiles: Tiles | null;
}

/** The release of an address, else the one that is live. `waits` is told why it takes long. */
export async function findRelease(wanted: string | null, waits: (why: string) => void): Promise<FoundRelease> {
  try {
    const release = await whenStarted(api.release, waits);
    const current = String(release.release);
    const before = wanted && wanted !== current ? await findBefore(release, wanted) : null;
    if (before) return before;
    return { release, live: true, current, tiles: release.tiles ? await openTiles(address(release.tiles)) : null };
  } catch (error) {
    if (error instanceof ApiError && error.status >= 400 && error.status !== 404) throw error;
    return findFiles(wanted, error);
  }
}

/** A release before the live one, as far as its tiles are kept: its map and its images, without search and generation. */
async function findBefore(now: Release, wanted: string): Promise<FoundRelease | null> {
  const { releases } = await api.releases();
  const found = releases.find((one) => String(one.release) === wanted);
  const tiles = found?.tiles ? await openTiles(address(found.tiles)) : null;
  if (!found || !tiles) return null;
  const release = { ...now, ...found, spaces: Object.keys(tiles.info.spaces), generation: false, synthesis: false, writes: false };
  return { release, live: false, current: String(now.release), tiles };
}

async function findFiles(wanted: string | null, problem: unknown): Promise<FoundRelease> {
  const listed = await fetch("tiles/releases.json").then((found) => (found.ok ? found.json() : null)).catch(() => null);
  const all: { release: string }[] = listed?.releases ?? [];
  if (!all.length) throw problem;
  const chosen = all.find((one) => one.release === wanted) ?? all[0]!;
  const tiles = await Tiles.open(`tiles/${chosen.release}/`);
  const { rows, created, title, spaces } = tiles.info;
  const release = { release: chosen.release, rows, published: created, spaces: Object.keys(spaces), generation: false, writes: false };
  return { release: { ...release, profile: title, contact: null, tiles: tiles.base }, live: false, current: null, tiles };
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

export async function openTiles(base: string): Promise<Tiles | null> {
  try {
    return await Tiles.open(base.endsWith("/") ? base : `${base}/`);
  } catch {
    return null;
  }
}
