// Generated images: the path, the image at its end, how uncertain its place is, and lines to its nearest images.

import { MADE_COLOURS, positionsOf } from "../../state/made";
import { colour, type Overlay } from "./overlay";
import { scenePlace } from "../view";

export const made: Overlay = {
  keys: ["made"],
  draw(context, drawing) {
    const { space } = context.store.state;
    context.store.state.made.forEach((one, index) => {
      const shade = MADE_COLOURS[index % MADE_COLOURS.length]!;
      const own = colour(shade);
      const path = one.placed?.path?.[space] ?? one.steps.flatMap((step) => (step.positions[space] ? [step.positions[space]] : []));
      const places = path.map((place) => scenePlace(context, { [space]: place })).filter((place) => place !== null);
      const info = context.tiles!.info.spaces[space]!;
        if (places.length > 1) drawing.lines.push({ places, colour: own, opacity: 0.8, width: 3.5 });
      const end = scenePlace(context, one.placed ? positionsOf(one.placed) : undefined) ?? places.at(-1);
      if (!end) return;
      drawing.marks.push({ place: end, colour: own, pixels: 14 });
      if (one.image) drawing.pins.push({ key: one.key, place: end, image: one.image, name: one.prompt, colour: shade });
      for (const other of one.near[space] ?? []) {
        const near = scenePlace(context, { [space]: other });
        if (near) drawing.lines.push({ places: [end, near], colour: own, opacity: 0.75, width: 1 });
      }
      const placement = one.placed?.placements[space];
      if (placement) drawing.halos.push({ place: end, radius: (placement.uncertainty / info.edge) * 2, colour: own });
    });
  },
};
