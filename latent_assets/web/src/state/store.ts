// What the page shows, in one place: widgets and the scene listen to it and change it.

import type { Comparison } from "../data/comparison";
import type { Frame, Placed, Result, Step, Synthesis } from "../data/api";

export interface Camera {
  target: [number, number, number];
  radius: number;
  theta: number;
  phi: number;
}

export interface Filters {
  categories: string[];
  domain: string;
  /** By column: lowest and highest value that is shown. */
  ranges: Record<string, [number, number]>;
}

export type Mode = "meaning" | "words" | "both";

export interface Made {
  key: string;
  prompt: string;
  placed: Placed | null;
  steps: Step[];
  image: string;
  problem: string;
  queued: number;
  /** By space: places of its nearest images, when they are known. */
  near: Record<string, [number, number, number][]>;
}

/** One end of a walk: words, or an image of the atlas or a generated one. */
export interface End {
  kind: "image" | "generated" | "prompt";
  /** Its id, or the words. */
  value: string;
  name: string;
  thumbnail: string | null;
  seed?: number;
}

export interface Walk {
  frames: Frame[];
  wanted: number;
  /** Which frame is shown. */
  at: number;
  done: boolean;
  queued: number;
  how: string;
  problem: string;
}

/** What was asked of a place of the map. */
export interface Here {
  space: string;
  position: [number, number, number];
  found: Synthesis | null;
  problem: string;
}

export interface State {
  space: string;
  camera: Camera;
  selected: string | null;
  colour: string;
  query: string;
  mode: Mode;
  results: Result[] | null;
  filters: Filters;
  made: Made[];
  ends: { start: End | null; end: End | null };
  walk: Walk | null;
  here: Here | null;
  /** This release compared with another, and how far points are from there (0) to here (1). */
  comparison: Comparison | null;
  share: number;
  /** Whether regions that no generated image has reached stand out. */
  unreached: boolean;
  open: "search" | "image" | "tree" | "about" | null;
  language: "en" | "zh";
  theme: "system" | "dark" | "light";
}

export const NO_FILTERS: Filters = { categories: [], domain: "", ranges: {} };

type Listener = (state: State, before: State) => void;

export class Store {
  private listeners: { keys: (keyof State)[]; listener: Listener }[] = [];

  constructor(private current: State) {}

  get state(): Readonly<State> {
    return this.current;
  }

  set(change: Partial<State>): void {
    const before = this.current;
    this.current = { ...before, ...change };
    for (const { keys, listener } of this.listeners) {
      if (keys.some((key) => before[key] !== this.current[key])) listener(this.current, before);
    }
  }

  /** Called after any of `keys` changed. */
  on(keys: (keyof State)[], listener: Listener): void {
    this.listeners.push({ keys, listener });
  }
}
