// Makes docs/images/storefront-*.png: a purchase on a desk, by day, and on a phone, by night. `make screenshots`.
import { join } from "node:path";
import { startBrowser } from "./test/browser.mjs";
import { startPlatform } from "./test/platform.mjs";

const images = join(import.meta.dirname, "../docs/images");
const shots = [
  { name: "storefront-desktop", fullPage: true, colorScheme: "light", viewport: { width: 1120, height: 760 }, place: "europe-west2", card: "tp_ok", state: "delivered" },
  { name: "storefront-phone", fullPage: false, colorScheme: "dark", viewport: { width: 390, height: 844 }, place: "us-east1", card: "tp_action_required", state: "action_required" },
];

const platform = await startPlatform({ routers: "europe-west1,us-west1,asia-south1", tls: false });
const browser = await startBrowser();
try {
  for (const { name, fullPage, place, card, state, ...screen } of shots) {
    const context = await browser.newContext({ ...screen, locale: "en-GB", reducedMotion: "reduce" });
    const page = await context.newPage();
    await page.goto(platform.urls[0]);
    await page.selectOption("#place", place);
    await page.check(`input[value=${card}]`);
    await page.locator(".channel", { hasText: /aurora|nocturne/ }).locator("rimlight-drop >> [part=button][aria-disabled=false]").first().click({ timeout: 90_000 });
    await page.locator(`.purchase[data-state=${state}]`).waitFor({ timeout: 60_000 });
    await page.locator(".purchase .why p").waitFor();
    await page.evaluate(() => document.activeElement?.blur());
    await page.screenshot({ path: join(images, `${name}.png`), fullPage });
    await context.close();
  }
} finally {
  await browser.close();
  await platform.stop();
}
