// What the page shows, in one place: widgets and the scene listen to it and change it.

import type { Placed, Result, Step } from "../data/api";

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
