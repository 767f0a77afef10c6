/** A value that many read as it changes. A slow reader skips what is no longer true. */
export class Latest<T> {
  #value: T | undefined;
  #version = 0;
  #ended = false;
  #turned: () => void = () => {};
  #turn = new Promise<void>((resolve) => (this.#turned = resolve));

  get value(): T | undefined {
    return this.#value;
  }

  set(value: T): void {
    this.#value = value;
    this.#version++;
    this.#wake();
  }

  /** Nothing comes any more. */
  end(): void {
    this.#ended = true;
    this.#wake();
  }

  /** The value now, and as it changes, until the end or the signal. */
  async *watch(signal?: AbortSignal): AsyncGenerator<T, void, undefined> {
    const aborted = new Promise<void>((resolve) => signal?.addEventListener("abort", () => resolve(), { once: true }));
    for (let seen = 0; !signal?.aborted; ) {
      if (this.#version > seen) {
        seen = this.#version;
        yield this.#value as T;
        continue;
      }
      if (this.#ended) return;
      await Promise.race([this.#turn, aborted]);
    }
  }

  #wake(): void {
    this.#turned();
    this.#turn = new Promise((resolve) => (this.#turned = resolve));
  }
}
