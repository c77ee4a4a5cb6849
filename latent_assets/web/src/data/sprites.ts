// Thumbnails by row: ranges of the shards' files. One whose id is not that of the row is not shown.

import { Recent } from "./recent";
import { hex, type Tiles } from "./tiles";

const HEADER = 16;
const MAGIC = 0x5053414c; // "LASP"
const GAP = 16 * 1024; // bytes that are read along rather than asked for apart
const AT_ONCE = 6;
const PACKS = 96; // shards whose index is kept

interface Pack {
  url: string;
  offsets: Uint32Array;
}

interface Wanted {
  row: number;
  index: number;
  resolve(file: Blob | null): void;
}

export class Sprites {
  private readonly packs = new Recent<number, Promise<Pack | null>>(PACKS);
  private readonly waiting = new Map<number, Wanted[]>();
  private readonly firsts: number[];
  private active = 0;

  constructor(private readonly tiles: Tiles) {
    this.firsts = tiles.info.shards.map((shard) => shard.first);
  }

  /** The thumbnail of a row, decoded; null when it has none or it cannot be had. */
  async load(row: number): Promise<ImageBitmap | null> {
    const file = await this.file(row);
    try {
      return file && (await createImageBitmap(file));
    } catch {
      return null;
    }
  }

  /** The file of a row's thumbnail; null when it has none or it cannot be had. */
  file(row: number): Promise<Blob | null> {
    return new Promise((resolve) => {
      const shard = this.shardOf(row);
      if (shard < 0 || !this.tiles.info.shards[shard]!.sprites) return resolve(null);
      const list = this.waiting.get(shard) ?? [];
      list.push({ row, index: row - this.firsts[shard]!, resolve });
      this.waiting.set(shard, list);
      queueMicrotask(() => this.next());
    });
  }

  private shardOf(row: number): number {
    let low = 0;
    let high = this.firsts.length;
    while (low < high) {
      const middle = (low + high) >> 1;
      if (this.firsts[middle]! <= row) low = middle + 1;
      else high = middle;
    }
    return low - 1;
  }

  private next(): void {
    while (this.active < AT_ONCE && this.waiting.size) {
      const [shard, list] = this.waiting.entries().next().value!;
      this.waiting.delete(shard);
      this.active++;
      void this.read(shard, list).finally(() => {
        this.active--;
        this.next();
      });
    }
  }

  private async read(shard: number, list: Wanted[]): Promise<void> {
    const pack = await this.pack(shard);
    list.sort((one, other) => one.index - other.index);
    const runs: Wanted[][] = [];
    for (const wanted of list) {
      const run = runs.at(-1);
      const near = run && pack && pack.offsets[wanted.index]! - pack.offsets[run.at(-1)!.index + 1]! <= GAP;
      if (near) run.push(wanted);
      else runs.push([wanted]);
    }
    for (const run of runs) await this.readRun(pack, run);
  }

  private async readRun(pack: Pack | null, run: Wanted[]): Promise<void> {
    try {
      if (!pack) throw new Error("no pack");
      const from = pack.offsets[run[0]!.index]!;
      const to = pack.offsets[run.at(-1)!.index + 1]!;
      if (to === from) throw new Error("no thumbnails");
      const response = await fetch(pack.url, { headers: { range: `bytes=${from}-${to - 1}` } });
      if (!response.ok) throw new Error(`${response.status}`);
      const data = await response.arrayBuffer();
      const shift = response.status === 206 ? from : 0;
      await Promise.all(
        run.map(async (wanted) => {
          const [start, end] = [pack.offsets[wanted.index]! - shift, pack.offsets[wanted.index + 1]! - shift];
          wanted.resolve(await this.checked(wanted.row, data.slice(start, end)));
        }),
      );
    } catch {
      for (const wanted of run) wanted.resolve(null);
    }
  }

  /** The file of an entry, when it is that of the row. */
  private async checked(row: number, entry: ArrayBuffer): Promise<Blob | null> {
    if (entry.byteLength <= 16 || hex(new Uint8Array(entry, 0, 16)) !== (await this.tiles.id(row))) return null;
    return new Blob([entry.slice(16)]);
  }

  private pack(shard: number): Promise<Pack | null> {
    let found = this.packs.get(shard);
    if (!found) {
      found = this.openPack(shard).catch(() => null);
      this.packs.set(shard, found);
    }
    return found;
  }

  private async openPack(shard: number): Promise<Pack | null> {
    const info = this.tiles.info.shards[shard]!;
    const url = `${this.tiles.sprites}${info.sprites}.bin`;
    const end = HEADER + 4 * (info.rows + 1);
    const response = await fetch(url, { headers: { range: `bytes=0-${end - 1}` } });
    if (!response.ok) return null;
    const data = await response.arrayBuffer();
    const view = new DataView(data);
    if (view.getUint32(0, true) !== MAGIC || view.getUint32(4, true) !== 1 || view.getUint32(8, true) !== info.rows) return null;
    return { url, offsets: new Uint32Array(data.slice(HEADER, end)) };
  }
}
