// Fails when the SDK is more than 15 kB, compressed, over the protobuf runtime that a page may have already.
import { gzipSync } from "node:zlib";
import { build } from "vite";
import { noGet, plainDescriptors } from "./vite.config.js";

const LIMIT = 15_000;

const { output } = await build({
  configFile: false,
  root: import.meta.dirname,
  logLevel: "warn",
  plugins: [plainDescriptors, noGet],
  build: {
    write: false,
    target: "es2022",
    minify: true,
    rollupOptions: {
      input: "sdk/index.ts",
      external: [/^@bufbuild\/protobuf/],
      preserveEntrySignatures: "strict",
      output: { minify: true },
    },
  },
});
const bytes = output.reduce((sum, chunk) => sum + gzipSync(chunk.code, { level: 9 }).length, 0);
console.log(`the SDK is ${bytes} bytes over the protobuf runtime, gzip; the limit is ${LIMIT}`);
if (bytes > LIMIT) process.exit(1);
