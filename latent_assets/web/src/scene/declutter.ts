// Which names stand over the map: of each branch of clusters the level that fits the view, none over another. What is
// shown stays until it has to go, so that names do not flicker while the map moves.

import type { Label } from "../data/tiles";

const MOST = 26;
// pixels of a cluster's radius on the screen above which its parts are named instead, and below which it is again
const OPENS = 150;
const CLOSES = 110;
// names farther away than so many times the distance of those in front belong to what is behind
const FAR = 3;
const FRONT = 3;
// a name that is shown may be covered by so many pixels more than one that is not
const SLACK = 5;

export interface Named {
  label: Label;
  width: number;
  shown: boolean;
  /** Whether its parts are named instead of it. */
  open: boolean;
  parts: Named[];
}

/** Where a name would stand on the screen, and whether that is before the camera. */
export interface Seen {
  x: number;
  y: number;
  ahead: boolean;
  /** Distance from the camera. */
  away: number;
  /** Pixels of the cluster's radius. */
  radius: number;
}

/** The names as a tree: the coarse ones, each with its parts. */
export function namedTree(labels: Label[]): Named[] {
  const all = labels.map((label) => ({ label, width: 7 * wide(label.text) + 18, shown: false, open: false, parts: [] as Named[] }));
  const known = new Map(all.filter(({ label }) => label.id).map((named) => [named.label.id!, named]));
  const tops = [];
  for (const named of all) {
    const whole = named.label.parent ? known.get(named.label.parent) : undefined;
    if (whole) whole.parts.push(named);
    else tops.push(named);
  }
  return tops;
}

/** Characters of Latin script that are as wide as the text. */
function wide(text: string): number {
  let width = 0;
  for (const character of text) width += character.codePointAt(0)! > 0x2e7f ? 1.9 : 1;
  return width;
}

/** Decide which names are shown; `seen` says where one would be, `free` whether a box on the screen may have it. */
export function declutter(
  tops: Named[],
  seen: (named: Named) => Seen,
  inside: (box: Box) => boolean,
  taken: Box[],
): { named: Named; seen: Seen }[] {
  const candidates: { named: Named; seen: Seen }[] = [];
  const visit = (named: Named): void => {
    const found = seen(named);
    named.open = named.parts.length > 0 && found.radius > (named.open ? CLOSES : OPENS);
    if (named.open) {
      named.shown = false;
      named.parts.forEach(visit);
      return;
    }
    hideParts(named);
    if (found.ahead) candidates.push({ named, seen: found });
    else named.shown = false;
  };
  tops.forEach(visit);
  const distances = candidates.map(({ seen: at }) => at.away).sort((one, other) => one - other);
  const farthest = FAR * (distances[Math.min(FRONT, distances.length) - 1] ?? 0);
  candidates.sort((one, other) => Number(other.named.shown) - Number(one.named.shown) || other.seen.radius - one.seen.radius || other.named.label.rows - one.named.label.rows);
  const kept: { named: Named; seen: Seen }[] = [];
  for (const candidate of candidates) {
    const { named, seen: at } = candidate;
    if (at.away > farthest) {
      named.shown = false;
      continue;
    }
    const slack = named.shown ? SLACK : 0;
    const [half, high] = [named.width / 2 - slack, 13 - slack];
    const box: Box = [at.x - half, at.y - high, at.x + half, at.y + high];
    named.shown = kept.length < MOST && inside(box) && taken.every(([l, t, r, b]) => box[2] < l || box[0] > r || box[3] < t || box[1] > b);
    if (!named.shown) continue;
    taken.push(box);
    kept.push(candidate);
  }
  return kept;
}

export type Box = [left: number, top: number, right: number, bottom: number];

function hideParts(named: Named): void {
  for (const part of named.parts) {
    part.shown = part.open = false;
    hideParts(part);
  }
}
