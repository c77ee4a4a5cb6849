// The image whose panel is open: a ring around it, and it is larger than others.

import { themeOf } from "../palettes";
import { colour, type Overlay } from "./overlay";
import { scenePlace, type Positions } from "../view";

let known: { id: string; positions: Positions } | null = null;

export const chosen: Overlay = {
  keys: ["selected"],
  draw(context, drawing, again) {
    const { selected, results } = context.store.state;
    if (!selected) return;
    if (known?.id !== selected) {
      context.image(selected).then(
        ({ positions }) => {
          known = { id: selected, positions };
          if (context.store.state.selected === selected) again();
        },
        () => undefined, // its panel says so
      );
      return;
    }
    const place = scenePlace(context, known.positions);
    if (!place) return;
    drawing.marks.push({ place, colour: colour(themeOf() === "dark" ? "#ffffff" : "#10141f"), pixels: -(results ? 22 : 26) });
    drawing.first.push([place, 2]);
  },
};
