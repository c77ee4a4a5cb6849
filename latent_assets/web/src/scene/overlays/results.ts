// What a search found lights up, the better the larger; the rest fades.

import { colour, type Overlay } from "./overlay";
import { SIMILARITY } from "../palettes";
import { scenePlace } from "../view";

export const results: Overlay = {
  keys: ["results", "colour"],
  draw(context, drawing) {
    const found = context.store.state.results ?? [];
    const scores = found.map((result) => result.similarity ?? 0);
    const best = Math.max(...scores, 0);
    const worst = Math.min(...scores, best);
    for (const result of found) {
      const place = scenePlace(context, result.positions);
      if (!place) continue;
      const share = best > worst ? ((result.similarity ?? 0) - worst) / (best - worst) : 1;
      drawing.marks.push({ place, colour: colour("#ff5d3b"), pixels: 6 + 6 * share });
      drawing.first.push([place, 1.001]);
    }
    // colours that say how similar every image is are not to be dimmed
    if (found.length && context.store.state.colour !== SIMILARITY) drawing.fade = 0.72;
  },
};
