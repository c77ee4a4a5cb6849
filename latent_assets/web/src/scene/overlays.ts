// What is drawn over the cloud. Whoever has something to draw is one row of OVERLAYS: a function of the state, called
// when one of its keys changed. All are drawn together.

import type { Context } from "../widgets/context";
import { chosen } from "./overlays/chosen";
import { gone } from "./overlays/gone";
import { here } from "./overlays/here";
import { made } from "./overlays/made";
import type { Drawing, Overlay } from "./overlays/overlay";
import { results } from "./overlays/results";
import { walk } from "./overlays/walk";

const OVERLAYS: Overlay[] = [gone, results, made, walk, here, chosen];

export function drawOverlays(context: Context): void {
  const { map } = context;
  if (!map) return;
  const drawing: Drawing = { marks: [], lines: [], halos: [], pins: [], first: [], fade: 0 };
  for (const overlay of OVERLAYS) overlay.draw(context, drawing, () => drawOverlays(context));
  map.labels.pin(drawing.pins);
  map.mark(drawing.marks, drawing.lines, drawing.halos, drawing.first);
  map.fade(drawing.fade);
}

export function followOverlays(context: Context): void {
  const keys = new Set(OVERLAYS.flatMap((overlay) => overlay.keys));
  context.store.on([...keys, "theme"], () => drawOverlays(context));
}
