// What the page asks the server: its answers as types, its refusals as errors that say what to do.

export type Point = [number, number, number];

export interface Release {
  release: string | number;
  rows: number;
  published: string;
  spaces: string[];
  generation: boolean;
  /** Whether latents are decoded: walks, and what a place stands for. */
  synthesis?: boolean;
  writes: boolean;
  profile: string;
  models?: Record<string, unknown>;
  contact: string | null;
  tiles: string | null;
  attribution?: string;
  title?: string;
  examples?: string[];
}

export interface Neighbour {
  id: string;
  similarity: number;
  caption: string | null;
  category: string | null;
  thumbnail: string;
  group_size?: number;
}

export interface ImageFacts {
  id: string;
  caption: string | null;
  url: string;
  source_url: string | null;
  licence?: string | null;
  attribution: string;
  width: number;
  height: number;
  category: string | null;
  shard: string;
  scores: Record<string, number | null>;
  positions: Record<string, Point>;
  thumbnail: string;
  neighbours: Record<string, Neighbour[]>;
}

export interface Result {
  id: string;
  similarity: number | null;
  caption: string | null;
  category: string | null;
  url: string;
  thumbnail: string;
  positions: Record<string, Point>;
}

export interface SearchAnswer {
  query: string;
  mode: string;
  release: string;
  results: Result[];
}

export interface Placement {
  position: Point;
  uncertainty: number;
  p_value: number | null;
  percentile: number | null;
  verdict: string;
  sentence: string;
  copy: { id: string; correlation: number; thumbnail: string } | null;
  neighbours: Neighbour[];
  behind: Behind[];
}

/** A value among the neighbours: how often, and how that compares with the atlas as a whole. */
export interface Behind {
  field: string;
  value: string;
  count: number;
  of: number;
  lift: number;
  low: number;
  high: number;
  unusual: boolean;
}

export interface Placed {
  generated_id: string;
  release: string;
  width: number;
  height: number;
  placements: Record<string, Placement>;
  agreement: number | null;
  prompt?: string;
  seed?: number;
  steps?: number;
  guidance?: number | undefined;
  image?: string;
  path?: Record<string, Point[]>;
}

export interface Step {
  step: number;
  steps: number;
  preview: string;
  positions: Record<string, Point>;
}

export interface Made {
  generated_id: string;
  prompt: string | null;
  created: string;
  positions: Record<string, Point>;
  image: string;
}

/** A picture that was decoded: where it falls, and what is near. */
export interface Frame {
  share: number;
  preview: string;
  positions: Record<string, Point>;
  near: Record<string, Neighbour[]>;
}

export interface WalkAnswer {
  release: number;
  how: string;
  frames: Frame[];
}

export type WalkEnd = { image: string } | { generated: string } | { prompt: string; seed?: number };

export interface Synthesis {
  release: number;
  space: string;
  position: Point;
  said: string;
  mean_of: { id: string; distance: number }[];
  frame: Frame;
}

export interface ReleaseEntry {
  release: string | number;
  published: string;
  rows: number;
  tiles: string | null;
}

export interface WalkEvents {
  queued(position: number): void;
  frame(frame: Frame): void;
}

export interface GenerateEvents {
  queued(position: number): void;
  step(step: Step): void;
}

export class ApiError extends Error {
  constructor(
    message: string,
    readonly status: number,
  ) {
    super(message);
  }
}

export const UNREACHABLE = 0;

/** An address below the page's own; the server writes them from its root. */
export function address(path: string): string {
  return path.replace(/^\/+/, "");
}

async function asked(path: string, options: RequestInit = {}): Promise<Response> {
  let response: Response;
  try {
    response = await fetch(address(path), options);
  } catch (error) {
    if (error instanceof DOMException && error.name === "AbortError") throw error;
    throw new ApiError("", UNREACHABLE);
  }
  if (!response.ok) throw await refusal(response);
  return response;
}

async function refusal(response: Response): Promise<ApiError> {
  try {
    const problem = await response.json();
    const text = [problem.title, problem.detail].filter((part) => typeof part === "string" && part).join(": ");
    return new ApiError(text || response.statusText, response.status);
  } catch {
    return new ApiError(`${response.status} ${response.statusText}`, response.status);
  }
}

async function json<T>(path: string, options: RequestInit = {}): Promise<T> {
  const response = await asked(path, options);
  if (!(response.headers.get("content-type") ?? "").includes("json")) throw new ApiError("", 404);
  return (await response.json()) as T;
}

/** Answers that mean that the server starts or is busy: it is asked again. */
export const STARTING = 503;

export const api = {
  release: () => json<Release>("api/release"),
  releases: () => json<{ live: number; releases: ReleaseEntry[] }>("api/releases"),
  /** An image of the release that is live, or of another that is kept. */
  image: (id: string, signal?: AbortSignal, release?: string) =>
    json<ImageFacts>(`api/images/${encodeURIComponent(id)}${release ? `?release=${encodeURIComponent(release)}` : ""}`, { signal }),
  search: (words: Record<string, string>, signal?: AbortSignal) =>
    json<SearchAnswer>(`api/search?${new URLSearchParams(words)}`, { signal }),
  searchImage: (image: Blob, words: Record<string, string>) =>
    json<SearchAnswer>(`api/search?${new URLSearchParams(words)}`, { method: "POST", body: form(image) }),
  place: (image: Blob) => json<Placed>("api/place", { method: "POST", body: form(image) }),
  generated: (after?: string, limit = 100) =>
    json<{ generated: Made[] }>(`api/generated?${new URLSearchParams({ limit: String(limit), ...(after ? { after } : {}) })}`),
  generatedOne: (id: string) => json<Placed>(`api/generated/${encodeURIComponent(id)}`),

  /** How similar every image of the atlas is to words: one byte a row, 0 for none; what 1 and 255 stand for. */
  async similarities(words: string, signal?: AbortSignal): Promise<{ rows: Uint8Array; low: number; high: number }> {
    const response = await asked(`api/similarities?${new URLSearchParams({ q: words })}`, { signal });
    const [low, high] = ["x-low", "x-high"].map((name) => Number(response.headers.get(name)));
    return { rows: new Uint8Array(await response.arrayBuffer()), low: low!, high: high! };
  },
  synthesis: (space: string, position: Point, signal?: AbortSignal) =>
    json<Synthesis>("api/synthesis", { ...posted({ space, position }), signal }),

  /** Make an image: events as they come, what became of it at the end. */
  generate: (
    wanted: { prompt: string; negative?: string; seed?: number; steps?: number; guidance?: number },
    events: GenerateEvents,
    signal: AbortSignal,
  ) =>
    told<Placed>("api/generate", wanted, signal, (event, data) => {
      if (event === "queued") events.queued(Number(data["position"]));
      else if (event === "step") events.step(data as unknown as Step);
    }),

  /** Walk from one end to another: frames as they are made, all of them at the end. */
  walk: (wanted: { start: WalkEnd; end: WalkEnd; frames?: number }, events: WalkEvents, signal: AbortSignal) =>
    told<WalkAnswer>("api/walk", wanted, signal, (event, data) => {
      if (event === "queued") events.queued(Number(data["position"]));
      else if (event === "frame") events.frame(data as unknown as Frame);
    }),
};

function posted(body: unknown): RequestInit {
  return { method: "POST", headers: { "content-type": "application/json" }, body: JSON.stringify(body) };
}

/** The result of a stream of events; `each` is told the others. */
async function told<T>(
  path: string,
  body: unknown,
  signal: AbortSignal,
  each: (event: string, data: Record<string, unknown>) => void,
): Promise<T> {
  const response = await asked(path, { ...posted(body), signal });
  let result: T | null = null;
  for await (const { event, data } of serverEvents(response)) {
    if (event === "result") result = data as unknown as T;
    else if (event === "problem") throw new ApiError(String(data["detail"] ?? data["title"] ?? ""), Number(data["status"] ?? 500));
    else each(event, data);
  }
  if (!result) throw new ApiError("", UNREACHABLE);
  return result;
}

function form(image: Blob): FormData {
  const data = new FormData();
  data.append("image", image);
  return data;
}

interface ServerEvent {
  event: string;
  data: Record<string, unknown>;
}

async function* serverEvents(response: Response): AsyncGenerator<ServerEvent> {
  const reader = response.body!.pipeThrough(new TextDecoderStream()).getReader();
  let rest = "";
  for (;;) {
    const { done, value } = await reader.read();
    if (done) return;
    rest += value.replaceAll("\r\n", "\n");
    for (let end = rest.indexOf("\n\n"); end >= 0; end = rest.indexOf("\n\n")) {
      const found = parseEvent(rest.slice(0, end));
      rest = rest.slice(end + 2);
      if (found) yield found;
    }
  }
}

function parseEvent(block: string): ServerEvent | null {
  let event = "message";
  const data: string[] = [];
  for (const line of block.split("\n")) {
    if (line.startsWith("event:")) event = line.slice(6).trim();
    else if (line.startsWith("data:")) data.push(line.slice(5).trimStart());
  }
  return data.length ? { event, data: JSON.parse(data.join("\n")) } : null;
}
