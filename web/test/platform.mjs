// A whole platform for tests: `rimlight dev` on free ports, with TLS from a certificate made for the run.
import { execFile, execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, readFileSync, rmSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { createInterface } from "node:readline";
import { promisify } from "node:util";

const repository = join(import.meta.dirname, "../..");
const binary = process.env.RIMLIGHT ?? join(repository, "bin/rimlight");

/** Starts a platform; the routers' URLs are in urls, europe-west1 first. traces: spans() reads what was traced. */
export async function startPlatform({ tls = true, routers = "europe-west1,us-west1", traces = false, args = [] } = {}) {
  const dir = mkdtempSync(join(tmpdir(), "rimlight-test-"));
  const spans = join(dir, "spans.jsonl");
  const secure = tls ? certificate(dir) : [];
  const env = { ...process.env, XDG_CONFIG_HOME: join(dir, "config"), TMPDIR: dir };
  const child = spawn(
    binary,
    ["dev", "--listen", "127.0.0.1:0", "--routers", routers, "--viewers", "0", ...(traces ? ["--traces", spans] : []), ...secure, ...args],
    { stdio: ["ignore", "pipe", "pipe"], env },
  );
  let errors = "";
  child.stderr.on("data", (chunk) => (errors += chunk));
  const exited = once(child, "exit");
  const platform = {
    urls: [], dir,
    /** Ends it in order, as an operator does; safe to call twice. */
    async stop() {
      child.kill("SIGTERM");
      await exited;
      rmSync(dir, { recursive: true, force: true });
    },
    /** What a verb of the command line answers, as JSON. */
    async verb(...words) {
      const trust = tls ? { SSL_CERT_FILE: join(dir, "cert.pem") } : {};
      const { stdout } = await promisify(execFile)(binary, [...words, "--router", platform.urls[0], "-o", "json"], { env: { ...env, ...trust } });
      return JSON.parse(stdout);
    },
    /** The spans so far; the last line may still be being written. */
    spans: () => readFileSync(spans, "utf8").split("\n").slice(0, -1).map((line) => JSON.parse(line)),
    interrupt: () => child.kill("SIGTERM"),
  };
  for await (const line of createInterface({ input: child.stdout })) {
    if (line.startsWith("  shop ")) continue; // the first router again
    const url = /\bhttps?:\/\/[0-9.]+:\d+/.exec(line);
    if (url) platform.urls.push(url[0]);
    if (line.startsWith("Try in another terminal")) {
      child.stdout.resume();
      return platform;
    }
  }
  rmSync(dir, { recursive: true, force: true });
  throw new Error(`the platform did not come up: ${errors}`);
}

// Go's own generator: Go is needed to build the platform anyway.
function certificate(dir) {
  const root = execFileSync("go", ["env", "GOROOT"], { encoding: "utf8" }).trim();
  const generator = join(root, "src/crypto/tls/generate_cert.go");
  execFileSync("go", ["run", generator, "--host", "127.0.0.1,localhost", "--ecdsa-curve", "P256", "--duration", "24h"], {
    cwd: dir, stdio: "ignore", env: { ...process.env, GOFLAGS: "" },
  });
  return ["--tls-cert", join(dir, "cert.pem"), "--tls-key", join(dir, "key.pem")];
}
