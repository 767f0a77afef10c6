// Fails when the SDK is more than 15 kB, compressed, over the protobuf runtime that a page may have already. What seals delivery
// details is an entry of its own, which pages load that sell physical goods, with a limit of its own.
import { gzipSync } from "node:zlib";
import { build } from "vite";
import { noGet, notInBrowsers, plainDescriptors } from "./vite.config.js";

for (const [what, input, limit] of [["the SDK", "sdk/index.ts", 15_000], ["sealing", "sdk/seal.ts", 8_000]]) {
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
        input,
        external: [/^@bufbuild\/protobuf/, ...notInBrowsers],
        preserveEntrySignatures: "strict",
        output: { minify: true },
      },
    },
  });
  const bytes = output.reduce((sum, chunk) => sum + gzipSync(chunk.code, { level: 9 }).length, 0);
  console.log(`${what} is ${bytes} bytes over the protobuf runtime, gzip; the limit is ${limit}`);
  if (bytes > limit) process.exitCode = 1;
}
