// TypeScript for tests: bundled in memory, as the browser and node of the tests read none.
import { mkdtemp, rm, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { pathToFileURL } from "node:url";
import { build } from "vite";
import { fromHere, notInBrowsers } from "../vite.config.js";

const web = join(import.meta.dirname, "..");

/** The text of one module that has everything in it. */
export async function bundle(entry) {
  const { output } = await build({
    configFile: false, root: web, logLevel: "warn", plugins: [fromHere],
    build: {
      write: false, target: "es2022", minify: false, modulePreload: { polyfill: false },
      rollupOptions: { external: notInBrowsers, input: join(web, entry), preserveEntrySignatures: "strict", output: { codeSplitting: false } },
    },
  });
  return output[0].code;
}

/** Imports a TypeScript module. */
export async function load(entry) {
  const dir = await mkdtemp(join(tmpdir(), "rimlight-web-"));
  try {
    const file = join(dir, "module.mjs");
    await writeFile(file, await bundle(entry));
    return await import(pathToFileURL(file).href);
  } finally {
    await rm(dir, { recursive: true });
  }
}
