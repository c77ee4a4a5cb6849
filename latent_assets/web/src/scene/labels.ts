// Names of regions over the map, and pins of generated images above them. Which names are shown is decided in declutter.

import * as THREE from "three";
import type { SpaceTiles } from "../data/tiles";
import { declutter, namedTree, type Box, type Named, type Seen } from "./declutter";

export interface Pin {
  key: string;
  place: [number, number, number];
  image: string;
  name: string;
  colour: string;
}

export class Labels {
  readonly element = document.createElement("div");
  private tops: Named[] = [];
  private tiles: SpaceTiles | null = null;
  /** Elements of names that are shown, or were before and can be used again. */
  private readonly elements = new Map<Named, HTMLElement>();
  private colours: Map<string, string> | null = null;
  private readonly pins = new Map<string, { element: HTMLImageElement; place: THREE.Vector3 }>();

  constructor() {
    this.element.className = "labels";
    this.element.setAttribute("aria-hidden", "true");
  }

  set(tiles: SpaceTiles): void {
    for (const element of this.elements.values()) element.remove();
    this.elements.clear();
    this.tiles = tiles;
    this.tops = namedTree(tiles.labels);
  }

  /** Give names the colours of their clusters, by id; null for none. */
  colour(colours: Map<string, string> | null): void {
    this.colours = colours;
    for (const [named, element] of this.elements) this.paint(named, element);
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
    const taken: Box[] = [];
    for (const { element, place } of this.pins.values()) {
      const seen = place.clone().project(camera);
      const [x, y] = [((seen.x + 1) / 2) * width, ((1 - seen.y) / 2) * height];
      element.hidden = seen.z > 1 || seen.z < -1;
      element.style.transform = `translate(${Math.round(x)}px, ${Math.round(y)}px) translate(-50%, calc(-100% - 12px))`;
      if (!element.hidden) taken.push([x - 34, y - 80, x + 34, y + 8]);
    }
    if (!this.tiles) return;
    const pixels = height / (2 * Math.tan((camera.fov * Math.PI) / 360));
    const place = new THREE.Vector3();
    const shown = declutter(this.tops, (named) => this.seen(named, place, camera, pixels, width, height), ([l, t, r, b]) => l > 4 && r < width - covered - 4 && t > 47 && b < height - 17, taken);
    const kept = new Set(shown.map(({ named }) => named));
    for (const [named, element] of this.elements) element.hidden = !kept.has(named);
    for (const { named, seen } of shown) {
      const element = this.elements.get(named) ?? this.write(named);
      element.hidden = false;
      element.style.transform = `translate(${Math.round(seen.x)}px, ${Math.round(seen.y)}px) translate(-50%, -50%)`;
    }
  }

  private seen(named: Named, place: THREE.Vector3, camera: THREE.PerspectiveCamera, pixels: number, width: number, height: number): Seen {
    place.set(...this.tiles!.toScene(named.label.position));
    const away = place.distanceTo(camera.position);
    place.project(camera);
    const radius = (this.tiles!.length(named.label.radius) / Math.max(away, 1e-6)) * pixels;
    return { x: ((place.x + 1) / 2) * width, y: ((1 - place.y) / 2) * height, ahead: place.z < 1 && place.z > -1, away, radius };
  }

  private write(named: Named): HTMLElement {
    const element = document.createElement("span");
    element.textContent = named.label.text;
    element.dataset["level"] = String(named.label.level);
    this.paint(named, element);
    this.element.append(element);
    this.elements.set(named, element);
    return element;
  }

  private paint(named: Named, element: HTMLElement): void {
    const colour = this.colours?.get(named.label.id ?? "");
    element.style.boxShadow = colour ? `inset 0 -3px ${colour}` : "";
  }
}
