// What the server says about its streams, and the addresses that follow from it. Asks; never shows anything.

/** One entry of /streams.json. */
export interface Stream {
  vhost: string;
  app: string;
  stream: string;
  /** "live"; "waiting" for a publisher that went away and may come back; "ended". */
  state: string;
  /** The worker that has its publisher; null if it has none. */
  worker?: number | null;
  /** With another engine: the process that has it. */
  process?: number | null;
  viewers?: number | null;
  /** Codec names; absent or null if there is no such track (yet). */
  video?: string | null;
  audio?: string | null;
  /** What HLS cannot carry of it. */
  hls?: { leaves_out: string[] };
  /** Bytes received since the stream began. */
  bytes?: number;
  /** Milliseconds since the last byte. */
  age_ms?: number;
}

/** The whole of /streams.json. */
export interface Listing {
  streams: Stream[];
  /** Port that RTMP is spoken on; 1935 if absent. */
  rtmp_port?: number;
  /** What carries the streams; others than "native" have fewer forms. */
  engine?: string;
}

export type PlayerKind = "flv" | "hls";

export interface Addresses {
  rtmp: string;
  flv: string;
  websocket: string;
  ts: string;
  hls: string;
}

const DEFAULT_VHOST = "__defaultVhost__";
const ANSWER_TIMEOUT_MS = 5000;

/** Asks the server. Fails if it does not answer in time or not with a listing. */
export async function listing(): Promise<Listing> {
  const response = await fetch("streams.json", { cache: "no-store", signal: AbortSignal.timeout(ANSWER_TIMEOUT_MS) });
  if (!response.ok) throw new Error(`streams.json: status ${response.status}`);
  const answer = (await response.json()) as Listing;
  if (!Array.isArray(answer.streams)) throw new Error("streams.json: no list of streams");
  return answer;
}

/** `app/stream`, or `vhost/app/stream` outside the default vhost: unique on a server, and what `?stream=` takes. */
export function nameOf(stream: Stream): string {
  const name = `${stream.app}/${stream.stream}`;
  return stream.vhost === DEFAULT_VHOST ? name : `${stream.vhost}/${name}`;
}

/** Where to watch a stream, as seen from this page. */
export function addressesOf(stream: Stream, rtmpPort: number): Addresses {
  const path = `${stream.app.split("/").map(encodeURIComponent).join("/")}/${encodeURIComponent(stream.stream)}`;
  const query = stream.vhost === vhostOf(location.hostname) ? "" : `?vhost=${encodeURIComponent(stream.vhost)}`;
  return {
    rtmp: `${rtmpServer(rtmpPort)}/${path}${query}`,
    flv: `${location.origin}/${path}.flv${query}`,
    websocket: `${location.origin.replace(/^http/, "ws")}/${path}.flv${query}`,
    ts: `${location.origin}/${path}.ts${query}`,
    hls: `${location.origin}/${path}.m3u8${query}`,
  };
}

/** `rtmp://host`, with the port unless it is RTMP's own. */
export function rtmpServer(rtmpPort: number): string {
  return `rtmp://${location.hostname}${rtmpPort === 1935 ? "" : `:${rtmpPort}`}`;
}

/** This page with one stream playing. */
export function pageAddress(stream: Stream, kind: PlayerKind): string {
  return `${location.origin}/?${new URLSearchParams({ stream: nameOf(stream), player: kind })}`.replaceAll("%2F", "/");
}

/** The vhost the server takes from a host name: an address or a name without a dot means the default one. */
function vhostOf(host: string): string {
  const isAddress = /^[\d.]+$/.test(host) || host.includes(":");
  return isAddress || !host.includes(".") ? DEFAULT_VHOST : host;
}
