import { fileURLToPath } from "node:url";
import { fromBinary, toBinary } from "@bufbuild/protobuf";
import { FileDescriptorProtoSchema } from "@bufbuild/protobuf/wkt";
import { defineConfig } from "vite";

const web = fileURLToPath(new URL(".", import.meta.url));

// gen/ts stands outside this folder, where no node_modules is found: its imports are looked up from here.
export const fromHere = {
  name: "from-here",
  enforce: "pre",
  async resolveId(id, importer) {
    if (id.startsWith("@bufbuild/") && importer && !importer.startsWith(web)) {
      return this.resolve(id, `${web}index.ts`, { skipSelf: true });
    }
  },
};

// Descriptors as plain text instead of base64: gzip then finds their repetitions, and the SDK is a seventh smaller. Without
// what only Go's generator reads.
export const plainDescriptors = {
  name: "plain-descriptors",
  transform(code, id) {
    if (!id.endsWith("_pb.ts")) return null;
    return code.replace(/fileDesc\("([A-Za-z0-9+/=]+)"/, (_, base64) => {
      const file = fromBinary(FileDescriptorProtoSchema, Buffer.from(base64, "base64"));
      delete file.options;
      return `fileDesc(btoa(${JSON.stringify(Buffer.from(toBinary(FileDescriptorProtoSchema, file)).toString("latin1"))})`;
    });
  },
};

// Calls by GET, which nobody here makes.
export const noGet = {
  name: "no-get",
  transform: (_, id) => (id.endsWith("/protocol-connect/get-request.js") ? "export const transformConnectPostToGetRequest = undefined;" : null),
};

// What @hpke/core asks for only where there is no globalThis.crypto.
export const notInBrowsers = ["crypto"];

// What seals delivery details is loaded for physical goods only.
const isSealing = (id) => /\/(sdk\/seal\.ts|@hpke\/.*|sealed_pb\.ts)$/.test(id);

// The SDK and what it stands on; what only operators are asked is the storefront's own.
const inSdk = (id) => !isSealing(id) && (id.startsWith(web) ? /^(sdk|node_modules)\//.test(id.slice(web.length)) : !/\/rimlight\/(router|region|verifier)\//.test(id));

// What is embedded into the binary: names without hashes, since the files change with the binary only, and diffs stay readable.
export default defineConfig({
  root: web,
  base: "./",
  publicDir: false,
  plugins: [fromHere, plainDescriptors, noGet],
  build: {
    target: "es2022",
    outDir: "dist",
    emptyOutDir: true,
    modulePreload: { polyfill: false },
    assetsInlineLimit: 0,
    rollupOptions: {
      external: notInBrowsers,
      input: {
        client: "sdk/index.ts",
        element: "element/element.ts",
        seal: "sdk/seal.ts",
        overlay: "examples/overlay.html",
        storefront: "storefront/index.html",
      },
      preserveEntrySignatures: "strict",
      output: {
        entryFileNames: "[name].js",
        chunkFileNames: "chunks/[name].js",
        assetFileNames: "assets/[name][extname]",
        codeSplitting: { groups: [{ name: "sdk", test: inSdk }] },
      },
    },
  },
});
