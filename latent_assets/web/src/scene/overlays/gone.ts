// Images that the other release has and this one has not: they fade as the points arrive.

import { colour, type Overlay } from "./overlay";
import { scenePlace } from "../view";

export const GONE_COLOUR = "#e8743b";

export const gone: Overlay = {
  keys: ["comparison", "share"],
  draw(context, drawing) {
    const { comparison, share, space } = context.store.state;
    if (!comparison || comparison.space !== space || share > 0.97) return;
    const own = colour(GONE_COLOUR);
    for (const position of comparison.gone) {
      const place = scenePlace(context, { [space]: position });
      if (place) drawing.marks.push({ place, colour: own, pixels: 3 + 4 * (1 - share) });
    }
  },
};
