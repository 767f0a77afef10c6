import { fileURLToPath } from "node:url";
import { defineConfig } from "vite";
import { fromHere, plainDescriptors } from "./vite.config.js";

// The console is built by itself: viewers' pages do not load what only operators need, and an operator port serves
// dist/console alone.
export default defineConfig({
  root: fileURLToPath(new URL("console", import.meta.url)),
  base: "./",
  publicDir: false,
  plugins: [fromHere, plainDescriptors],
  build: {
    target: "es2022",
    outDir: "../dist/console",
    emptyOutDir: true,
    modulePreload: { polyfill: false },
    assetsInlineLimit: 0,
    rollupOptions: { output: { entryFileNames: "console.js", assetFileNames: "[name][extname]", codeSplitting: false } },
  },
});
