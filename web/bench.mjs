// How long from a tap to the verified receipt, in Chromium, over TLS with HTTP/2, with 60 ms between browser and router:
// every sample is the first tap of another viewer, one after the other. `make bench-browser`.
import { loadavg } from "node:os";
import { startBrowser } from "./test/browser.mjs";
import { startPlatform } from "./test/platform.mjs";

const SAMPLES = Number(process.env.SAMPLES ?? 200);
const CLIENT_RTT_MS = 60;

const load = loadavg()[0];
const platform = await startPlatform({ routers: "europe-west1" });
const browser = await startBrowser();
try {
  const { drop } = await platform.verb("drops", "create", "--channel", "bench", "--title", "A thing", "--units", String(4 * SAMPLES + 100), "--price", "1", "--opens", "15s", "--duration", "10m");
  const page = await browser.newPage({ ignoreHTTPSErrors: true, bypassCSP: true });
  const devtools = await page.context().newCDPSession(page);
  await page.goto(`${platform.urls[0]}/client.js`); // of the origin, and does nothing by itself when it is only shown
  await devtools.send("Network.enable");
  await devtools.send("Network.emulateNetworkConditions", { offline: false, latency: CLIENT_RTT_MS, downloadThroughput: -1, uploadThroughput: -1 });
  const times = await page.evaluate(measure, [drop.drop?.dropId ?? drop.dropId, SAMPLES]);
  console.log(`| tap to verified receipt, ms, ${CLIENT_RTT_MS} ms to the router | p50 | p95 | p99 |\n|---|---:|---:|---:|`);
  for (const [name, all] of Object.entries(times)) {
    all.sort((a, b) => a - b);
    const at = (p) => all[Math.min(all.length - 1, Math.floor((p / 100) * all.length))].toFixed(0);
    console.log(`| ${name} | ${at(50)} | ${at(95)} | ${at(99)} |`);
  }
  console.log(`\n${SAMPLES} first taps each, one at a time; load average ${load.toFixed(2)} at the start.`);
} finally {
  await browser.close();
  await platform.stop();
}

/** Runs in the page. */
async function measure([dropId, samples]) {
  const { RimlightClient, forgetViewer } = await import("/client.js");
  const payment = { paymentReference: "tp_ok" };
  const times = { ClaimOffer: [], "RequestOffer, then RedeemOffer": [], "RedeemOffer alone, the offer asked for before": [] };
  const [claimed, both, redeemed] = Object.values(times);
  const enter = async () => {
    forgetViewer();
    const client = new RimlightClient({ routers: [location.origin] });
    for await (const { drops } of client.watchDrops()) {
      const drop = drops.find((d) => d.id === dropId);
      if (drop?.state === "open") return { client, drop };
    }
  };
  const settle = () => new Promise((resolve) => setTimeout(resolve, 100)); // a viewer looks before the tap
  const accepted = (result) => {
    if (result.kind !== "accepted") throw new Error(`not accepted: ${result.kind} ${result.reason}`);
  };
  for (let i = 0; i < samples; i++) {
    {
      const { client, drop } = await enter();
      await settle();
      const tapped = performance.now();
      accepted(await client.claim(drop, payment));
      claimed.push(performance.now() - tapped);
    }
    {
      const { client } = await enter();
      await settle();
      const asked = performance.now();
      const answer = await client.requestOffer({ dropId });
      if (answer.kind !== "granted") throw new Error(`not granted: ${answer.reason}`);
      const tapped = performance.now();
      accepted(await client.redeem(answer.offer, payment));
      both.push(performance.now() - asked);
      redeemed.push(performance.now() - tapped);
    }
  }
  return times;
}
