// A player: one <video> fed by HTTP-FLV or HLS until it is stopped. Starts again by itself, more and more patiently, when
// the stream breaks off; never decides whether the stream is live, that is its owner's to say.

import type { PlayerKind } from "./streams.js";

/** What a started engine gives back: how to end it. */
type Stop = () => void;

/** What an engine tells its player. */
export interface Reports {
  /** The stream ended in order: nothing more comes. */
  ended(): void;
  /** It cannot go on by itself. */
  failed(reason: string): void;
}

const FIRST_RETRY_MS = 1000;
const LONGEST_RETRY_MS = 10_000;

/** The engines are bundled apart: a visitor downloads only the one that plays. */
const engines = {
  flv: () => import("./flv.js"),
  hls: () => import("./hls.js"),
};

export class Player {
  readonly video = document.createElement("video");
  private stopEngine: Stop | undefined;
  private retryTimer: number | undefined;
  private retryMs = FIRST_RETRY_MS;
  /** Grows with every start and stop: what an engine of an older start reports is void. */
  private generation = 0;

  /** `say` shows a line to the viewer; an empty one means that all is well. */
  constructor(
    readonly kind: PlayerKind,
    private readonly url: string,
    name: string,
    private readonly say: (text: string) => void,
  ) {
    this.video.dataset.player = kind;
    this.video.dataset.stream = name;
    this.video.muted = true;
    this.video.autoplay = true;
    this.video.playsInline = true;
    this.video.controls = true;
    this.video.setAttribute("aria-label", `${name} by ${kind.toUpperCase()}`);
    this.video.addEventListener("playing", () => {
      this.retryMs = FIRST_RETRY_MS;
      this.say("");
    });
  }

  /** Starts, or starts again at the newest picture. */
  async start(): Promise<void> {
    this.quiet();
    const generation = this.generation;
    const current = () => generation === this.generation;
    this.say("Starting…");
    try {
      const { play } = await engines[this.kind]();
      if (!current()) return;
      this.stopEngine = play(this.video, this.url, {
        ended: () => current() && this.again("The stream paused; waiting for it to go on…"),
        failed: (reason) => current() && this.again(`Interrupted (${reason}); trying again…`),
      });
    } catch (error) {
      if (current()) this.again(`Cannot play: ${error instanceof Error ? error.message : String(error)}`);
    }
  }

  /** The stream is known to be back: a player that waits for its next try need not wait longer. */
  hurry(): void {
    if (this.retryTimer !== undefined) void this.start();
  }

  /** Ends it; the <video> can be thrown away. */
  stop(): void {
    this.quiet();
    this.say("");
    this.video.remove();
  }

  private again(text: string): void {
    this.quiet();
    this.say(text);
    this.retryTimer = window.setTimeout(() => void this.start(), this.retryMs);
    this.retryMs = Math.min(this.retryMs * 2, LONGEST_RETRY_MS);
  }

  private quiet(): void {
    this.generation += 1;
    window.clearTimeout(this.retryTimer);
    this.retryTimer = undefined;
    this.stopEngine?.();
    this.stopEngine = undefined;
  }
}
