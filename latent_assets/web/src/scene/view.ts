// Places in map units as places of the scene, and views of them.

import type { Tiles } from "../data/tiles";
import type { Camera } from "../state/store";
import type { Context } from "../widgets/context";
import type { Place } from "./marks";

const HOME: Camera = { target: [0, 0, 0], radius: 3.1, theta: 0.6, phi: 1.2 };

export type Positions = Record<string, Place>;

/** The whole map of a space, without its outliers. */
export function home(tiles: Tiles | null, space: string): Camera {
  const info = tiles?.info.spaces[space];
  if (!info) return HOME;
  const target = info.middle.map((value, axis) => ((value - info.origin[axis]!) / info.edge) * 2 - 1) as Place;
  return { ...HOME, target, radius: Math.min(Math.max((info.reach / info.edge) * 5, 0.2), 4) };
}

export function flyHome({ map, tiles, store }: Context): void {
  const { target, radius } = home(tiles, store.state.space);
  map?.controls.flyTo(target, radius);
}

/** Where positions are on the map that is shown; null when they say nothing of it. */
export function scenePlace({ tiles, store }: Context, positions: Positions | undefined): Place | null {
  const place = positions?.[store.state.space];
  const info = tiles?.info.spaces[store.state.space];
  if (!place || !info) return null;
  return place.map((value, axis) => ((value - info.origin[axis]!) / info.edge) * 2 - 1) as Place;
}

/** A place of the scene in map units of the map that is shown. */
export function mapPlace({ tiles, store }: Context, place: Place): Place {
  const { origin, edge } = tiles!.info.spaces[store.state.space]!;
  return place.map((value, axis) => origin[axis]! + ((value + 1) / 2) * edge) as Place;
}

/** Fly to a place, near enough for a dozen of its neighbours to be in view, far enough for all within `reach`. */
export function flyTo(context: Context, positions: Positions | undefined, reach = 0): void {
  const { store, tiles, map } = context;
  const place = scenePlace(context, positions);
  const info = tiles?.info.spaces[store.state.space];
  if (!place || !info || !map) return;
  const close = Math.min(Math.max(((info.spacing / info.edge) * 2) * 22, 0.05), 1.2);
  const near = Math.max(close, (reach / info.edge) * 6);
  map.controls.flyTo(place, reach ? near : Math.min(map.controls.view.radius, near));
}
