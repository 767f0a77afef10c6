// A router of a made-up fleet: serves the console as it is built, and its RPCs as gRPC-Web.
import { createServer } from "node:http";
import { once } from "node:events";
import { readFileSync } from "node:fs";
import { join } from "node:path";
import { buffer } from "node:stream/consumers";
import { setTimeout as wait } from "node:timers/promises";
import { load } from "./bundle.mjs";

const built = join(import.meta.dirname, "../dist/console");
const types = { html: "text/html", js: "text/javascript", css: "text/css" };
const headers = { "Content-Type": "application/grpc-web+proto" };

function frame(payload, flag = 0) {
  const head = Buffer.alloc(5);
  head[0] = flag;
  head.writeUInt32BE(payload.length, 1);
  return Buffer.concat([head, payload]);
}
const OK = frame(Buffer.from("grpc-status: 0\r\n"), 0x80);

/** Starts one with so many regions, told every so many ms of real time; fleet.everyMs changes it. */
export async function startFleet({ regions, everyMs = 1_000 }) {
  const made = await load("test/fleet.ts");
  const answers = made.answers(regions);
  const fleet = { everyMs, seconds: 0, open: 0, calls: new Map(), resumed: [] };
  const server = createServer(async (request, response) => {
    const { pathname } = new URL(request.url, "http://fleet");
    if (request.method === "GET") return page(pathname, response);
    const body = await buffer(request);
    fleet.calls.set(pathname, (fleet.calls.get(pathname) ?? 0) + 1);
    response.writeHead(200, headers);
    if (answers.has(pathname)) return response.end(Buffer.concat([frame(answers.get(pathname)), OK]));
    fleet.open++;
    let gone = false;
    response.on("close", () => { gone = true; fleet.open--; });
    if (pathname === made.WATCH_SLIPS) {
      fleet.resumed.push(made.resumeTokenOf(body.subarray(5)));
      response.write(frame(made.streamed.slips()));
      return;
    }
    // As fast as it is read, and no faster than it is asked to be.
    while (!gone) {
      const flushed = response.write(frame(made.streamed.second(regions, fleet.seconds++)));
      if (!flushed) await either(response, "drain", "close");
      await wait(fleet.everyMs);
    }
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  return Object.assign(fleet, {
    url: `http://127.0.0.1:${server.address().port}`,
    watches: () => fleet.calls.get(made.WATCH_REGIONS) ?? 0,
    cut: () => server.closeAllConnections(),
    async stop() {
      server.closeAllConnections();
      server.close();
      await once(server, "close");
    },
  });
}

async function either(emitter, ...events) {
  const heard = new AbortController();
  await Promise.race(events.map((event) => once(emitter, event, { signal: heard.signal })));
  heard.abort();
}

function page(pathname, response) {
  if (pathname === "/console") return response.writeHead(301, { Location: "/console/" }).end();
  if (pathname === "/console/settings.json") return response.writeHead(200, { "Content-Type": "application/json" }).end('{"router":"europe-west1","version":"v1","drills":false}');
  const name = pathname === "/console/" ? "index.html" : pathname.slice("/console/".length);
  const type = types[name.split(".").at(-1)];
  if (!type || name.includes("/")) return response.writeHead(404).end();
  response.writeHead(200, { "Content-Type": type }).end(readFileSync(join(built, name)));
}
