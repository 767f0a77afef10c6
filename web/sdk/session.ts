import { fromHex, hex } from "./bytes.js";

const PREFIX = "rimlight-session/";

/** The viewer's session at a channel: 16 random bytes, the same over reloads of a tab where the browser allows it. */
export function viewerSession(channelId: string): Uint8Array {
  try {
    const bytes = fromHex(sessionStorage.getItem(PREFIX + channelId) ?? "");
    if (bytes.length === 16) return bytes;
  } catch {
    // A sandboxed frame, or no browser: a session for this page.
  }
  const fresh = crypto.getRandomValues(new Uint8Array(16));
  try {
    sessionStorage.setItem(PREFIX + channelId, hex(fresh));
  } catch {
    // As above.
  }
  return fresh;
}

/** Forgets the session at a channel: the next client of the page is another viewer's. What was bought stays kept. */
export function forgetViewer(channelId = ""): void {
  try {
    sessionStorage.removeItem(PREFIX + channelId);
  } catch {
    // As above: there is none.
  }
}
