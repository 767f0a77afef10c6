// Chromium, and an origin of its own that serves pages to it.
import { createServer } from "node:http";
import { once } from "node:events";
import { chromium } from "playwright-core";

/** Starts Chromium; every context takes the test's certificate. */
export async function startBrowser() {
  const browser = await chromium.launch({
    executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
    headless: true,
    args: [
      "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
      "--disable-component-update", "--disable-sync",
    ],
  });
  return browser;
}

/**
 * Serves pages by path, each { type, body }, under a strict policy: scripts of this origin only, no styles, no eval, no
 * inline anything; connections to wherever a platform may be.
 */
export async function serve(pages, policy = POLICY) {
  const server = createServer((request, response) => {
    const page = pages[new URL(request.url, "http://page").pathname];
    if (!page) return response.writeHead(404).end();
    response.writeHead(200, { "Content-Type": page.type, "Content-Security-Policy": policy }).end(page.body);
  });
  server.listen(0, "127.0.0.1");
  await once(server, "listening");
  return {
    origin: `http://127.0.0.1:${server.address().port}`,
    async stop() {
      server.closeAllConnections();
      server.close();
      await once(server, "close");
    },
  };
}

export const POLICY =
  "default-src 'none'; script-src 'self'; connect-src https://127.0.0.1:* http://127.0.0.1:*; base-uri 'none'; require-trusted-types-for 'script'";

export const page = (script) => ({
  "/": { type: "text/html", body: `<!doctype html><html lang="en"><title>Test</title><script type="module" src="/page.js"></script>` },
  "/page.js": { type: "text/javascript", body: script },
});
