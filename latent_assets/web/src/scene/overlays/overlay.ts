// What an overlay is.

import * as THREE from "three";
import type { State } from "../../state/store";
import type { Context } from "../../widgets/context";
import type { Pin } from "../labels";
import type { Halo, Line, Mark, Place } from "../marks";

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

export function colour(text: string): THREE.Color {
  return new THREE.Color().setStyle(text, THREE.LinearSRGBColorSpace);
}
