// Bundles the web page into dist/: scripts, style, page, icon, licences of what is bundled. Downloads nothing, and leaves
// files alone that would not change, so that cargo does not build the server again for nothing.

import { build } from "esbuild";
import { mkdir, readFile, readdir, rm, writeFile } from "node:fs/promises";
import { createRequire } from "node:module";
import { dirname, join, relative } from "node:path";
import { fileURLToPath } from "node:url";

const here = dirname(fileURLToPath(import.meta.url));
const dist = join(here, "dist");
/** The server's paths are `/` and what lies below `/assets/`. */
const assets = join(dist, "assets");

/** Libraries whose code is in the bundle, and whose licences therefore come with it. */
const bundled = ["hls.js", "mpegts.js", "es6-promise", "events"];

/** Contents by path from dist/. */
async function contents() {
  const { outputFiles } = await build({
    absWorkingDir: here,
    entryPoints: ["src/main.ts", "src/style.css"],
    outdir: assets,
    bundle: true,
    splitting: true,
    format: "esm",
    target: "es2022",
    minify: true,
    legalComments: "none",
    logLevel: "warning",
    write: false,
  });
  const files = new Map(outputFiles.map((file) => [relative(dist, file.path), Buffer.from(file.contents)]));
  files.set("index.html", await readFile(join(here, "src/index.html")));
  files.set("assets/icon.svg", await readFile(join(here, "src/icon.svg")));
  files.set("assets/licenses.txt", Buffer.from(await licences()));
  return files;
}

async function licences() {
  const root = dirname(createRequire(import.meta.url).resolve("hls.js/package.json"));
  const texts = bundled.map(async (name) => {
    const folder = join(root, "..", name);
    const { version } = JSON.parse(await readFile(join(folder, "package.json"), "utf8"));
    return `${name} ${version}\n\n${(await readFile(join(folder, "LICENSE"), "utf8")).trim()}\n`;
  });
  return (await Promise.all(texts)).join(`\n${"-".repeat(80)}\n\n`);
}

/** Makes `folder` hold `files` and nothing else. */
async function replace(folder, files) {
  await mkdir(join(folder, "assets"), { recursive: true });
  const entries = await readdir(folder, { recursive: true, withFileTypes: true });
  const present = entries.filter((entry) => entry.isFile()).map((entry) => relative(folder, join(entry.parentPath, entry.name)));
  for (const name of present) {
    if (!files.has(name)) await rm(join(folder, name));
  }
  for (const [name, bytes] of files) {
    const path = join(folder, name);
    if (!present.includes(name) || !(await readFile(path)).equals(bytes)) await writeFile(path, bytes);
  }
}

await replace(dist, await contents());
