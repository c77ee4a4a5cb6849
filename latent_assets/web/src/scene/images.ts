// Images instead of dots where the camera is near: a pool of slots in one texture, the nearest points have them.

import * as THREE from "three";
import { Recent } from "../data/recent";
import type { Sprites } from "../data/sprites";
import type { LoadedNode } from "./octree";
import { IMAGE_FRAGMENT, IMAGE_VERTEX } from "./shaders";

const SLOT = 96; // pixels: the largest thumbnail of the table
const SMALLEST = 11; // pixels on the screen from which a dot is an image
const WIDEST = 72; // pixels of an image, however near
const CELL = 72; // pixels of the cells in which images are kept apart
const SCATTERED = 36; // images over the whole map when none is near
const SCATTERED_FROM = 2_000; // points, the first of the root's sample
const SCATTERED_APART = 84; // pixels

interface Candidate {
  row: number;
  depth: number;
  weight: number;
  x: number;
  y: number;
  pixels: number;
  place: [number, number, number];
}

interface Slot {
  row: number;
  at: number;
  born: number;
  width: number;
  height: number;
}

export class Images {
  readonly object: THREE.Mesh;
  private readonly material: THREE.ShaderMaterial;
  private readonly texture: THREE.DataTexture;
  private readonly slots = new Map<number, Slot>();
  private readonly free: number[];
  private readonly side: number;
  private readonly asked = new Set<number>();
  private readonly without = new Recent<number, true>(20_000);
  private bitmaps: [number, ImageBitmap][] = [];
  private wanted = new Map<number, Candidate>();
  private until = 0;

  constructor(
    private readonly renderer: THREE.WebGLRenderer,
    private readonly sprites: Sprites,
    private readonly most: number,
    private readonly changed: () => void,
    private readonly still: () => boolean,
  ) {
    this.side = Math.ceil(Math.sqrt(most));
    this.free = Array.from({ length: most }, (_, at) => most - 1 - at);
    const edge = this.side * SLOT;
    this.texture = new THREE.DataTexture(null, edge, edge, THREE.RGBAFormat);
    this.texture.unpackAlignment = 4;
    this.texture.colorSpace = THREE.NoColorSpace;
    this.texture.minFilter = this.texture.magFilter = THREE.LinearFilter;
    this.texture.generateMipmaps = false;
    this.allocate();
    const geometry = new THREE.InstancedBufferGeometry();
    const plane = new THREE.PlaneGeometry(1, 1);
    geometry.index = plane.index;
    geometry.setAttribute("position", plane.getAttribute("position"));
    geometry.setAttribute("place", new THREE.InstancedBufferAttribute(new Float32Array(most * 3), 3));
    geometry.setAttribute("cell", new THREE.InstancedBufferAttribute(new Float32Array(most * 4), 4));
    geometry.setAttribute("weight", new THREE.InstancedBufferAttribute(new Float32Array(most), 1));
    geometry.setAttribute("born", new THREE.InstancedBufferAttribute(new Float32Array(most), 1));
    geometry.instanceCount = 0;
    this.material = new THREE.ShaderMaterial({
      glslVersion: THREE.GLSL3,
      vertexShader: IMAGE_VERTEX,
      fragmentShader: IMAGE_FRAGMENT,
      transparent: true, // drawn after the marks of results, which images cover
      uniforms: {
        images: { value: this.texture },
        now: { value: 0 },
        size: { value: 0.02 },
        shift: { value: 0.004 },
        widest: { value: 0.1 },
        ground: { value: new THREE.Color() },
        depths: { value: new THREE.Vector2(1, 10) },
      },
    });
    this.object = new THREE.Mesh(geometry, this.material);
    this.object.frustumCulled = false;
    this.object.renderOrder = 4;
  }

  /** Edge of an image in units of the scene. */
  set size(value: number) {
    this.material.uniforms["size"]!.value = value;
    this.material.uniforms["shift"]!.value = value * 0.3;
  }

  setGround(ground: THREE.Color, depths: THREE.Vector2): void {
    this.material.uniforms["ground"]!.value = ground;
    this.material.uniforms["depths"]!.value = depths;
  }

  /** Whether nothing is loaded and nothing grows. */
  get idle(): boolean {
    return !this.asked.size && !this.bitmaps.length && performance.now() / 1000 >= this.until;
  }

  /** How many images are on the map. */
  get count(): number {
    return (this.object.geometry as THREE.InstancedBufferGeometry).instanceCount;
  }

  /**
   * Choose which points are images in this view: the nearest that are large enough and that no nearer one hides;
   * those of `first` (keys of their places) before all others and at any distance.
   */
  choose(
    visible: LoadedNode[],
    camera: THREE.PerspectiveCamera,
    width: number,
    height: number,
    hidden: (row: number) => boolean,
    first: Map<string, number>,
  ): void {
    const uniforms = this.material.uniforms;
    const size = uniforms["size"]!.value as number;
    const scale = height / (2 * Math.tan(THREE.MathUtils.degToRad(camera.fov / 2)));
    uniforms["widest"]!.value = WIDEST / scale;
    const farthest = (size * scale) / SMALLEST;
    const matrix = new THREE.Matrix4().multiplyMatrices(camera.projectionMatrix, camera.matrixWorldInverse).elements;
    const found: Candidate[] = [];
    const eye = camera.position;
    const middle = new THREE.Vector3();
    for (const { node, words } of visible) {
      middle.set(...node.middle);
      const near = eye.distanceTo(middle) - node.half * Math.sqrt(3) <= farthest;
      if (!near && !first.size) continue;
      for (let at = 0; at < words.length; at += 6) {
        const [qx, qy, qz] = [words[at]!, words[at + 1]!, words[at + 2]!];
        const weight = first.size ? (first.get(`${qx},${qy},${qz}`) ?? 0) : 0;
        if (!near && !weight) continue;
        const [x, y, z] = [(qx / 65_535) * 2 - 1, (qy / 65_535) * 2 - 1, (qz / 65_535) * 2 - 1];
        const w = matrix[3]! * x + matrix[7]! * y + matrix[11]! * z + matrix[15]!;
        if (w <= 0.001 || (w > farthest && !weight)) continue;
        const sx = (matrix[0]! * x + matrix[4]! * y + matrix[8]! * z + matrix[12]!) / w;
        const sy = (matrix[1]! * x + matrix[5]! * y + matrix[9]! * z + matrix[13]!) / w;
        if (Math.abs(sx) > 1.05 || Math.abs(sy) > 1.05) continue;
        const row = words[at + 4]! + words[at + 5]! * 65_536;
        if (this.without.has(row) || hidden(row)) continue;
        const own = Math.min((size * scale) / w, WIDEST) * Math.max(weight, 1);
        const pixels = weight > 1 ? Math.max(own, WIDEST * 0.42) : own;
        // those that are there already stay before new ones that are as near
        const depth = weight ? -weight : w * (this.slots.has(row) ? 0.85 : 1);
        found.push({ row, depth, weight: Math.max(weight, 1), x: ((sx + 1) / 2) * width, y: ((sy + 1) / 2) * height, pixels, place: [x, y, z] });
      }
    }
    found.sort((one, other) => one.depth - other.depth);
    const chosen = this.apart(found);
    if (!first.size && visible[0]?.node.level === 0) this.scatter(chosen, visible[0].words, matrix, width, height, hidden);
    this.wanted = new Map(chosen.map((one) => [one.row, one]));
    for (const row of this.wanted.keys()) if (!this.slots.has(row) && !this.asked.has(row)) this.ask(row);
    this.write();
  }

  /** From far away some images stand for the others: the first of the root's sample that are apart on the screen. */
  private scatter(
    chosen: Candidate[],
    words: Uint16Array,
    matrix: number[],
    width: number,
    height: number,
    hidden: (row: number) => boolean,
  ): void {
    for (let at = 0; at < words.length && at < 6 * SCATTERED_FROM && chosen.length < SCATTERED; at += 6) {
      const row = words[at + 4]! + words[at + 5]! * 65_536;
      if (this.without.has(row) || hidden(row)) continue;
      const place = [0, 1, 2].map((axis) => (words[at + axis]! / 65_535) * 2 - 1) as [number, number, number];
      const [px, py, pz] = place;
      const w = matrix[3]! * px + matrix[7]! * py + matrix[11]! * pz + matrix[15]!;
      if (w <= 0.001) continue;
      const x = (((matrix[0]! * px + matrix[4]! * py + matrix[8]! * pz + matrix[12]!) / w + 1) / 2) * width;
      const y = (((matrix[1]! * px + matrix[5]! * py + matrix[9]! * pz + matrix[13]!) / w + 1) / 2) * height;
      if (x < 0 || y < 0 || x > width || y > height) continue;
      if (chosen.some((other) => Math.hypot(other.x - x, other.y - y) < SCATTERED_APART)) continue;
      chosen.push({ row, depth: w, weight: 1.001, x, y, pixels: WIDEST * 0.42, place });
    }
  }

  /** The first of those that lie over each other. */
  private apart(found: Candidate[]): Candidate[] {
    const taken = new Map<string, Candidate[]>();
    const chosen: Candidate[] = [];
    for (const one of found) {
      if (chosen.length >= this.most) break;
      const [cx, cy] = [Math.floor(one.x / CELL), Math.floor(one.y / CELL)];
      let free = true;
      for (let dx = -1; free && dx <= 1; dx++) {
        for (let dy = -1; free && dy <= 1; dy++) {
          free = !(taken.get(`${cx + dx},${cy + dy}`) ?? []).some(
            (other) => Math.max(Math.abs(other.x - one.x), Math.abs(other.y - one.y)) < 0.4 * Math.max(other.pixels, one.pixels),
          );
        }
      }
      if (!free && one.weight < 2) continue;
      const key = `${cx},${cy}`;
      const list = taken.get(key);
      if (list) list.push(one);
      else taken.set(key, [one]);
      chosen.push(one);
    }
    return chosen;
  }

  private ask(row: number): void {
    this.asked.add(row);
    void this.sprites.load(row).then((bitmap) => {
      if (bitmap && this.wanted.has(row)) this.bitmaps.push([row, bitmap]);
      else {
        if (!bitmap) this.without.set(row, true);
        this.asked.delete(row);
        bitmap?.close();
      }
      this.changed();
    });
  }

  /** Put what arrived into the texture; returns whether something still grows. */
  update(now: number): boolean {
    const came = this.bitmaps.splice(0, 24);
    for (const [row, bitmap] of came) {
      this.asked.delete(row);
      if (this.wanted.has(row) && bitmap.width <= SLOT && bitmap.height <= SLOT) this.store(row, bitmap, now);
      bitmap.close();
    }
    if (came.length) this.write();
    if (this.bitmaps.length) this.changed();
    this.material.uniforms["now"]!.value = this.still() ? now + 10 : now;
    return now < this.until && !this.still();
  }

  private store(row: number, bitmap: ImageBitmap, now: number): void {
    const at = this.free.pop() ?? this.takeBack();
    if (at === undefined) return;
    const source = new THREE.Texture(bitmap);
    source.colorSpace = THREE.NoColorSpace;
    source.generateMipmaps = false;
    const corner = new THREE.Vector2((at % this.side) * SLOT, Math.floor(at / this.side) * SLOT);
    this.renderer.copyTextureToTexture(source, this.texture, null, corner);
    source.dispose();
    this.slots.set(row, { row, at, born: now, width: bitmap.width, height: bitmap.height });
    this.until = now + 0.2;
  }

  private takeBack(): number | undefined {
    for (const [row, slot] of this.slots) {
      if (this.wanted.has(row)) continue;
      this.slots.delete(row);
      return slot.at;
    }
    return undefined;
  }

  private write(): void {
    const geometry = this.object.geometry as THREE.InstancedBufferGeometry;
    const attribute = (name: string) => geometry.getAttribute(name) as THREE.InstancedBufferAttribute;
    const [place, cell, born, weight] = [attribute("place"), attribute("cell"), attribute("born"), attribute("weight")];
    const edge = this.side * SLOT;
    let count = 0;
    for (const slot of this.slots.values()) {
      const wanted = this.wanted.get(slot.row);
      if (!wanted) continue;
      place.setXYZ(count, ...wanted.place);
      const [left, top] = [(slot.at % this.side) * SLOT, Math.floor(slot.at / this.side) * SLOT];
      cell.setXYZW(count, (left + 0.5) / edge, (top + 0.5) / edge, (slot.width - 1) / edge, (slot.height - 1) / edge);
      born.setX(count, slot.born);
      weight.setX(count, wanted.weight);
      count++;
    }
    for (const each of [place, cell, born, weight]) each.needsUpdate = true;
    geometry.instanceCount = count;
    this.object.visible = count > 0;
  }

  /** Pixels on the screen of an image that is shown; 0 for a row that is a dot. */
  pixels(row: number): number {
    const wanted = this.wanted.get(row);
    return wanted && this.slots.has(row) ? wanted.pixels : 0;
  }

  clear(): void {
    this.wanted.clear();
    this.write();
  }

  /** Forget what the texture held: the context that had it is gone. */
  reset(): void {
    for (const slot of this.slots.values()) this.free.push(slot.at);
    this.slots.clear();
    this.allocate();
    this.clear();
  }

  /** Give the texture its place on the GPU; what it is filled with is not kept. */
  private allocate(): void {
    const { width, height } = this.texture.image;
    this.texture.image.data = new Uint8Array(width * height * 4);
    this.texture.needsUpdate = true;
    this.renderer.initTexture(this.texture);
    this.texture.image.data = null as unknown as Uint8Array;
  }

  dispose(): void {
    this.texture.dispose();
    this.object.geometry.dispose();
    this.material.dispose();
  }
}
