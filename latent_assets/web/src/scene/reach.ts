// What lies near some places: a coarse cube over the map, so that it costs a point nothing how many places there are.

import * as THREE from "three";
import type { Place } from "./marks";

const CELLS = 64; // along an edge

/** A cube of shares, 1 within `radius` of a place, falling to 0 over half of that. */
export function reachTexture(places: Place[], radius: number): THREE.Data3DTexture {
  const data = new Uint8Array(CELLS ** 3);
  const cell = 2 / CELLS;
  const far = radius * 1.5;
  for (const place of places) {
    const low = place.map((value) => Math.max(Math.floor((value - far + 1) / cell), 0));
    const high = place.map((value) => Math.min(Math.ceil((value + far + 1) / cell), CELLS - 1));
    for (let z = low[2]!; z <= high[2]!; z++) {
      for (let y = low[1]!; y <= high[1]!; y++) {
        for (let x = low[0]!; x <= high[0]!; x++) {
          const distance = Math.hypot(...[x, y, z].map((at, axis) => (at + 0.5) * cell - 1 - place[axis]!));
          const share = Math.min(Math.max((far - distance) / (far - radius || 1), 0), 1);
          const at = (z * CELLS + y) * CELLS + x;
          data[at] = Math.max(data[at]!, Math.round(share * 255));
        }
      }
    }
  }
  const texture = new THREE.Data3DTexture(data, CELLS, CELLS, CELLS);
  texture.format = THREE.RedFormat;
  texture.minFilter = texture.magFilter = THREE.LinearFilter;
  texture.unpackAlignment = 1;
  texture.needsUpdate = true;
  return texture;
}
