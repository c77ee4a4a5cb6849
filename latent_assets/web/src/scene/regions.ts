// Which region of the map a picture falls into, by what is around it.

import type { Neighbour } from "../data/api";

/** The name of the region: what most of the nearest images are; null when they say nothing, or have nothing in common. */
export function regionOf(near: Neighbour[] | undefined): string | null {
  const counts = new Map<string, number>();
  for (const { category } of near ?? []) if (category) counts.set(category, (counts.get(category) ?? 0) + 1);
  const [best] = [...counts].sort(([, one], [, other]) => other - one);
  return best && best[1] * 2 >= near!.length ? best[0] : null;
}
