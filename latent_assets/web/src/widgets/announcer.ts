// What is said in passing: politely, or at once when something is wrong.

import { h } from "./dom";

export interface Announcer {
  element: HTMLElement;
  say(text: string, serious?: boolean): void;
}

export function announcer(): Announcer {
  const polite = h("div", { class: "toast", role: "status", "aria-live": "polite", hidden: true });
  const urgent = h("div", { class: "toast bad", role: "alert", hidden: true });
  let timer = 0;
  return {
    element: h("div", { class: "toasts" }, polite, urgent),
    say(text, serious = false) {
      const [shown, other] = serious ? [urgent, polite] : [polite, urgent];
      other.hidden = true;
      shown.textContent = text;
      shown.hidden = !text;
      clearTimeout(timer);
      timer = window.setTimeout(() => (shown.hidden = true), serious ? 12_000 : 6_000);
    },
  };
}
