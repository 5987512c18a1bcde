// HTTP-FLV by mpegts.js: one long response, kept close to the live edge.

import mpegts from "mpegts.js";
import type { Reports } from "./player.js";

mpegts.LoggingControl.enableVerbose = false;
mpegts.LoggingControl.enableDebug = false;
mpegts.LoggingControl.enableInfo = false;

/** Plays `url` in `video` until the returned function is called. */
export function play(video: HTMLVideoElement, url: string, reports: Reports): () => void {
  if (!mpegts.isSupported()) throw new Error("this browser has no Media Source Extensions; try HLS");
  const player = mpegts.createPlayer(
    { type: "flv", isLive: true, url },
    {
      enableStashBuffer: false,
      lazyLoad: false,
      deferLoadAfterSourceOpen: false,
      autoCleanupSourceBuffer: true,
      liveSync: true,
      liveSyncTargetLatency: 0.8,
      liveSyncMaxLatency: 2,
    },
  );
  player.on(mpegts.Events.ERROR, (type: string, detail: string) => reports.failed(`${type}: ${detail}`));
  player.on(mpegts.Events.LOADING_COMPLETE, () => reports.ended());
  player.attachMediaElement(video);
  player.load();
  // Refused autoplay is no error: the picture waits for the viewer's click.
  Promise.resolve(player.play()).catch(() => undefined);
  return () => player.destroy();
}
