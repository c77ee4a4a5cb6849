// Clusters as colours of the points and of their names. Neighbours on the map do not share one.

import type { Label, Tiles } from "../data/tiles";
import { kindColour } from "../scene/palettes";
import { t } from "../text";
import type { Context } from "./context";
import { h } from "./dom";

const COLOURS = 10;
const PREFIX = "clusters-";

/** The level of a choice of colour; null for one that is not by clusters. */
export function clusterLevel(colour: string): number | null {
  return colour.startsWith(PREFIX) ? Number(colour.slice(PREFIX.length)) : null;
}

/** Choices of colour: a level of clusters each. */
export function clusterOptions({ tiles, store }: Context): HTMLElement[] {
  const levels = new Set(tiles!.info.columns.flatMap(({ kind, level }) => (kind === "cluster" && level ? [level] : [])));
  return [...levels].sort().map((level) => {
    const value = `${PREFIX}${level}`;
    return h("option", { value, selected: value === store.state.colour }, t(`clusters_${level as 1 | 2 | 3}`));
  });
}

/** Give every row the colour of its cluster on the map that is shown, and the names theirs. */
export async function colourByCluster(context: Context, theme: "dark" | "light"): Promise<void> {
  const { store, tiles, map } = context;
  const { colour, space } = store.state;
  const column = tiles!.info.columns.find(({ kind, level, space: of }) => kind === "cluster" && of === space && level === clusterLevel(colour));
  if (!column) return map!.colourBy(null, "code");
  const [codes, values, labels] = await Promise.all([tiles!.column(column.name), tiles!.columnValues(column.name), tiles!.labels(space)]);
  if (store.state.colour !== colour || store.state.space !== space) return;
  const kinds = spread(values.map(([id]) => id), labels, tiles!, space);
  const rows = new Uint8Array(codes.length);
  for (let row = 0; row < codes.length; row++) rows[row] = codes[row] ? kinds.get(values[codes[row]! - 1]![0])! : 0;
  map!.colourBy(rows, "code");
  map!.labels.colour(new Map([...kinds].map(([id, kind]) => [id, kindColour(kind, theme)])));
}

/** A colour for each cluster: of those there are, the one whose nearest cluster on the map is farthest away. */
function spread(ids: string[], labels: Label[], tiles: Tiles, space: string): Map<string, number> {
  const places = new Map(labels.map(({ id, position }) => [id, position]));
  const edge = tiles.info.spaces[space]!.edge;
  const taken: [number, number, number][][] = Array.from({ length: COLOURS }, () => []);
  const kinds = new Map<string, number>();
  for (const id of ids) {
    const place = places.get(id) ?? [0, 0, 0];
    let [best, far] = [0, -1];
    taken.forEach((others, kind) => {
      const nearest = others.reduce((least, other) => Math.min(least, Math.hypot(...place.map((value, axis) => value - other[axis]!))), 2 * edge);
      if (nearest > far) [best, far] = [kind, nearest];
    });
    taken[best]!.push(place);
    kinds.set(id, best + 1);
  }
  return kinds;
}

/** Rows of a cluster, the one that stands for it first: `from` to `to` of them. */
export async function rowsOf({ tiles }: Context, space: string, label: Label, from: number, to: number): Promise<string[]> {
  const column = tiles!.info.columns.find(({ kind, level, space: of }) => kind === "cluster" && of === space && level === label.level);
  if (!column || !label.code) return [];
  const codes = await tiles!.column(column.name);
  const rows: number[] = [];
  for (let row = 0; row < codes.length && rows.length <= to; row++) if (codes[row] === label.code) rows.push(row);
  const ids = await Promise.all(rows.map((row) => tiles!.id(row)));
  const ordered = label.image ? [label.image, ...ids.filter((id) => id !== label.image)] : ids;
  return ordered.slice(from, to);
}
