// Which nodes are drawn: the largest on the screen first, until the budget of points is spent. Loads what is missing.

import * as THREE from "three";
import { MissingTile, POINT_BYTES, type SpaceTiles, type TreeNode } from "../data/tiles";

const REFINE_PX = 130; // a node whose cube is smaller on the screen is shown by its ancestors alone
const AT_ONCE = 24; // nodes asked for together
const UPLOADS = 6; // nodes that become visible in one frame

export interface LoadedNode {
  node: TreeNode;
  words: Uint16Array;
  object: THREE.Points;
  used: number;
}

/** Where rows were before, in the cube [0, 1] of the map that is shown; undefined for rows that were not there. */
export interface Origins {
  get(row: number): readonly [number, number, number] | undefined;
}

export class Octree {
  readonly group = new THREE.Group();
  readonly loaded = new Map<TreeNode, LoadedNode>();
  visible: LoadedNode[] = [];
  /** Whether all that this view wants is loaded. */
  complete = false;
  private readonly pending = new Set<TreeNode>();
  private readonly failed = new Map<TreeNode, number>();
  private arrived: [TreeNode, ArrayBuffer][] = [];
  private frame = 0;
  private origins: Origins | null = null;

  constructor(
    readonly tiles: SpaceTiles,
    private readonly material: THREE.Material,
    private readonly changed: () => void,
    private readonly missing: (problem: string) => void,
  ) {
    this.group.matrixAutoUpdate = false;
  }

  /** Choose the nodes of a view, show those that are there, ask for the others. Returns how many points are shown. */
  update(camera: THREE.PerspectiveCamera, height: number, budget: number): number {
    this.frame++;
    this.upload();
    const wanted = this.choose(camera, height, budget);
    let shown = 0;
    const missing: TreeNode[] = [];
    this.visible = [];
    for (const node of wanted) {
      const found = this.loaded.get(node);
      if (!found) {
        missing.push(node);
        continue;
      }
      found.used = this.frame;
      this.visible.push(found);
      shown += node.points;
    }
    const visible = new Set(this.visible);
    for (const found of this.loaded.values()) found.object.visible = visible.has(found);
    this.complete = missing.every((node) => this.failed.has(node));
    this.ask(missing);
    this.evict(budget * 2);
    return shown;
  }

  private choose(camera: THREE.PerspectiveCamera, height: number, budget: number): TreeNode[] {
    const root = this.tiles.nodes[0];
    if (!root) return [];
    camera.updateMatrixWorld();
    const frustum = new THREE.Frustum().setFromProjectionMatrix(
      new THREE.Matrix4().multiplyMatrices(camera.projectionMatrix, camera.matrixWorldInverse),
    );
    const scale = height / (2 * Math.tan(THREE.MathUtils.degToRad(camera.fov / 2)));
    const sphere = new THREE.Sphere();
    const eye = camera.position;
    const wanted: TreeNode[] = [];
    const open: [number, TreeNode][] = [[Infinity, root]];
    for (let left = budget; open.length && left > 0; ) {
      let best = 0;
      for (let at = 1; at < open.length; at++) if (open[at]![0] > open[best]![0]) best = at;
      const [, node] = open[best]!;
      open[best] = open.at(-1)!;
      open.pop();
      wanted.push(node);
      left -= node.points;
      for (const index of node.children) {
        const child = this.tiles.nodes[index]!;
        sphere.center.set(...child.middle);
        sphere.radius = child.half * Math.sqrt(3);
        if (!frustum.intersectsSphere(sphere)) continue;
        const distance = Math.max(eye.distanceTo(sphere.center) - sphere.radius, 0.01);
        const pixels = (2 * child.half * scale) / distance;
        if (pixels >= REFINE_PX) open.push([pixels, child]);
      }
    }
    return wanted;
  }

  private ask(nodes: TreeNode[]): void {
    const now = performance.now();
    const due = nodes.filter((node) => !this.pending.has(node) && (this.failed.get(node) ?? 0) < now);
    const room = AT_ONCE - this.pending.size;
    if (!due.length || room <= 0) return;
    const asked = due.slice(0, room);
    for (const node of asked) this.pending.add(node);
    this.tiles
      .points(asked)
      .then((found) => {
        for (const [node, data] of found) {
          if (data.byteLength === node.points * POINT_BYTES) this.arrived.push([node, data]);
          else this.failed.set(node, now + 15_000);
        }
      })
      .catch((error: unknown) => {
        for (const node of asked) this.failed.set(node, performance.now() + 5_000);
        if (error instanceof MissingTile) this.missing(error.message);
        setTimeout(this.changed, 5_100);
      })
      .finally(() => {
        for (const node of asked) this.pending.delete(node);
        this.changed();
      });
  }

  private upload(): void {
    for (const [node, data] of this.arrived.splice(0, UPLOADS)) {
      const words = new Uint16Array(data);
      const buffer = new THREE.InterleavedBuffer(words, POINT_BYTES / 2);
      const geometry = new THREE.BufferGeometry();
      geometry.setAttribute("position", new THREE.InterleavedBufferAttribute(buffer, 3, 0, true));
      const about = new THREE.InterleavedBufferAttribute(buffer, 3, 3, false);
      (about as unknown as { gpuType: number }).gpuType = THREE.IntType;
      geometry.setAttribute("about", about);
      const object = new THREE.Points(geometry, this.material);
      object.frustumCulled = false;
      object.matrixAutoUpdate = false;
      const loaded = { node, words, object, used: this.frame };
      if (this.origins) this.setOrigins(loaded);
      this.loaded.set(node, loaded);
      this.failed.delete(node);
      this.group.add(object);
    }
    if (this.arrived.length) this.changed();
  }

  private evict(most: number): void {
    let points = 0;
    for (const { node } of this.loaded.values()) points += node.points;
    if (points <= most) return;
    const old = [...this.loaded.values()].filter((found) => found.used < this.frame).sort((a, b) => a.used - b.used);
    for (const found of old) {
      if (points <= most) return;
      points -= found.node.points;
      this.drop(found);
    }
  }

  private drop(found: LoadedNode): void {
    this.loaded.delete(found.node);
    this.group.remove(found.object);
    found.object.geometry.dispose();
  }

  dispose(): void {
    for (const found of [...this.loaded.values()]) this.drop(found);
  }

  /** Places of all rows that are shown now. */
  places(): Origins {
    const found = new Map<number, [number, number, number]>();
    for (const { words } of this.visible) {
      for (let at = 0; at < words.length; at += 6) {
        found.set(words[at + 4]! + words[at + 5]! * 65_536, [words[at]! / 65_535, words[at + 1]! / 65_535, words[at + 2]! / 65_535]);
      }
    }
    return found;
  }

  /** From where points come when `morph` goes from 0 to 1; null: no longer needed. */
  morphFrom(origins: Origins | null): void {
    this.origins = origins;
    for (const found of this.loaded.values()) {
      if (origins) this.setOrigins(found);
      else found.object.geometry.deleteAttribute("origin");
    }
  }

  private setOrigins({ words, object }: LoadedNode): void {
    const from = new Float32Array((words.length / 6) * 4);
    for (let at = 0, to = 0; at < words.length; at += 6, to += 4) {
      const before = this.origins!.get(words[at + 4]! + words[at + 5]! * 65_536);
      if (before) from.set([before[0], before[1], before[2], 1], to);
    }
    object.geometry.setAttribute("origin", new THREE.BufferAttribute(from, 4));
  }
}
