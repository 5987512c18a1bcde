// One stream on the page: what it is, its player, its addresses. Owns its player; knows nothing of other streams.

import { showCopyable } from "./copy.js";
import { Player } from "./player.js";
import { addressesOf, nameOf, pageAddress, type PlayerKind, type Stream } from "./streams.js";

export class Card {
  readonly element: HTMLElement;
  readonly name: string;
  private readonly stage: HTMLElement;
  private readonly message: HTMLElement;
  private player: Player | undefined;
  private stream: Stream;
  private rtmpPort = 1935;
  /** To tell the bit rate: bytes and time (milliseconds) of the update before, and what came of it. */
  private before: { bytes: number; at: number } | undefined;
  private kbps: number | undefined;

  /** `onPlay` hears of every player that starts. */
  constructor(template: HTMLTemplateElement, stream: Stream, private readonly onPlay: (card: Card) => void) {
    this.stream = stream;
    this.name = nameOf(stream);
    this.element = (template.content.cloneNode(true) as DocumentFragment).querySelector<HTMLElement>(".card")!;
    this.element.dataset.stream = this.name;
    this.stage = this.part(".stage");
    this.message = this.part(".message");
    this.part("h2").textContent = this.name;
    for (const button of this.buttons()) {
      button.addEventListener("click", () => {
        const kind = button.dataset.play;
        if (kind === "flv" || kind === "hls") this.play(kind);
        else this.stop();
      });
    }
    this.showPlayer();
  }

  /** Which player runs, if one does. */
  get playing(): PlayerKind | undefined {
    return this.player?.kind;
  }

  /** Shows what the server says now. */
  update(stream: Stream, rtmpPort: number, engine: string): void {
    const isBack = stream.state === "live" && this.stream.state !== "live";
    this.stream = stream;
    this.rtmpPort = rtmpPort;
    this.measure();
    this.element.dataset.state = stream.state;
    this.showFacts();
    const addresses = addressesOf(stream, rtmpPort);
    showCopyable(this.part("[data-url=rtmp]"), "RTMP (ffplay, VLC)", addresses.rtmp);
    showCopyable(this.part("[data-url=flv]"), "HTTP-FLV", addresses.flv);
    if (engine === "native") {
      showCopyable(this.part("[data-url=websocket]"), "FLV by WebSocket", addresses.websocket);
      showCopyable(this.part("[data-url=ts]"), "HTTP-TS (VLC, set-top boxes)", addresses.ts);
    }
    showCopyable(this.part("[data-url=hls]"), "HLS", addresses.hls);
    showCopyable(this.part("[data-url=page]"), "This player", pageAddress(stream, this.playing ?? "flv"));
    if (isBack) this.player?.hurry();
  }

  play(kind: PlayerKind): void {
    this.player?.stop();
    const url = addressesOf(this.stream, this.rtmpPort)[kind];
    this.player = new Player(kind, url, this.name, (text) => (this.message.textContent = text));
    this.stage.prepend(this.player.video);
    this.showPlayer();
    this.onPlay(this);
    void this.player.start();
  }

  stop(): void {
    this.player?.stop();
    this.player = undefined;
    this.showPlayer();
  }

  private showPlayer(): void {
    for (const button of this.buttons()) {
      if (button.dataset.play === "none") button.disabled = !this.player;
      else button.setAttribute("aria-pressed", String(button.dataset.play === this.playing));
    }
    if (!this.player) this.message.textContent = "Choose FLV (about a second behind) or HLS (some seconds behind).";
  }

  private measure(): void {
    const bytes = this.stream.bytes;
    const at = performance.now();
    if (bytes === undefined) return;
    if (this.before && bytes >= this.before.bytes && at > this.before.at) {
      this.kbps = ((bytes - this.before.bytes) * 8) / (at - this.before.at);
    }
    this.before = { bytes, at };
  }

  private showFacts(): void {
    const { state, video, audio, viewers, worker, process, hls } = this.stream;
    const codecs = [video, audio].filter(Boolean).join(" + ");
    const facts = [
      codecs,
      hls?.leaves_out.length ? `HLS has no ${hls.leaves_out.join(", no ")}` : "",
      state === "live" && this.kbps !== undefined ? `${Math.round(this.kbps)} kbit/s` : "",
      viewers == null ? "" : `${viewers} ${viewers === 1 ? "viewer" : "viewers"}`,
      process != null ? `process ${process}` : worker != null ? `worker ${worker}` : "",
    ];
    const mark = document.createElement("span");
    mark.className = "state";
    mark.textContent = state === "live" ? "● live" : state;
    this.part(".facts").replaceChildren(mark, ...facts.filter(Boolean).map((fact) => ` · ${fact}`));
  }

  private buttons(): NodeListOf<HTMLButtonElement> {
    return this.element.querySelectorAll<HTMLButtonElement>("button[data-play]");
  }

  private part(selector: string): HTMLElement {
    return this.element.querySelector<HTMLElement>(selector)!;
  }
}
