// What is drawn over the cloud. Whoever has something to draw is one row of OVERLAYS: a function of the state, called
// when one of its keys changed. All are drawn together.

import * as THREE from "three";
import type { State } from "../state/store";
import type { Context } from "../widgets/context";
import type { Pin } from "./labels";
import type { Halo, Line, Mark, Place } from "./marks";
import { chosen } from "./overlays/chosen";
import { gone } from "./overlays/gone";
import { here } from "./overlays/here";
import { made } from "./overlays/made";
import { results } from "./overlays/results";
import { walk } from "./overlays/walk";

export interface Drawing {
  marks: Mark[];
  lines: Line[];
  halos: Halo[];
  /** Pictures that stand over their place. */
  pins: Pin[];
  /** Places whose points are images before others, as many times as large as it says. */
  first: [Place, number][];
  /** How far everything else fades, 0 to 1. */
  fade: number;
}

export interface Overlay {
  /** What it depends on, besides the space and the theme. */
  keys: (keyof State)[];
  /** Adds to `drawing`; may ask for more and call `again` when it came. */
  draw(context: Context, drawing: Drawing, again: () => void): void;
}

const OVERLAYS: Overlay[] = [gone, results, made, walk, here, chosen];

export function colour(text: string): THREE.Color {
  return new THREE.Color().setStyle(text, THREE.LinearSRGBColorSpace);
}

export function drawOverlays(context: Context): void {
  const { map } = context;
  if (!map) return;
  const drawing: Drawing = { marks: [], lines: [], halos: [], pins: [], first: [], fade: 0 };
  for (const overlay of OVERLAYS) overlay.draw(context, drawing, () => drawOverlays(context));
  map.labels.pin(drawing.pins);
  map.mark(drawing.marks, drawing.lines, drawing.halos, drawing.first);
  map.fade(drawing.fade);
}

export function followOverlays(context: Context): void {
  const keys = new Set(OVERLAYS.flatMap((overlay) => overlay.keys));
  context.store.on([...keys, "theme"], () => drawOverlays(context));
}
