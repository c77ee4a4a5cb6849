// Images instead of dots where the camera is near: a pool of slots in one texture, the nearest points have them.

import * as THREE from "three";
import type { Sprites } from "../data/sprites";
import type { LoadedNode } from "./octree";
import { IMAGE_FRAGMENT, IMAGE_VERTEX } from "./shaders";

const SLOT = 96; // pixels: the largest thumbnail of the table
const SMALLEST = 13; // pixels on the screen from which a dot is an image

interface Slot {
  row: number;
  at: number;
  born: number;
  width: number;
  height: number;
  place: [number, number, number];
}

export class Images {
  readonly object: THREE.Mesh;
  private readonly material: THREE.ShaderMaterial;
  private readonly texture: THREE.DataTexture;
  private readonly slots = new Map<number, Slot>();
  private readonly free: number[];
  private readonly side: number;
  private readonly asked = new Set<number>();
  private readonly without = new Set<number>();
  private bitmaps: [number, ImageBitmap][] = [];
  private wanted = new Map<number, [number, number, number]>();
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
    this.texture.colorSpace = THREE.NoColorSpace;
    this.texture.minFilter = this.texture.magFilter = THREE.LinearFilter;
    this.texture.generateMipmaps = false;
    this.texture.needsUpdate = true;
    const geometry = new THREE.InstancedBufferGeometry();
    const plane = new THREE.PlaneGeometry(1, 1);
    geometry.index = plane.index;
    geometry.setAttribute("position", plane.getAttribute("position"));
    geometry.setAttribute("place", new THREE.InstancedBufferAttribute(new Float32Array(most * 3), 3));
    geometry.setAttribute("cell", new THREE.InstancedBufferAttribute(new Float32Array(most * 4), 4));
    geometry.setAttribute("born", new THREE.InstancedBufferAttribute(new Float32Array(most), 1));
    geometry.instanceCount = 0;
    this.material = new THREE.ShaderMaterial({
      glslVersion: THREE.GLSL3,
      vertexShader: IMAGE_VERTEX,
      fragmentShader: IMAGE_FRAGMENT,
      uniforms: {
        images: { value: this.texture },
        now: { value: 0 },
        size: { value: 0.02 },
        shift: { value: 0.004 },
        ground: { value: new THREE.Color() },
        depths: { value: new THREE.Vector2(1, 10) },
      },
    });
    this.object = new THREE.Mesh(geometry, this.material);
    this.object.frustumCulled = false;
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

  /** How many images are on the map. */
  get count(): number {
    return (this.object.geometry as THREE.InstancedBufferGeometry).instanceCount;
  }

  /** Choose which points are images in this view: the nearest that are large enough. */
  choose(visible: LoadedNode[], camera: THREE.PerspectiveCamera, height: number, hidden: (row: number) => boolean): void {
    const size = this.material.uniforms["size"]!.value as number;
    const scale = height / (2 * Math.tan(THREE.MathUtils.degToRad(camera.fov / 2)));
    const farthest = (size * scale) / SMALLEST;
    const matrix = new THREE.Matrix4().multiplyMatrices(camera.projectionMatrix, camera.matrixWorldInverse).elements;
    const found: { row: number; depth: number; place: [number, number, number] }[] = [];
    const eye = camera.position;
    const middle = new THREE.Vector3();
    for (const { node, words } of visible) {
      middle.set(...node.middle);
      if (eye.distanceTo(middle) - node.half * Math.sqrt(3) > farthest) continue;
      for (let at = 0; at < words.length; at += 6) {
        const x = (words[at]! / 65_535) * 2 - 1;
        const y = (words[at + 1]! / 65_535) * 2 - 1;
        const z = (words[at + 2]! / 65_535) * 2 - 1;
        const w = matrix[3]! * x + matrix[7]! * y + matrix[11]! * z + matrix[15]!;
        if (w <= 0.001 || w > farthest) continue;
        if (Math.abs(matrix[0]! * x + matrix[4]! * y + matrix[8]! * z + matrix[12]!) > w * 1.05) continue;
        if (Math.abs(matrix[1]! * x + matrix[5]! * y + matrix[9]! * z + matrix[13]!) > w * 1.05) continue;
        const row = words[at + 4]! + words[at + 5]! * 65_536;
        if (this.without.has(row) || hidden(row)) continue;
        found.push({ row, depth: w, place: [x, y, z] });
      }
    }
    if (found.length > this.most) found.sort((one, other) => one.depth - other.depth).length = this.most;
    this.wanted = new Map(found.map(({ row, place }) => [row, place]));
    for (const [row, slot] of this.slots) {
      const place = this.wanted.get(row);
      if (place) slot.place = place;
    }
    for (const row of this.wanted.keys()) if (!this.slots.has(row) && !this.asked.has(row)) this.ask(row);
    this.write();
  }

  private ask(row: number): void {
    this.asked.add(row);
    void this.sprites.load(row).then((bitmap) => {
      this.asked.delete(row);
      if (!bitmap) this.without.add(row);
      else if (this.wanted.has(row)) {
        this.bitmaps.push([row, bitmap]);
        this.changed();
      } else bitmap.close();
    });
  }

  /** Put what arrived into the texture; returns whether something still grows. */
  update(now: number): boolean {
    const came = this.bitmaps.splice(0, 24);
    for (const [row, bitmap] of came) {
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
    const place = this.wanted.get(row)!;
    this.slots.set(row, { row, at, born: now, width: bitmap.width, height: bitmap.height, place });
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
    const [place, cell, born] = ["place", "cell", "born"].map((name) => geometry.getAttribute(name) as THREE.InstancedBufferAttribute);
    const edge = this.side * SLOT;
    let count = 0;
    for (const slot of this.slots.values()) {
      if (!this.wanted.has(slot.row)) continue;
      place!.setXYZ(count, ...slot.place);
      const [left, top] = [(slot.at % this.side) * SLOT, Math.floor(slot.at / this.side) * SLOT];
      cell!.setXYZW(count, (left + 0.5) / edge, (top + 0.5) / edge, (slot.width - 1) / edge, (slot.height - 1) / edge);
      born!.setX(count, slot.born);
      count++;
    }
    for (const attribute of [place!, cell!, born!]) attribute.needsUpdate = true;
    geometry.instanceCount = count;
    this.object.visible = count > 0;
  }

  /** Rows that are images now. */
  get shown(): number[] {
    return [...this.slots.keys()].filter((row) => this.wanted.has(row));
  }

  clear(): void {
    this.wanted.clear();
    this.write();
  }

  /** Forget what the texture held: the context that had it is gone. */
  reset(): void {
    for (const slot of this.slots.values()) this.free.push(slot.at);
    this.slots.clear();
    this.texture.needsUpdate = true;
    this.clear();
  }

  dispose(): void {
    this.texture.dispose();
    this.object.geometry.dispose();
    this.material.dispose();
  }
}
