// The web page in a real Chromium: moving pictures by HTTP-FLV and by HLS from a running server. Screenshots for people are
// left in target/browser/.

import assert from "node:assert/strict";
import { mkdir } from "node:fs/promises";
import { join } from "node:path";
import { after, before, test } from "node:test";
import { chromium } from "playwright-core";
import { repository, withPublisher, withServer } from "./server.mjs";

const LIMIT_MS = 30_000;
const screenshots = join(repository, "target/browser");

let browser;

before(async () => {
  await mkdir(screenshots, { recursive: true });
  browser = await chromium.launch({
    executablePath: process.env.CHROMIUM_BIN ?? "/usr/bin/chromium",
    args: [
      ..."--no-sandbox --disable-gpu --disable-quic --no-first-run".split(" "),
      ..."--disable-background-networking --disable-component-update --disable-sync".split(" "),
    ],
  });
});

after(() => browser?.close());

/** Opens `address` and runs `use`; fails on anything the page's policy refused or the page did not catch. */
async function withPage(address, use, options) {
  const context = await browser.newContext(options);
  const page = await context.newPage();
  const complaints = [];
  page.on("pageerror", (error) => complaints.push(String(error)));
  page.on("console", (message) => message.type() === "error" && complaints.push(message.text()));
  page.on("request", (request) => {
    const { protocol, host } = new URL(request.url());
    if (protocol.startsWith("http") && host !== new URL(address).host) complaints.push(`asked a stranger: ${request.url()}`);
  });
  try {
    await page.goto(address);
    await use(page);
    assert.deepEqual(complaints, []);
  } catch (error) {
    await page.screenshot({ path: join(screenshots, "failure.png"), fullPage: true }).catch(() => undefined);
    error.message += `\nthe page said: ${complaints.join(" | ") || "nothing"}`;
    throw error;
  } finally {
    await context.close();
  }
}

/** What a video has come to: its clock, its decoded frames, and a coarse copy of its picture. */
function look(page, selector) {
  return page.locator(selector).evaluate((video) => {
    const canvas = document.createElement("canvas");
    canvas.width = 64;
    canvas.height = 36;
    const context = canvas.getContext("2d");
    context.drawImage(video, 0, 0, canvas.width, canvas.height);
    const { data } = context.getImageData(0, 0, canvas.width, canvas.height);
    const { totalVideoFrames: frames } = video.getVideoPlaybackQuality();
    const error = video.error?.message ?? null;
    return { time: video.currentTime, frames, error, muted: video.muted, width: video.videoWidth, pixels: [...data] };
  });
}

/** Fails unless the video plays three seconds of its own clock within the limit, with decoded, changing pictures. */
async function assertMoving(page, selector) {
  await page.locator(selector).waitFor({ state: "visible", timeout: LIMIT_MS });
  const playing = ([selector, time]) => document.querySelector(selector)?.currentTime > time;
  await page.waitForFunction(playing, [selector, 0], { timeout: LIMIT_MS });
  const first = await look(page, selector);
  await page.waitForFunction(playing, [selector, first.time + 3], { timeout: LIMIT_MS });
  const second = await look(page, selector);
  assert.equal(second.error, null);
  assert.equal(second.muted, true);
  assert.equal(second.width, 640);
  assert.ok(second.frames - first.frames >= 45, `decoded ${second.frames - first.frames} frames in three seconds of 30 each`);
  const changed = second.pixels.filter((value, place) => Math.abs(value - first.pixels[place]) > 16).length;
  assert.ok(changed > 100, `${changed} of ${second.pixels.length} sampled values changed: the picture stands still`);
  assert.ok(new Set(second.pixels).size > 16, "the picture is blank");
}

test("the page shows what is live and plays it by HTTP-FLV and by HLS", { timeout: 6 * LIMIT_MS }, async (t) => {
  await withServer(async ({ rtmp, http, https, killWorker }) => {
    const home = `http://${http}/`;

    await t.test("nothing is live", async () => {
      await withPage(home, async (page) => {
        await page.locator("#empty").waitFor({ state: "visible", timeout: LIMIT_MS });
        assert.match(await page.locator("#push-ffmpeg input").inputValue(), new RegExp(`rtmp://127\\.0\\.0\\.1:${rtmp.split(":")[1]}/live/`));
      });
    });

    await t.test("a linked stream plays as soon as somebody publishes it", async () => {
      await withPage(`${home}?stream=live/late&player=hls`, async (page) => {
        await page.locator("#awaited").filter({ hasText: "live/late" }).waitFor({ timeout: LIMIT_MS });
        await withPublisher(`rtmp://${rtmp}/live/late`, () => assertMoving(page, 'video[data-stream="live/late"][data-player=hls]'));
      });
    });

    await withPublisher(`rtmp://${rtmp}/live/demo`, async () => {
      for (const kind of ["flv", "hls"]) {
        await t.test(`moving pictures by ${kind.toUpperCase()}`, async () => {
          await withPage(`${home}?stream=live/demo&player=${kind}`, async (page) => {
            await assertMoving(page, `video[data-stream="live/demo"][data-player=${kind}]`);
            await page.screenshot({ path: join(screenshots, `${kind}.png`), fullPage: true });
          });
        });
      }

      await t.test("a picture goes on while workers are killed, on one connection", async () => {
        await withPage(`${home}?stream=live/demo&player=flv`, async (page) => {
          const video = 'video[data-stream="live/demo"][data-player=flv]';
          const asked = [];
          page.on("request", (request) => request.url().includes(".flv") && asked.push(request.url()));
          await page.reload();
          await assertMoving(page, video);
          for (let kill = 0; kill < 10; kill++) {
            const { time } = await look(page, video);
            await killWorker(1 + (kill % 2));
            const goesOn = ([selector, time]) => document.querySelector(selector)?.currentTime > time + 0.5;
            await page.waitForFunction(goesOn, [video, time], { timeout: LIMIT_MS });
          }
          await assertMoving(page, video);
          assert.equal(asked.length, 1, `the stream was asked for ${asked.length} times`);
        });
      });

      for (const kind of ["flv", "hls"]) {
        await t.test(`moving pictures by ${kind.toUpperCase()} over HTTP/2`, async () => {
          const secure = `https://${https}/`;
          await withPage(
            `${secure}?stream=live/demo&player=${kind}`,
            async (page) => {
              await assertMoving(page, `video[data-stream="live/demo"][data-player=${kind}]`);
              await killWorker(1);
              await assertMoving(page, `video[data-stream="live/demo"][data-player=${kind}]`);
              const protocols = await page.evaluate(() =>
                [...performance.getEntriesByType("navigation"), ...performance.getEntriesByType("resource")]
                  .map(({ name, nextHopProtocol }) => [new URL(name).protocol, nextHopProtocol])
                  .filter(([scheme, protocol]) => scheme === "https:" && protocol !== ""),
              );
              assert.ok(protocols.length > 2, "hardly anything was asked for");
              assert.deepEqual([...new Set(protocols.map(([, protocol]) => protocol))], ["h2"]);
            },
            { ignoreHTTPSErrors: true },
          );
        });
      }

      for (const [form, type, url] of [
        ["WebSocket-FLV", "flv", `ws://${http}/live/demo.flv`],
        ["HTTP-TS", "mpegts", `${home}live/demo.ts`],
        ["FLV without sound", "flv", `${home}live/demo.flv?only=video`],
      ]) {
        await t.test(`a page of somebody else plays ${form}`, async () => {
          await withPage(`${home}api/v1/versions`, async (page) => {
            await page.addScriptTag({ path: join(repository, "node_modules/mpegts.js/dist/mpegts.js") });
            const setUp = ([type, url]) => {
              const { mpegts } = window;
              const video = document.createElement("video");
              video.muted = true;
              document.body.replaceChildren(video);
              const player = mpegts.createPlayer({ type, url, isLive: true }, { enableStashBuffer: false });
              player.attachMediaElement(video);
              player.load();
              void player.play();
            };
            await page.evaluate(setUp, [type, url]);
            await assertMoving(page, "video");
          });
        });
      }

      await t.test("a stream starts by itself, players are changed and stopped by buttons", async () => {
        const phone = { viewport: { width: 390, height: 844 }, colorScheme: "dark" };
        await withPage(
          home,
          async (page) => {
            const card = page.locator('.card[data-stream="live/demo"]');
            await assertMoving(page, "video[data-player=flv]");
            await card.locator("button[data-play=hls]").click();
            await assertMoving(page, "video[data-player=hls]");
            assert.equal(await page.locator("video").count(), 1);
            await card.locator("summary").click();
            assert.equal(await card.locator("[data-url=flv] input").inputValue(), `${home}live/demo.flv`);
            await page.screenshot({ path: join(screenshots, "phone.png"), fullPage: true });
            const overflow = await page.evaluate(() => document.documentElement.scrollWidth - window.innerWidth);
            assert.ok(overflow <= 0, `the page is ${overflow} px too wide for a phone`);
            await card.locator("button[data-play=none]").click();
            assert.equal(await page.locator("video").count(), 0);
          },
          phone,
        );
      });
    });

    await t.test("an ended stream leaves the page usable", async () => {
      await withPage(home, async (page) => {
        await page.locator("#summary").filter({ hasText: "No streams are live" }).waitFor({ timeout: LIMIT_MS });
      });
    });
  });
});
