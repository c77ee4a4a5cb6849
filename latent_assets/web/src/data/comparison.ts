// Two releases compared on one map: rows are told apart by their ids, places of the other are brought into this one's.

import type { Point } from "./api";
import type { SpaceTiles, Tiles } from "./tiles";

export const LARGEST = 2_000_000; // rows whose ids and places a page can hold twice
const FAR = 0.02; // of the map's edge: beyond that a row counts as moved

export interface Comparison {
  space: string;
  /** Rows of this release that the other has, too; of these, those that moved; rows that only one of them has. */
  stayed: number;
  moved: number;
  came: number;
  went: number;
  /** Median distance of rows that both have, as a share of the map's edge. */
  median: number;
  /** By row: 0 stayed, 1 moved, 2 came. */
  kinds: Uint8Array;
  /** Where rows were, in the cube [0, 1] of this release's map. */
  origins: { get(row: number): readonly [number, number, number] | undefined };
  /** Places of rows that went, in map units, at most `MOST_GONE` of them. */
  gone: Point[];
}

const MOST_GONE = 2_000;

/** Compare `now` with `before` on the map of a space that both have. */
export async function compare(now: Tiles, before: Tiles, space: string): Promise<Comparison> {
  const [own, other] = await Promise.all([now.space(space), before.space(space)]);
  const [ids, otherIds] = await Promise.all([now.allIds(), before.allIds()]);
  const [places, otherPlaces] = await Promise.all([placesOf(own, now.info.rows), placesOf(other, before.info.rows)]);
  const found = new Rows(otherIds);
  const was = new Int32Array(now.info.rows).map((_, row) => found.at(ids, row));
  const kinds = new Uint8Array(now.info.rows);
  const there = new Uint8Array(before.info.rows);
  // from the cube of the other into that of this one
  const scale = other.info.edge / own.info.edge;
  const shift = [0, 1, 2].map((axis) => (other.info.origin[axis]! - own.info.origin[axis]!) / own.info.edge);
  const placeBefore = (row: number): [number, number, number] =>
    [0, 1, 2].map((axis) => shift[axis]! + scale * otherPlaces[row * 3 + axis]!) as [number, number, number];
  const distances: number[] = [];
  let [came, moved] = [0, 0];
  for (let row = 0; row < was.length; row++) {
    if (was[row]! < 0) {
      kinds[row] = 2;
      came++;
      continue;
    }
    there[was[row]!] = 1;
    const from = placeBefore(was[row]!);
    const far = Math.hypot(...from.map((value, axis) => value - places[row * 3 + axis]!));
    distances.push(far);
    if (far > FAR) {
      kinds[row] = 1;
      moved++;
    }
  }
  const gone: Point[] = [];
  let went = 0;
  for (let row = 0; row < there.length; row++) {
    if (there[row]) continue;
    went++;
    if (gone.length < MOST_GONE) gone.push([0, 1, 2].map((axis) => other.info.origin[axis]! + other.info.edge * otherPlaces[row * 3 + axis]!) as Point);
  }
  distances.sort((one, another) => one - another);
  return {
    space,
    stayed: distances.length,
    moved,
    came,
    went,
    median: distances[distances.length >> 1] ?? 0,
    kinds,
    origins: { get: (row) => (was[row]! < 0 ? undefined : placeBefore(was[row]!)) },
    gone,
  };
}

/** Places by row in the cube [0, 1]: three numbers each. */
async function placesOf(tiles: SpaceTiles, rows: number): Promise<Float32Array> {
  const words = await tiles.allPoints();
  const places = new Float32Array(rows * 3);
  for (let at = 0; at < words.length; at += 6) {
    const row = words[at + 4]! + words[at + 5]! * 65_536;
    for (let axis = 0; axis < 3; axis++) places[row * 3 + axis] = words[at + axis]! / 65_535;
  }
  return places;
}

/** Rows by id: open addressing over the first bytes of the ids, which are hashes already. */
class Rows {
  private readonly words: Uint32Array;
  private readonly table: Int32Array;
  private readonly mask: number;

  constructor(ids: Uint8Array) {
    this.words = aligned(ids);
    const count = this.words.length / 4;
    const size = 2 ** Math.ceil(Math.log2(Math.max(count * 2, 2)));
    this.mask = size - 1;
    this.table = new Int32Array(size).fill(-1);
    for (let row = 0; row < count; row++) {
      let slot = this.words[row * 4]! & this.mask;
      while (this.table[slot]! >= 0) slot = (slot + 1) & this.mask;
      this.table[slot] = row;
    }
  }

  /** The row with the id of row `other` of `ids`; -1 without. */
  at(ids: Uint8Array, other: number): number {
    const words = aligned(ids);
    let slot = words[other * 4]! & this.mask;
    for (let row = this.table[slot]!; row >= 0; row = this.table[slot]!) {
      if ([0, 1, 2, 3].every((word) => this.words[row * 4 + word] === words[other * 4 + word])) return row;
      slot = (slot + 1) & this.mask;
    }
    return -1;
  }
}

function aligned(ids: Uint8Array): Uint32Array {
  return new Uint32Array(ids.buffer, ids.byteOffset, ids.length / 4);
}
