// Colours that people with colour-blindness can tell apart: Okabe and Ito for kinds, cividis and its kin for numbers.

// Okabe and Ito (2008) without black, then darker and lighter ones of them; for the dark page and the light one
const KINDS: Record<"dark" | "light", string[]> = {
  dark: ["#56b4e9", "#e69f00", "#2fbf94", "#f0e442", "#6f8fe8", "#e8743b", "#d98cb8", "#b9c0cc", "#9be0f5", "#f5c56b"],
  light: ["#0072b2", "#b06f00", "#00795a", "#8a7d00", "#3b4fb8", "#b84a00", "#a84f83", "#59616e", "#1b8fb5", "#7a5200"],
};

// stops of viridis (van der Walt and Smith, 2015)
const VIRIDIS: [number, number, number][] = [
  [68, 1, 84],
  [71, 44, 122],
  [59, 81, 139],
  [44, 113, 142],
  [33, 144, 141],
  [39, 173, 129],
  [92, 200, 99],
  [170, 220, 50],
  [253, 231, 37],
];

// colour by how well every image fits what was searched for; no column has such a name
export const SIMILARITY = "similarity to the search";

export type Theme = "dark" | "light";

export function themeOf(): Theme {
  return document.documentElement.dataset["theme"] === "light" ? "light" : "dark";
}

export function kindColour(code: number, theme: Theme): string {
  if (code === 0) return theme === "dark" ? "#7d8698" : "#7a8290";
  return KINDS[theme][(code - 1) % KINDS[theme].length]!;
}

export function numberColour(share: number): [number, number, number] {
  const at = Math.min(Math.max(share, 0), 1) * (VIRIDIS.length - 1);
  const low = Math.min(Math.floor(at), VIRIDIS.length - 2);
  const part = at - low;
  return VIRIDIS[low]!.map((value, axis) => value + (VIRIDIS[low + 1]![axis]! - value) * part) as [number, number, number];
}

export function rgb(colour: string): [number, number, number] {
  return [1, 3, 5].map((at) => parseInt(colour.slice(at, at + 2), 16)) as [number, number, number];
}

/** 256 colours as RGBA: 0 is none, then kinds or a scale of numbers. */
export function paletteBytes(kind: "code" | "number", theme: Theme): Uint8Array {
  const data = new Uint8Array(256 * 4);
  for (let code = 0; code < 256; code++) {
    const found =
      kind === "code" || code === 0
        ? rgb(kindColour(code, theme))
        : numberColour(0.12 + 0.88 * ((theme === "dark" ? code - 1 : 255 - code) / 254));
    data.set([...found, 255], code * 4);
  }
  return data;
}
