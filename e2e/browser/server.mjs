// Starts the server under test and an encoder that pushes to it, each in a process group of its own, and ends both whatever
// happens. Knows nothing of browsers.

import { execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { mkdtempSync, rmSync } from "node:fs";
import { mkdir, writeFile } from "node:fs/promises";
import { tmpdir } from "node:os";
import { dirname, join } from "node:path";
import { createInterface } from "node:readline";
import { fileURLToPath } from "node:url";

export const repository = join(dirname(fileURLToPath(import.meta.url)), "../..");

const binary = process.env.BRAIDCAST_BIN ?? join(repository, "target/debug/braidcast");
const READY_MS = 30_000;
/** Longer than the server's own `stop_grace`. */
const STOP_MS = 10_000;

/** Groups that still run, directories that are there; the last resort when the test process itself ends early. */
const groups = new Set();
const directories = new Set();
process.on("exit", () => {
  groups.forEach((pid) => signal(pid, "SIGKILL"));
  directories.forEach(removeDirectory);
});
for (const name of ["SIGINT", "SIGTERM", "SIGHUP"]) process.on(name, () => process.exit(1));

function signal(group, name) {
  try {
    process.kill(-group, name);
    return true;
  } catch {
    return false;
  }
}

function makeDirectory(prefix) {
  const directory = mkdtempSync(prefix);
  directories.add(directory);
  return directory;
}

function removeDirectory(directory) {
  rmSync(directory, { recursive: true, force: true, maxRetries: 5 });
  directories.delete(directory);
}

/** A child that leads its own group; what it says is kept for a failed test. */
function start(command, args, stdio) {
  const child = spawn(command, args, { detached: true, stdio });
  const said = [];
  child.stderr.on("data", (text) => {
    process.stderr.write(text);
    said.push(text);
  });
  child.on("error", (error) => said.push(`${error}\n`));
  if (child.pid) groups.add(child.pid);
  return { child, said: () => said.join("") };
}

/** Asks the leader to end and waits; else kills its group. Workers whose front was killed end by themselves (`front_grace`). */
async function stop({ child }) {
  if (!child.pid) return;
  if (child.exitCode === null && child.signalCode === null) {
    const exit = once(child, "exit");
    child.kill("SIGTERM");
    await Promise.race([exit, new Promise((resolve) => setTimeout(resolve, STOP_MS).unref())]);
  }
  signal(child.pid, "SIGKILL");
  groups.delete(child.pid);
}

/** Kills a worker with SIGKILL and waits until another process has its place. */
async function killWorker(shared, id) {
  const row = () => JSON.parse(execFileSync(binary, ["status", "--json", "--shared-dir", shared])).workers.find((worker) => worker.id === id);
  const { pid } = row();
  process.kill(pid, "SIGKILL");
  for (const until = Date.now() + READY_MS; ; ) {
    const now = row();
    if (now.pid !== pid && now.state === "ready") return;
    if (Date.now() > until) throw new Error(`worker ${id} does not come back`);
    await new Promise((resolve) => setTimeout(resolve, 20));
  }
}

/** Runs `use` with a server of two workers; `use` gets its addresses (`host:port`) by protocol, and what kills a worker. */
export async function withServer(use) {
  const scratch = makeDirectory(join(tmpdir(), "braidcast-browser."));
  const shared = makeDirectory("/dev/shm/braidcast-browser.");
  const config = join(scratch, "server.toml");
  await mkdir(join(scratch, "state"));
  const [cert, key] = ["cert.pem", "key.pem"].map((name) => join(scratch, name));
  const words = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 2 -subj /CN=localhost".split(" ");
  execFileSync("openssl", [...words, "-addext", "subjectAltName=IP:127.0.0.1", "-out", cert, "-keyout", key], { stdio: "ignore" });
  await writeFile(
    config,
    `[server]
workers = 2
shared_dir = "${shared}"
state_dir = "${scratch}/state"
on_exit = "remove"
front_grace = "1s"
[rtmp]
listen = ["127.0.0.1:0"]
[http]
listen = ["127.0.0.1:0"]
[api]
listen = ["127.0.0.1:0"]
[hls]
fragment = "1s"
[tls]
https = ["127.0.0.1:0"]
[[certificate]]
cert = "${cert}"
key = "${key}"
`,
  );
  const server = start(binary, ["serve", "-c", config, "--ready-fd", "3"], ["ignore", "inherit", "pipe", "pipe"]);
  try {
    const ready = await firstLine(server, READY_MS);
    const { rtmp, http, https } = JSON.parse(ready);
    await use({ rtmp: rtmp[0], http: http[0], https: https[0], killWorker: (id) => killWorker(shared, id) });
  } finally {
    await stop(server);
    [scratch, shared].forEach(removeDirectory);
  }
}

async function firstLine({ child, said }, limitMs) {
  const lines = createInterface({ input: child.stdio[3] });
  const signal = AbortSignal.timeout(limitMs);
  const line = once(lines, "line", { signal }).then(([text]) => text);
  const end = once(lines, "close", { signal }).then(() => Promise.reject(new Error(`the server did not come up:\n${said()}`)));
  end.catch(() => undefined);
  return Promise.race([line, end]);
}

/** Runs `use` while ffmpeg pushes a moving picture and a tone to `url`. */
export async function withPublisher(url, use) {
  const encoder = start(
    "ffmpeg",
    [
      ..."-hide_banner -loglevel error -nostdin -re -f lavfi -i testsrc2=size=640x360:rate=30 -f lavfi -i sine=frequency=440".split(" "),
      ..."-c:v libx264 -preset ultrafast -tune zerolatency -pix_fmt yuv420p -g 30 -keyint_min 30 -sc_threshold 0 -c:a aac -f flv".split(" "),
      url,
    ],
    ["ignore", "ignore", "pipe"],
  );
  try {
    await use();
  } finally {
    await stop(encoder);
  }
}
