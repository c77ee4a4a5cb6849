// Names of regions over the map: the larger first, none over another, those that are shown before new ones. Pins of
// generated images stand above them.

import * as THREE from "three";
import type { SpaceTiles } from "../data/tiles";

const MOST = 18;

export interface Pin {
  key: string;
  place: [number, number, number];
  image: string;
  name: string;
  colour: string;
}

interface Label {
  element: HTMLElement;
  place: THREE.Vector3;
  rows: number;
  width: number;
  shown: boolean;
}

export class Labels {
  readonly element = document.createElement("div");
  private labels: Label[] = [];
  private readonly pins = new Map<string, { element: HTMLImageElement; place: THREE.Vector3 }>();

  constructor() {
    this.element.className = "labels";
    this.element.setAttribute("aria-hidden", "true");
  }

  set(tiles: SpaceTiles): void {
    for (const label of this.labels) label.element.remove();
    this.labels = tiles.info.labels.map(({ text, position, rows }) => {
      const element = document.createElement("span");
      element.textContent = text;
      element.hidden = true;
      this.element.append(element);
      return { element, place: new THREE.Vector3(...tiles.toScene(position)), rows, width: 7 * text.length + 18, shown: false };
    });
  }

  /** Images with a place of their own, by key; others go. */
  pin(pins: Pin[]): void {
    for (const [key, { element }] of this.pins) {
      if (pins.some((pin) => pin.key === key)) continue;
      element.remove();
      this.pins.delete(key);
    }
    for (const pin of pins) {
      const found = this.pins.get(pin.key) ?? { element: document.createElement("img"), place: new THREE.Vector3() };
      if (found.element.getAttribute("src") !== pin.image) found.element.src = pin.image;
      found.element.alt = pin.name;
      found.element.style.borderColor = pin.colour;
      found.place.set(...pin.place);
      if (!this.pins.has(pin.key)) this.element.append(found.element);
      this.pins.set(pin.key, found);
    }
  }

  update(camera: THREE.PerspectiveCamera, covered: number, width: number, height: number): void {
    const taken: [number, number, number, number][] = [];
    for (const { element, place } of this.pins.values()) {
      const seen = place.clone().project(camera);
      const [x, y] = [((seen.x + 1) / 2) * width, ((1 - seen.y) / 2) * height];
      element.hidden = seen.z > 1 || seen.z < -1;
      element.style.transform = `translate(${Math.round(x)}px, ${Math.round(y)}px) translate(-50%, calc(-100% - 12px))`;
      if (!element.hidden) taken.push([x - 34, y - 80, x + 34, y + 8]);
    }
    const order = [...this.labels].sort((a, b) => Number(b.shown) - Number(a.shown) || b.rows - a.rows);
    let count = 0;
    for (const label of order) {
      const seen = label.place.clone().project(camera);
      const [x, y] = [((seen.x + 1) / 2) * width, ((1 - seen.y) / 2) * height];
      const half = label.width / 2;
      const box: [number, number, number, number] = [x - half, y - 13, x + half, y + 13];
      const inside = seen.z < 1 && seen.z > -1 && box[0] > 4 && box[2] < width - covered - 4 && y > 60 && y < height - 30;
      const free = taken.every(([l, t, r, b]) => box[2] < l || box[0] > r || box[3] < t || box[1] > b);
      label.shown = inside && free && count < MOST;
      label.element.hidden = !label.shown;
      if (!label.shown) continue;
      taken.push(box);
      count++;
      label.element.style.transform = `translate(${Math.round(x)}px, ${Math.round(y)}px) translate(-50%, -50%)`;
    }
  }
}
