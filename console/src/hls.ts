// HLS by hls.js, or by the browser itself where it can and Media Source Extensions are missing (iPhone).

import Hls from "hls.js";
import type { Reports } from "./player.js";

/** Plays `url` in `video` until the returned function is called. */
export function play(video: HTMLVideoElement, url: string, reports: Reports): () => void {
  if (Hls.isSupported()) return playByScript(video, url, reports);
  if (video.canPlayType("application/vnd.apple.mpegurl")) return playByBrowser(video, url, reports);
  throw new Error("this browser plays no HLS");
}

function playByScript(video: HTMLVideoElement, url: string, reports: Reports): () => void {
  const hls = new Hls({ enableWorker: false, backBufferLength: 30, liveSyncDurationCount: 2 });
  let mediaRecoveries = 0;
  hls.on(Hls.Events.ERROR, (_event, error) => {
    if (!error.fatal) return;
    if (error.type === Hls.ErrorTypes.MEDIA_ERROR && mediaRecoveries < 2) {
      mediaRecoveries += 1;
      hls.recoverMediaError();
    } else {
      reports.failed(error.details);
    }
  });
  hls.on(Hls.Events.MANIFEST_PARSED, () => video.play().catch(() => undefined));
  const ended = () => reports.ended();
  video.addEventListener("ended", ended);
  hls.loadSource(url);
  hls.attachMedia(video);
  return () => {
    video.removeEventListener("ended", ended);
    hls.destroy();
  };
}

function playByBrowser(video: HTMLVideoElement, url: string, reports: Reports): () => void {
  const ended = () => reports.ended();
  const failed = () => reports.failed(video.error?.message || "the browser gave no reason");
  video.addEventListener("ended", ended);
  video.addEventListener("error", failed);
  video.src = url;
  video.play().catch(() => undefined);
  return () => {
    video.removeEventListener("ended", ended);
    video.removeEventListener("error", failed);
    video.removeAttribute("src");
    video.load();
  };
}
