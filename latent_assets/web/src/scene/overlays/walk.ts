// A walk: its frames as a path, and the frame that is shown at its place.

import { colour, type Overlay } from "./overlay";
import { scenePlace } from "../view";

export const WALK_COLOUR = "#5ce1e6";

export const walk: Overlay = {
  keys: ["walk"],
  draw(context, drawing) {
    const { walk: shown } = context.store.state;
    if (!shown?.frames.length) return;
    const own = colour(WALK_COLOUR);
    const places = shown.frames.map((frame) => scenePlace(context, frame.positions));
    const known = places.filter((place) => place !== null);
    if (known.length > 1) drawing.lines.push({ places: known, colour: own, opacity: 0.9, width: 3.5 });
    known.forEach((place) => drawing.marks.push({ place, colour: own, pixels: 8 }));
    const frame = shown.frames[shown.at];
    const place = places[shown.at];
    if (!frame || !place) return;
    drawing.marks.push({ place, colour: own, pixels: 14 });
    drawing.pins.push({ key: "walk", place, image: frame.preview, name: "", colour: WALK_COLOUR });
  },
};
