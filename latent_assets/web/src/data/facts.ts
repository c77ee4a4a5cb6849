// What is known of an image without a server: files of a static copy, 256 rows each; see atlas/tiles/site.py.

import type { ImageFacts } from "./api";
import { Recent } from "./recent";
import { Sprites } from "./sprites";
import { MissingTile, type Tiles } from "./tiles";

const ROWS = 256;
const PAGES = 64; // that are kept

type Row = Omit<ImageFacts, "attribution" | "thumbnail" | "neighbours">;

export class Facts {
  private readonly pages = new Recent<number, Promise<Row[]>>(PAGES);
  private readonly thumbnails = new Map<number, Promise<string>>();
  private readonly sprites: Sprites;

  constructor(private readonly tiles: Tiles) {
    this.sprites = new Sprites(tiles);
  }

  /** What the panel of an image shows. Raises MissingTile for an unknown id. */
  async image(id: string): Promise<ImageFacts> {
    const row = await this.tiles.rowOf(id);
    if (row < 0) throw new MissingTile(id);
    const found = (await this.page(Math.floor(row / ROWS)))[row % ROWS]!;
    return { ...found, attribution: this.tiles.info.attribution, thumbnail: await this.thumbnail(row), neighbours: {} };
  }

  private page(number: number): Promise<Row[]> {
    let found = this.pages.get(number);
    if (!found) {
      found = fetch(`${this.tiles.base}facts/${number}.json`).then((response) => {
        if (!response.ok) throw new MissingTile(`facts/${number}.json`);
        return response.json() as Promise<Row[]>;
      });
      found.catch(() => this.pages.delete(number));
      this.pages.set(number, found);
    }
    return found;
  }

  private thumbnail(row: number): Promise<string> {
    let found = this.thumbnails.get(row);
    if (!found) {
      found = this.sprites.file(row).then((file) => (file ? URL.createObjectURL(file) : ""));
      this.thumbnails.set(row, found);
    }
    return found;
  }
}
