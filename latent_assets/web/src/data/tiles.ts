// Tiles of a release, read by ranges. The bytes are described in latent_assets/atlas/tiles/FORMAT.md.

import type { Point } from "./api";
import { Recent } from "./recent";

export const NODE_BYTES = 24;
export const POINT_BYTES = 12;
const FIRST_BYTES = 256 * 1024;
const IDS_PAGE = 1024;
const ID_PAGES = 512; // that are kept
const MERGED_BYTES = 512 * 1024;

export interface SpaceInfo {
  origin: Point;
  edge: number;
  middle: Point;
  reach: number;
  spacing: number;
  nodes: number;
  depth: number;
  shows: string;
  quality: Record<string, number | string>;
}

/** A name over the map. A cluster has an id; the largest categories stand for clusters where there are none. */
export interface Label {
  text: string;
  level: number;
  position: Point;
  radius: number;
  rows: number;
  id?: string;
  parent?: string | null;
  code?: number;
  image?: string;
}

export interface Column {
  name: string;
  kind: "number" | "code" | "cluster";
  low?: number;
  high?: number;
  values?: number;
  space?: string;
  level?: number;
}

export interface TilesInfo {
  format: number;
  release: string;
  title: string;
  attribution: string;
  created: string;
  rows: number;
  spaces: Record<string, SpaceInfo>;
  categories: string[];
  columns: Column[];
  shards: { shard: string; first: number; rows: number; sprites: string | null }[];
}

export interface TreeNode {
  index: number;
  first: number;
  points: number;
  below: number;
  children: number[];
  level: number;
  /** Middle of the node in the cube [-1, 1], and half of its edge there. */
  middle: Point;
  half: number;
}

export class MissingTile extends Error {}

/** Bytes of a file, also from servers that know no ranges. */
class RangeFile {
  private whole: Promise<ArrayBuffer> | null = null;

  constructor(readonly url: string) {}

  async bytes(from: number, to: number): Promise<ArrayBuffer> {
    if (this.whole) return (await this.whole).slice(from, to);
    let response: Response;
    try {
      response = await fetch(this.url, { headers: { range: `bytes=${from}-${to - 1}` } });
    } catch {
      throw new MissingTile(this.url);
    }
    if (response.status === 200) {
      this.whole ??= response.arrayBuffer();
      return (await this.whole).slice(from, to);
    }
    if (response.status !== 206) throw new MissingTile(`${this.url} (${response.status})`);
    return response.arrayBuffer();
  }
}

async function whole(url: string): Promise<ArrayBuffer> {
  let response: Response;
  try {
    response = await fetch(url);
  } catch {
    throw new MissingTile(url);
  }
  if (!response.ok) throw new MissingTile(`${url} (${response.status})`);
  return response.arrayBuffer();
}

export class Tiles {
  private readonly ids: RangeFile;
  private readonly idPages = new Recent<number, Promise<ArrayBuffer>>(ID_PAGES);
  private readonly columns = new Map<string, Promise<Uint16Array>>();
  private readonly values = new Map<string, Promise<[string, number][]>>();
  private readonly named = new Map<string, Promise<Label[]>>();

  private constructor(
    readonly base: string,
    readonly info: TilesInfo,
  ) {
    this.ids = new RangeFile(`${base}ids.bin`);
  }

  static async open(base: string): Promise<Tiles> {
    const info = JSON.parse(new TextDecoder().decode(await whole(`${base}tiles.json`))) as TilesInfo;
    if (info.format !== 1) throw new Error(`format ${info.format}`);
    return new Tiles(base, info);
  }

  /** Where the thumbnails of all releases are. */
  get sprites(): string {
    return this.base.replace(/[^/]+\/$/, "sprites/");
  }

  async space(name: string): Promise<SpaceTiles> {
    const info = this.info.spaces[name]!;
    const [nodes, labels] = await Promise.all([whole(`${this.base}${name}/nodes.bin`), this.labels(name)]);
    return new SpaceTiles(name, info, nodes, `${this.base}${name}/points.bin`, labels);
  }

  /** What is written over the map of a space, coarse ones first; nothing where the file is missing. */
  labels(space: string): Promise<Label[]> {
    let found = this.named.get(space);
    if (!found) {
      found = whole(`${this.base}${space}/labels.json`).then(
        (data) => JSON.parse(new TextDecoder().decode(data)) as Label[],
        () => {
          this.named.delete(space);
          return [];
        },
      );
      this.named.set(space, found);
    }
    return found;
  }

  /** Id of a row: 32 hexadecimal digits. Ids are read a page at a time. */
  async id(row: number): Promise<string> {
    const page = Math.floor(row / IDS_PAGE);
    let found = this.idPages.get(page);
    if (!found) {
      const end = Math.min((page + 1) * IDS_PAGE, this.info.rows);
      found = this.ids.bytes(page * IDS_PAGE * 16, end * 16);
      found.catch(() => this.idPages.delete(page));
      this.idPages.set(page, found);
    }
    return hex(new Uint8Array(await found, (row - page * IDS_PAGE) * 16, 16));
  }

  /** The ids of all rows, 16 bytes each. */
  async allIds(): Promise<Uint8Array> {
    return new Uint8Array(await this.ids.bytes(0, this.info.rows * 16));
  }

  /** Row of an id, -1 for one that is not there. Reads all ids. */
  async rowOf(id: string): Promise<number> {
    const all = await this.allIds();
    const wanted = Array.from({ length: 16 }, (_, at) => parseInt(id.slice(2 * at, 2 * at + 2), 16));
    for (let row = 0; row < this.info.rows; row++) {
      if (all[row * 16] === wanted[0] && wanted.every((byte, at) => all[row * 16 + at] === byte)) return row;
    }
    return -1;
  }

  /** Values of a column by row. */
  column(name: string): Promise<Uint16Array> {
    let found = this.columns.get(name);
    if (!found) {
      found = whole(`${this.base}columns/${name}.bin`).then((data) => new Uint16Array(data));
      found.catch(() => this.columns.delete(name));
      this.columns.set(name, found);
    }
    return found;
  }

  /** What the codes of a column stand for, most rows first. */
  columnValues(name: string): Promise<[string, number][]> {
    let found = this.values.get(name);
    if (!found) {
      found = whole(`${this.base}columns/${name}.json`).then((data) => JSON.parse(new TextDecoder().decode(data)));
      found.catch(() => this.values.delete(name));
      this.values.set(name, found);
    }
    return found;
  }
}

export function hex(bytes: Uint8Array): string {
  return Array.from(bytes, (byte) => byte.toString(16).padStart(2, "0")).join("");
}

export class SpaceTiles {
  readonly nodes: TreeNode[] = [];
  private readonly file: RangeFile;
  private start: Promise<ArrayBuffer> | null = null;
  private startBytes = 0;

  constructor(
    readonly name: string,
    readonly info: SpaceInfo,
    nodes: ArrayBuffer,
    points: string,
    readonly labels: Label[],
  ) {
    this.file = new RangeFile(points);
    const view = new DataView(nodes);
    for (let at = 0; at + NODE_BYTES <= nodes.byteLength; at += NODE_BYTES) {
      const level = view.getUint8(at + 17);
      const half = 1 / 2 ** level;
      const mask = view.getUint8(at + 16);
      const child = view.getUint32(at + 12, true);
      const children = [];
      for (let octant = 0, next = child; octant < 8; octant++) if ((mask >> octant) & 1) children.push(next++);
      const cell = [18, 20, 22].map((offset) => view.getUint16(at + offset, true));
      this.nodes.push({
        index: at / NODE_BYTES,
        first: view.getUint32(at, true),
        points: view.getUint32(at + 4, true),
        below: view.getUint32(at + 8, true),
        children,
        level,
        middle: cell.map((value) => (2 * value + 1) * half - 1) as Point,
        half,
      });
    }
  }

  /** All points of the space: x, y, z, code of the category, row (low and high 16 bits). */
  async allPoints(): Promise<Uint16Array> {
    const last = this.nodes.at(-1);
    return new Uint16Array(last ? await this.file.bytes(0, (last.first + last.points) * POINT_BYTES) : new ArrayBuffer(0));
  }

  /** A place in map units as one in the cube [-1, 1] of the scene. */
  toScene(place: Point): Point {
    return place.map((value, axis) => ((value - this.info.origin[axis]!) / this.info.edge) * 2 - 1) as Point;
  }

  /** A length in map units as one of the scene. */
  length(units: number): number {
    return (units / this.info.edge) * 2;
  }

  /** Points of a node: POINT_BYTES each. The first nodes come in one request, neighbours are merged into one. */
  async points(wanted: TreeNode[]): Promise<Map<TreeNode, ArrayBuffer>> {
    const found = new Map<TreeNode, ArrayBuffer>();
    const last = this.nodes.at(-1);
    if (!last) return found;
    const size = (last.first + last.points) * POINT_BYTES;
    if (!this.start && size) {
      this.startBytes = Math.min(size, FIRST_BYTES);
      this.start = this.file.bytes(0, this.startBytes);
      this.start.catch(() => (this.start = null));
    }
    const later: TreeNode[] = [];
    for (const node of wanted) {
      const [from, to] = [node.first * POINT_BYTES, (node.first + node.points) * POINT_BYTES];
      if (to <= this.startBytes && this.start) found.set(node, (await this.start).slice(from, to));
      else if (node.points) later.push(node);
      else found.set(node, new ArrayBuffer(0));
    }
    later.sort((one, other) => one.first - other.first);
    const runs: TreeNode[][] = [];
    for (const node of later) {
      const run = runs.at(-1);
      const end = run?.at(-1);
      const joined = end && end.first + end.points === node.first;
      if (run && joined && (node.first + node.points - run[0]!.first) * POINT_BYTES <= MERGED_BYTES) run.push(node);
      else runs.push([node]);
    }
    await Promise.all(
      runs.map(async (run) => {
        const from = run[0]!.first;
        const end = run.at(-1)!;
        const data = await this.file.bytes(from * POINT_BYTES, (end.first + end.points) * POINT_BYTES);
        for (const node of run) {
          const at = (node.first - from) * POINT_BYTES;
          found.set(node, data.slice(at, at + node.points * POINT_BYTES));
        }
      }),
    );
    return found;
  }
}
