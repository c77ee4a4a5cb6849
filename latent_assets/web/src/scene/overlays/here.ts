// A place that was asked about, and where the synthesis of it falls itself.

import { themeOf } from "../palettes";
import { colour, type Overlay } from "./overlay";
import { scenePlace } from "../view";

export const here: Overlay = {
  keys: ["here"],
  draw(context, drawing) {
    const { here: asked, space } = context.store.state;
    if (!asked || asked.space !== space) return;
    const shade = themeOf() === "dark" ? "#ffffff" : "#10141f";
    const own = colour(shade);
    const place = scenePlace(context, { [space]: asked.position });
    if (!place) return;
    drawing.marks.push({ place, colour: own, pixels: -20 });
    if (!asked.found) return;
    drawing.pins.push({ key: "here", place, image: asked.found.frame.preview, name: "", colour: shade });
    const falls = scenePlace(context, asked.found.frame.positions);
    if (!falls) return;
    drawing.lines.push({ places: [place, falls], colour: own, opacity: 0.7, width: 1 });
    drawing.marks.push({ place: falls, colour: own, pixels: 9 });
  },
};
