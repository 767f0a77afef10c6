// Keeps the model up to date: two streams and a few polls that live and end together.
//
// A session is one life of both streams. Whatever ends it - an error, silence, a sleeping tab - everything of it ends, and
// one new session begins after one wait. So a page that slept catches up with one snapshot and one round of polls, however
// long it slept, and pages that lost their router together do not return together.
import { type Client, Code, ConnectError } from "@connectrpc/connect";
import type { CatalogService } from "../../gen/ts/rimlight/fulfillment/v1/catalog_service_pb.js";
import type { RouterAdminService } from "../../gen/ts/rimlight/router/v1/router_admin_service_pb.js";
import { DropState } from "../../gen/ts/rimlight/offer/v1/drop_pb.js";
import type { Model } from "./model.js";
import { duration } from "./units.js";

export interface Clients {
  admin: Client<typeof RouterAdminService>;
  catalog: Client<typeof CatalogService>;
}

// Regions come every second: after this much silence the stream is dead, whatever TCP believes.
const SILENCE_MS = 10_000;
// A tab that nobody looks at gives its streams back after this long: a browser has six connections per host over HTTP/1.1.
const ASLEEP_MS = 30_000;
const RETRY_MS = 500;
const RETRY_MAX_MS = 15_000;
// No poll is worth waiting longer for.
const CALL_MS = 4_000;

const POLLS_MS = { matrix: 5_000, windows: 2_000, decisions: 3_000, drops: 3_000, members: 5_000 };

export class Feed {
  /** Calls that took at least this long are shown, in ms. */
  slowMs = 200;

  constructor(
    private readonly clients: Clients,
    private readonly model: Model,
    private readonly random: () => number = Math.random,
  ) {}

  /** Runs until the signal; visible tells whether somebody looks. */
  async run(signal: AbortSignal, document: Pick<Document, "visibilityState" | "addEventListener" | "removeEventListener">): Promise<void> {
    for (let failures = 0; !signal.aborted; ) {
      const asleep = new AbortController();
      const away = whenHidden(document, ASLEEP_MS, () => asleep.abort());
      let wait = 0;
      try {
        await this.session(AbortSignal.any([signal, asleep.signal]), () => (failures = 0));
      } catch (thrown) {
        if (signal.aborted) return;
        if (!asleep.signal.aborted) {
          wait = Math.min(RETRY_MS * 2 ** failures++, RETRY_MAX_MS) * (0.5 + this.random());
          this.model.setLink({ state: "lost", why: explain(thrown), retryAt: Date.now() + wait });
        }
      } finally {
        away();
      }
      if (asleep.signal.aborted) {
        this.model.setLink({ state: "asleep" });
        await whenVisible(document, signal);
        this.model.setLink({ state: "connecting" });
      } else await pause(wait, signal);
    }
  }

  /** One life of the streams; it never returns, but throws why it ended. */
  async session(signal: AbortSignal, heard: () => void): Promise<never> {
    const over = new AbortController();
    const until = AbortSignal.any([signal, over.signal]);
    const parts = [this.#regions(until, heard), this.#slips(until), ...this.#polls(until)];
    try {
      return await Promise.race(parts);
    } finally {
      over.abort();
      await Promise.allSettled(parts);
    }
  }

  async #regions(signal: AbortSignal, heard: () => void): Promise<never> {
    const silence = new AbortController();
    let watchdog: ReturnType<typeof setTimeout> | undefined;
    const listen = () => {
      clearTimeout(watchdog);
      watchdog = setTimeout(() => silence.abort(), SILENCE_MS);
    };
    try {
      listen();
      for await (const { regions } of this.clients.admin.watchRegions({}, { signal: AbortSignal.any([signal, silence.signal]) })) {
        listen();
        heard();
        this.model.setRegions(regions, Date.now());
      }
    } catch (thrown) {
      if (!silence.signal.aborted) throw thrown;
      throw new ConnectError("the router fell silent", Code.Unavailable);
    } finally {
      clearTimeout(watchdog);
    }
    throw new ConnectError("the router ended the stream", Code.Unavailable);
  }

  async #slips(signal: AbortSignal): Promise<never> {
    for await (const update of this.clients.admin.watchSlips({ resumeToken: this.model.resumeToken }, { signal })) this.model.takeSlips(update);
    throw new ConnectError("the router ended the stream", Code.Unavailable);
  }

  #polls(signal: AbortSignal): Promise<never>[] {
    const { admin, catalog } = this.clients;
    const options = { signal, timeoutMs: CALL_MS };
    const { model } = this;
    return [
      this.#poll("matrix", signal, async () => model.setMatrix(await admin.getRttMatrix({}, options))),
      this.#poll("windows", signal, async () => {
        const { windows, slips } = await admin.listSlips({ activeOnly: true }, options);
        model.setWindows(windows, slips);
      }),
      this.#poll("decisions", signal, () => this.refreshDecisions(signal)),
      this.#poll("drops", signal, async () => {
        const states = [DropState.OPEN, DropState.PAUSED, DropState.ARMED, DropState.DRAINING, DropState.CLOSED];
        model.setDrops((await catalog.listDrops({ pageSize: 20, states }, options)).drops);
      }),
      this.#poll("members", signal, async () => model.setMembers((await admin.listMembers({}, options)).members)),
    ];
  }

  /** Slow and failed calls of the asked router. */
  async refreshDecisions(signal: AbortSignal): Promise<void> {
    const options = { signal, timeoutMs: CALL_MS };
    const { admin } = this.clients;
    const lists = await Promise.all([
      admin.listDecisions({ minTotal: duration(this.slowMs), pageSize: 40 }, options),
      admin.listDecisions({ failedOnly: true, pageSize: 20 }, options),
    ]);
    this.model.setDecisions(...lists.map((l) => l.decisions));
  }

  /** Asks again and again, each time after the last answer: a slow router gets fewer questions, never a queue of them. */
  async #poll(what: keyof typeof POLLS_MS, signal: AbortSignal, ask: () => Promise<void>): Promise<never> {
    for (;;) {
      try {
        await ask();
        this.model.setProblem(what);
      } catch (thrown) {
        signal.throwIfAborted();
        this.model.setProblem(what, explain(thrown));
      }
      await pause(POLLS_MS[what] * (0.9 + 0.2 * this.random()), signal);
      signal.throwIfAborted();
    }
  }
}

/** What a person is told of a failed call. */
export function explain(thrown: unknown): string {
  const error = ConnectError.from(thrown);
  return error.rawMessage || Code[error.code].toLowerCase();
}

/** Waits; returns at once when the signal comes. */
export function pause(ms: number, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    if (signal.aborted) return resolve();
    const done = () => {
      clearTimeout(timer);
      signal.removeEventListener("abort", done);
      resolve();
    };
    const timer = setTimeout(done, ms);
    signal.addEventListener("abort", done);
  });
}

type Page = Pick<Document, "visibilityState" | "addEventListener" | "removeEventListener">;

function whenHidden(page: Page, afterMs: number, then: () => void): () => void {
  let timer: ReturnType<typeof setTimeout> | undefined;
  const look = () => {
    clearTimeout(timer);
    if (page.visibilityState === "hidden") timer = setTimeout(then, afterMs);
  };
  look();
  page.addEventListener("visibilitychange", look);
  return () => {
    clearTimeout(timer);
    page.removeEventListener("visibilitychange", look);
  };
}

function whenVisible(page: Page, signal: AbortSignal): Promise<void> {
  return new Promise((resolve) => {
    const look = () => {
      if (page.visibilityState === "hidden" && !signal.aborted) return;
      page.removeEventListener("visibilitychange", look);
      signal.removeEventListener("abort", look);
      resolve();
    };
    page.addEventListener("visibilitychange", look);
    signal.addEventListener("abort", look);
    look();
  });
}
