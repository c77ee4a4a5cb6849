// A map that forgets what was used longest ago: a flight through millions of images must not fill the memory.

export class Recent<K, V> {
  private readonly found = new Map<K, V>();

  constructor(private readonly most: number) {}

  get(key: K): V | undefined {
    const value = this.found.get(key);
    if (value !== undefined) {
      this.found.delete(key);
      this.found.set(key, value);
    }
    return value;
  }

  set(key: K, value: V): void {
    this.found.delete(key);
    this.found.set(key, value);
    if (this.found.size > this.most) this.found.delete(this.found.keys().next().value!);
  }

  delete(key: K): void {
    this.found.delete(key);
  }

  has(key: K): boolean {
    return this.found.has(key);
  }
}
