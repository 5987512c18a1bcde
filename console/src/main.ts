// The page: asks every two seconds which streams there are, keeps a card for each, starts the first or the linked one.
// Shows only what the server says; keeps nothing between visits.

import { Card } from "./card.js";
import { showCopyable } from "./copy.js";
import { listing, nameOf, rtmpServer, type Listing, type PlayerKind } from "./streams.js";

const POLL_MS = 2000;

/** A browser opens six connections to a server at most, and an FLV player keeps one: some have to stay free. */
const MOST_PLAYERS = 4;

const byId = (id: string) => document.getElementById(id)!;
const list = byId("streams");
const template = byId("stream-card") as HTMLTemplateElement;
const cards = new Map<string, Card>();
/** Those with a player, the longest-playing first. */
const playing: Card[] = [];

/** What the address of this page asks for: `?stream=live/demo&player=flv`. */
const asked = new URLSearchParams(location.search);
const askedStream = asked.get("stream");
const askedKind: PlayerKind = asked.get("player") === "hls" ? "hls" : "flv";
/** Streams that are not there now and play as soon as they are: the linked one, and those that played when they went away. */
const awaited = new Map<string, PlayerKind>();
if (askedStream) awaited.set(askedStream, askedKind);
/** Without a link the page starts one player by itself; what plays after that is the viewer's choice. */
let startsFirst = !askedStream;

function limitPlayers(started: Card): void {
  const others = playing.filter((card) => card !== started && card.playing);
  playing.splice(0, playing.length, ...others, started);
  while (playing.length > MOST_PLAYERS) playing.shift()?.stop();
}

function show({ streams, rtmp_port: rtmpPort = 1935, engine = "native" }: Listing): void {
  const present = streams.filter((stream) => stream.state !== "ended").sort((a, b) => (nameOf(a) < nameOf(b) ? -1 : 1));
  const names = new Set(present.map(nameOf));
  for (const [name, card] of cards) {
    if (names.has(name)) continue;
    if (card.playing) awaited.set(name, card.playing);
    card.stop();
    card.element.remove();
    cards.delete(name);
  }
  present.forEach((stream, place) => {
    const name = nameOf(stream);
    let card = cards.get(name);
    if (!card) {
      card = new Card(template, stream, limitPlayers);
      cards.set(name, card);
    }
    // Moving an element that plays would interrupt it, so only new cards are put in their place.
    if (!card.element.isConnected) list.insertBefore(card.element, list.children[place] ?? null);
    card.update(stream, rtmpPort, engine);
    const kind = awaited.get(name);
    if (kind) card.play(kind);
    awaited.delete(name);
  });

  const live = present.filter((stream) => stream.state === "live");
  const [first] = live;
  if (startsFirst && first) {
    startsFirst = false;
    cards.get(nameOf(first))?.play(askedKind);
  }
  byId("empty").hidden = present.length > 0;
  byId("awaited").hidden = awaited.size === 0;
  byId("awaited").textContent = `Waiting for ${[...awaited.keys()].join(", ")}: it plays here as soon as it is live.`;
  byId("summary").textContent = live.length === 1 ? "1 stream is live" : `${live.length || "No"} streams are live`;
  showPush(rtmpPort);
}

function showPush(rtmpPort: number): void {
  const server = `${rtmpServer(rtmpPort)}/live`;
  const command = `ffmpeg -re -i FILE -c:v libx264 -preset veryfast -g 60 -c:a aac -f flv ${server}/mine`;
  showCopyable(byId("push-ffmpeg"), "Command", command);
  showCopyable(byId("push-obs-server"), "Server", server);
  showCopyable(byId("push-obs-key"), "Stream key", "mine");
}

async function poll(): Promise<void> {
  try {
    show(await listing());
    byId("offline").hidden = true;
  } catch {
    byId("offline").hidden = false;
    byId("summary").textContent = "";
  }
  window.setTimeout(() => void poll(), POLL_MS);
}

showPush(1935);
void poll();
