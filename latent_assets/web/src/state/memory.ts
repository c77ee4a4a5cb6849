// What this browser keeps between visits; where that is forbidden it holds until the page is left.

export function remembered<T extends string>(key: string, known: readonly T[], otherwise: T): T {
  const found = recall(key) as T | null;
  return found && known.includes(found) ? found : otherwise;
}

export function recall(key: string): string | null {
  try {
    return localStorage.getItem(key);
  } catch {
    return null;
  }
}

export function remember(key: string, value: string): void {
  try {
    localStorage.setItem(key, value);
  } catch {
    // full or forbidden
  }
}
