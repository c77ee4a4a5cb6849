// The address of a view: everything needed to see it again, behind the #.

import { NO_FILTERS, type Camera, type Filters, type Mode, type State } from "./store";

export interface Link {
  release: string | null;
  space: string | null;
  camera: Camera | null;
  selected: string | null;
  colour: string | null;
  query: string;
  mode: Mode;
  filters: Filters;
  made: string[];
}

const ID = /^[0-9a-f]{1,64}$/;

export function readLink(hash: string): Link {
  const found = new URLSearchParams(hash.replace(/^#/, ""));
  const id = found.get("image");
  const mode = found.get("mode");
  return {
    release: found.get("release"),
    space: found.get("space"),
    camera: readCamera(found.get("camera")),
    selected: id && ID.test(id) ? id : null,
    colour: found.get("colour"),
    query: found.get("q") ?? "",
    mode: mode === "words" || mode === "both" ? mode : "meaning",
    filters: readFilters(found),
    made: (found.get("made") ?? "").split(",").filter((part) => ID.test(part)),
  };
}

function readCamera(text: string | null): Camera | null {
  const numbers = (text ?? "").split(",").map(Number);
  if (numbers.length !== 6 || numbers.some((value) => !Number.isFinite(value)) || numbers[3]! <= 0) return null;
  const [x, y, z, radius, theta, phi] = numbers as [number, number, number, number, number, number];
  return { target: [x, y, z], radius, theta, phi };
}

function readFilters(found: URLSearchParams): Filters {
  const ranges: Filters["ranges"] = {};
  for (const part of found.getAll("range")) {
    const [name, low, high] = part.split(":");
    if (name && Number.isFinite(Number(low)) && Number.isFinite(Number(high))) ranges[name] = [Number(low), Number(high)];
  }
  return { ...NO_FILTERS, categories: found.getAll("category"), domain: found.get("domain") ?? "", ranges };
}

export function writeLink(state: State, release: string): string {
  const link = new URLSearchParams();
  link.set("release", release);
  link.set("space", state.space);
  const { target, radius, theta, phi } = state.camera;
  link.set("camera", [...target, radius, theta, phi].map((value) => Number(value.toFixed(4))).join(","));
  if (state.selected) link.set("image", state.selected);
  if (state.colour !== "category") link.set("colour", state.colour);
  if (state.query) link.set("q", state.query);
  if (state.query && state.mode !== "meaning") link.set("mode", state.mode);
  for (const name of state.filters.categories) link.append("category", name);
  if (state.filters.domain) link.set("domain", state.filters.domain);
  for (const [name, [low, high]] of Object.entries(state.filters.ranges)) link.append("range", `${name}:${low}:${high}`);
  const made = state.made.flatMap((one) => (one.placed ? [one.placed.generated_id] : []));
  if (made.length) link.set("made", made.join(","));
  return `#${link}`;
}
