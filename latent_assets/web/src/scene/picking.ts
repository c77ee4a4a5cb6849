// Which point is meant by a place on the canvas: the points that are shown are gone through, nothing is drawn for it.

import * as THREE from "three";
import type { Place } from "./marks";
import type { LoadedNode } from "./octree";

const FARTHEST = 120; // pixels from which no image reaches

export interface Picked {
  row: number;
  place: Place;
}

export interface Shown {
  visible: LoadedNode[];
  hidden(row: number): boolean;
  /** How large the image of a row is on the screen; 0 for a dot. */
  pixels(row: number): number;
}

/** The point at x, y of a canvas of `width` and `height`: the nearest to the camera within `within` pixels. */
export function pick(
  shown: Shown,
  camera: THREE.PerspectiveCamera,
  width: number,
  height: number,
  x: number,
  y: number,
  within: number,
): Picked | null {
  const matrix = new THREE.Matrix4().multiplyMatrices(camera.projectionMatrix, camera.matrixWorldInverse).elements;
  let best: Picked | null = null;
  let score = Infinity;
  for (const { words } of shown.visible) {
    for (let at = 0; at < words.length; at += 6) {
      const px = (words[at]! / 65_535) * 2 - 1;
      const py = (words[at + 1]! / 65_535) * 2 - 1;
      const pz = (words[at + 2]! / 65_535) * 2 - 1;
      const w = matrix[3]! * px + matrix[7]! * py + matrix[11]! * pz + matrix[15]!;
      if (w <= 0.001) continue;
      const sx = ((matrix[0]! * px + matrix[4]! * py + matrix[8]! * pz + matrix[12]!) / w / 2 + 0.5) * width;
      const sy = (0.5 - (matrix[1]! * px + matrix[5]! * py + matrix[9]! * pz + matrix[13]!) / w / 2) * height;
      const off = Math.max(Math.abs(sx - x), Math.abs(sy - y));
      if (off > FARTHEST) continue;
      const row = words[at + 4]! + words[at + 5]! * 65_536;
      if (shown.hidden(row)) continue;
      const pixels = shown.pixels(row);
      if (off > (pixels ? pixels / 2 : within)) continue;
      // an image hides what is behind it; between dots the nearest to the cursor wins
      const value = pixels ? w : w + 1000 + off;
      if (value < score) [score, best] = [value, { row, place: [px, py, pz] }];
    }
  }
  return best;
}
