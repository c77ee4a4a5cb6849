// The map on its canvas: one loop that draws when something changed, and nothing when nothing did.

import * as THREE from "three";
import { Sprites } from "../data/sprites";
import type { SpaceTiles, Tiles } from "../data/tiles";
import type { Camera } from "../state/store";
import { Controls } from "./controls";
import { Images } from "./images";
import { Labels } from "./labels";
import { Marks, type Halo, type Line, type Mark, type Place } from "./marks";
import { Octree, type Origins } from "./octree";
import { paletteBytes, type Theme } from "./palettes";
import { pick, type Picked } from "./picking";
import { pointMaterial, rowTexture } from "./points";
import { reachTexture } from "./reach";

const GROUND: Record<Theme, string> = { dark: "#0d1017", light: "#f4f5f8" };
const MORPH_SECONDS = 1.4;
const TARGET_MS = 34; // of a frame while moving

export interface MapEvents {
  picked(row: number, place: Place): void;
  /** A click where nothing is: at the depth of what is near it on the screen. */
  empty(x: number, y: number, place: Place): void;
  hovered(row: number | null, x: number, y: number): void;
  moved(camera: Camera): void;
  settled(view: { shown: number; images: number }): void;
  missing(problem: string): void;
  lost(lost: boolean): void;
}

export class AtlasMap {
  readonly canvas = document.createElement("canvas");
  readonly labels = new Labels();
  readonly controls: Controls;
  /** Frames that were drawn, for tests and measurements. */
  frames = 0;
  shownPoints = 0;
  budget: number;
  private readonly renderer: THREE.WebGLRenderer;
  private readonly scene = new THREE.Scene();
  private readonly material: THREE.ShaderMaterial;
  private readonly images: Images;
  private readonly marks = new Marks();
  private readonly palettes = new Map<string, THREE.DataTexture>();
  private readonly octrees = new Map<string, Octree>();
  private current: Octree | null = null;
  private before: Octree | null = null;
  private morphBegan = -1;
  private morphWaits = 0;
  private dirty = true;
  private scheduled = 0;
  private moving = 0;
  private slow = 0;
  private theme: Theme = "dark";
  private kind: "code" | "number" = "code";
  private hidden: Uint8Array | null = null;
  private disposed = false;
  private origins: Origins | null = null;
  private covered = 0;
  private first = new Map<string, number>();
  private readonly most: number;

  constructor(
    private readonly tiles: Tiles,
    private readonly events: MapEvents,
    private readonly still: () => boolean,
  ) {
    this.canvas.className = "map";
    this.renderer = new THREE.WebGLRenderer({ canvas: this.canvas, antialias: false, powerPreference: "high-performance" });
    this.renderer.outputColorSpace = THREE.LinearSRGBColorSpace;
    const software = isSoftware(this.renderer);
    const small = Math.min(screen.width, screen.height) < 600;
    this.most = software ? 220_000 : small ? 600_000 : 2_000_000;
    this.budget = software ? 70_000 : small ? 300_000 : 900_000;
    this.material = pointMaterial();
    const slots = software ? 220 : small ? 300 : 900;
    this.images = new Images(this.renderer, new Sprites(tiles), slots, () => this.invalidate(), still);
    this.scene.add(this.marks.group, this.images.object);
    this.controls = new Controls(
      this.canvas,
      {
        moved: () => {
          this.moving = performance.now();
          this.invalidate();
          this.events.moved(this.controls.view);
        },
        click: (x, y) => {
          const found = this.pick(x, y, 14);
          if (found) this.events.picked(found.row, found.place);
          else this.events.empty(x, y, this.placeAt(x, y));
        },
        doubleClick: (x, y) => {
          const found = this.pick(x, y, 14);
          if (found) this.controls.flyTo(found.place, this.controls.view.radius * 0.35);
        },
        hover: (x, y) => {
          const found = this.morphing ? null : this.pick(x, y, 8);
          this.canvas.style.cursor = found ? "pointer" : "grab";
          this.events.hovered(found ? found.row : null, x, y);
        },
      },
      still,
    );
    this.canvas.addEventListener("webglcontextlost", (event) => {
      event.preventDefault();
      this.events.lost(true);
    });
    this.canvas.addEventListener("webglcontextrestored", () => {
      this.images.reset();
      this.events.lost(false);
      this.invalidate();
    });
    new ResizeObserver(() => this.resize()).observe(this.canvas);
    this.setTheme("dark");
  }

  private uniform(name: string): { value: any } {
    return this.material.uniforms[name]!;
  }

  // -- what is shown ---------------------------------------------------------------------------------

  /** Show another space; points fly from where they were. */
  async show(name: string): Promise<SpaceTiles> {
    let found = this.octrees.get(name);
    if (!found) {
      const tiles = await this.tiles.space(name);
      found = new Octree(tiles, this.material, () => this.invalidate(), (problem) => this.events.missing(problem));
      this.octrees.set(name, found);
    }
    if (this.current === found) return found.tiles;
    const before = this.current;
    this.between(null, 1);
    if (this.before) this.scene.remove(this.before.group);
    this.before = before;
    this.current = found;
    const spacing = found.tiles.length(found.tiles.info.spacing);
    this.images.size = Math.min(spacing * 2.4, 0.3);
    this.uniform("size").value = Math.min(Math.max(spacing * 1.5, 0.0015), 0.05);
    this.labels.set(found.tiles);
    if (before && !this.still()) {
      found.morphFrom(before.places());
      this.uniform("morph").value = 1;
      this.morphWaits = performance.now();
      this.morphBegan = -1;
    } else {
      if (before) this.scene.remove(before.group);
      this.before = null;
      this.scene.add(found.group);
    }
    this.images.clear();
    this.invalidate();
    return found.tiles;
  }

  get morphing(): boolean {
    return this.before !== null || this.morphBegan >= 0;
  }

  setTheme(theme: Theme): void {
    this.theme = theme;
    const ground = new THREE.Color().setStyle(GROUND[theme], THREE.LinearSRGBColorSpace);
    this.renderer.setClearColor(ground, 1);
    this.uniform("ground").value = ground;
    this.images.setGround(ground, this.uniform("depths").value);
    this.marks.setLook(new THREE.Color(theme === "dark" ? 0xffffff : 0x10141f), this.renderer.getPixelRatio());
    this.setPalette();
    this.invalidate();
  }

  private setPalette(): void {
    const key = `${this.kind}-${this.theme}`;
    let palette = this.palettes.get(key);
    if (!palette) {
      palette = new THREE.DataTexture(paletteBytes(this.kind, this.theme), 256, 1, THREE.RGBAFormat);
      palette.needsUpdate = true;
      this.palettes.set(key, palette);
    }
    this.uniform("palette").value = palette;
  }

  /** Colour by the category of the points (null), or by a value of every row: an index into the palette. */
  colourBy(rows: Uint8Array | null, kind: "code" | "number"): void {
    this.kind = kind;
    this.setPalette();
    this.uniform("by_row").value = rows !== null;
    if (rows) this.uniform("row_colour").value = rowTexture(rows, this.uniform("row_colour").value);
    this.invalidate();
  }

  /** Which rows are shown: 255, or 0 for those that are not; null for all. */
  filter(rows: Uint8Array | null): void {
    this.hidden = rows;
    this.uniform("has_state").value = rows !== null;
    if (rows) this.uniform("row_state").value = rowTexture(rows, this.uniform("row_state").value);
    this.moving = performance.now();
    this.invalidate();
  }

  /** Fade everything behind what is marked. */
  fade(share: number): void {
    this.uniform("faded").value = share;
    this.invalidate();
  }

  /** Let what lies within `radius` of one of `places` fade; null: nothing fades. */
  reach(places: Place[] | null, radius: number): void {
    this.uniform("has_reached").value = places !== null;
    if (places) {
      this.uniform("reached").value.dispose();
      this.uniform("reached").value = reachTexture(places, radius);
    }
    this.invalidate();
  }

  /** Draw over the cloud. Points at a place of `first` are images before others, as many times as large as it says. */
  mark(marks: Mark[], lines: Line[], halos: Halo[], first: [Place, number][] = []): void {
    this.marks.set(marks, lines, halos);
    this.first = new Map(
      first.map(([place, weight]) => [place.map((value) => Math.round(((value + 1) / 2) * 65_535)).join(","), weight]),
    );
    this.moving = performance.now();
    this.invalidate();
  }

  // -- drawing ---------------------------------------------------------------------------------------

  invalidate(): void {
    this.dirty = true;
    if (!this.scheduled && !this.disposed) this.scheduled = requestAnimationFrame(() => this.frame());
  }

  /** How much of the canvas's right side is under a panel, pixels: the middle of the view moves. */
  cover(pixels: number): void {
    if (this.covered === pixels) return;
    this.covered = pixels;
    this.resize();
  }

  private resize(): void {
    const { clientWidth: width, clientHeight: height } = this.canvas;
    if (!width || !height) return;
    this.renderer.setPixelRatio(Math.min(devicePixelRatio, 2));
    this.renderer.setSize(width, height, false);
    this.controls.resize(width, height, width > this.covered + 300 ? this.covered : 0);
    this.marks.setLook(new THREE.Color(this.theme === "dark" ? 0xffffff : 0x10141f), this.renderer.getPixelRatio());
    this.invalidate();
  }

  private frame(): void {
    this.scheduled = 0;
    if (!this.dirty || this.disposed || this.renderer.getContext().isContextLost()) return;
    this.dirty = false;
    const began = performance.now();
    this.controls.update(began);
    const camera = this.controls.camera;
    const ratio = this.renderer.getPixelRatio();
    const height = this.canvas.clientHeight;
    this.uniform("scale").value = (height * ratio) / (2 * Math.tan(THREE.MathUtils.degToRad(camera.fov / 2)));
    this.marks.pixelSize = ratio / this.uniform("scale").value;
    this.uniform("least").value = (this.tiles.info.rows < 30_000 ? 3 : 2) * ratio;
    const { radius } = this.controls.view;
    this.uniform("depths").value.set(radius * 0.75, radius + 2.2);
    this.shownPoints = this.current?.update(camera, height, this.budget) ?? 0;
    const animated = this.stepMorph(began);
    const settling = began - this.moving < 140 || animated || this.controls.flying;
    if (!animated && !this.elsewhere && this.current) {
      if (!settling || this.frames % 6 === 0) {
        const hidden = (row: number): boolean => this.hidden !== null && this.hidden[row] === 0;
        this.images.choose(this.current.visible, camera, this.canvas.clientWidth, height, hidden, this.first);
      }
    }
    const growing = this.images.update(began / 1000);
    this.renderer.render(this.scene, camera);
    this.labels.update(camera, this.covered, this.canvas.clientWidth, height);
    this.frames++;
    this.adapt(performance.now() - began, settling);
    if (settling || growing) this.invalidate();
    else if (this.current?.complete) this.events.settled({ shown: this.shownPoints, images: this.images.count });
  }

  /** Points fly when the new map has what this view wants, or after a second without it. */
  private stepMorph(now: number): boolean {
    const { current, before } = this;
    if (!current) return false;
    if (before) {
      if (!current.complete && now - this.morphWaits < 1_000) return true;
      this.scene.remove(before.group);
      this.scene.add(current.group);
      this.before = null;
      this.morphBegan = now;
    }
    if (this.morphBegan < 0) return false;
    const share = Math.min((now - this.morphBegan) / (MORPH_SECONDS * 1000), 1);
    this.uniform("morph").value = share * share * (3 - 2 * share);
    if (share < 1) return true;
    this.morphBegan = -1;
    current.morphFrom(null);
    this.moving = now;
    return true;
  }

  /** Fewer points when frames take long while moving, more when there is time. */
  private adapt(milliseconds: number, moving: boolean): void {
    if (!moving) return;
    this.slow = this.slow * 0.8 + milliseconds * 0.2;
    if (this.slow > TARGET_MS * 1.6 && this.budget > 40_000) this.budget = Math.round(this.budget * 0.92);
    else if (this.slow < TARGET_MS * 0.5 && this.budget < this.most) this.budget = Math.round(this.budget * 1.03);
  }

  // -- asking ----------------------------------------------------------------------------------------

  /** The point at a place of the canvas: the nearest to the camera within `within` pixels. */
  pick(x: number, y: number, within: number): Picked | null {
    if (!this.current) return null;
    const { clientWidth, clientHeight } = this.canvas;
    const shown = {
      visible: this.current.visible,
      hidden: (row: number) => this.hidden !== null && this.hidden[row] === 0,
      pixels: (row: number) => this.images.pixels(row),
    };
    return pick(shown, this.controls.camera, clientWidth, clientHeight, x, y, within);
  }

  /** The place at x, y of the canvas, as deep as the nearest point on the screen, else as the middle of the view. */
  placeAt(x: number, y: number): Place {
    const { clientWidth: width, clientHeight: height } = this.canvas;
    const near = this.pick(x, y, 119);
    const camera = this.controls.camera;
    const depth = new THREE.Vector3(...(near?.place ?? this.controls.view.target)).project(camera).z;
    const place = new THREE.Vector3((x / width) * 2 - 1, 1 - (y / height) * 2, depth).unproject(camera);
    return [place.x, place.y, place.z];
  }

  /** Have points fly from `origins` (null: from nowhere any more): where they are at `share`, 0 to 1, of the way. */
  between(origins: Origins | null, share: number): void {
    if (origins !== this.origins) this.current?.morphFrom(origins);
    this.origins = origins;
    this.uniform("morph").value = origins ? share : 1;
    if (this.elsewhere) this.images.clear();
    this.labels.element.hidden = this.elsewhere;
    this.moving = performance.now();
    this.invalidate();
  }

  /** Whether points are not where images and names are. */
  private get elsewhere(): boolean {
    return this.origins !== null && this.uniform("morph").value < 0.999;
  }

  get complete(): boolean {
    return !!this.current?.complete && !this.morphing && !this.controls.flying && !this.dirty && this.images.idle;
  }

  get imagesShown(): number {
    return this.images.count;
  }

  /** For tests: the loss of the GPU's context, and its return. */
  get context(): WEBGL_lose_context | null {
    return this.renderer.getContext().getExtension("WEBGL_lose_context");
  }

  dispose(): void {
    this.disposed = true;
    for (const octree of this.octrees.values()) octree.dispose();
    this.images.dispose();
    this.renderer.dispose();
  }
}

function isSoftware(renderer: THREE.WebGLRenderer): boolean {
  const gl = renderer.getContext();
  const info = gl.getExtension("WEBGL_debug_renderer_info");
  const name = String(gl.getParameter(info ? info.UNMASKED_RENDERER_WEBGL : gl.RENDERER));
  return /swiftshader|llvmpipe|software|basic render/i.test(name);
}
