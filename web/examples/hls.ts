// A player with hls.js and a drop beside it. What a tap says of the media time is where the viewer really is in the stream:
// live viewers are seconds apart, and the channel's reports should compare like with like.
import Hls from "hls.js";
import "../element/element.js";

const query = new URLSearchParams(location.search);
const video = document.querySelector("video")!;
const drop = document.querySelector("rimlight-drop")!;
const stream = query.get("stream");

let hls: Hls | undefined;
if (stream && Hls.isSupported()) {
  hls = new Hls({ lowLatencyMode: true });
  hls.loadSource(stream);
  hls.attachMedia(video);
} else if (stream) {
  video.src = stream; // Safari plays HLS by itself
}

// currentTime begins anywhere in a live stream; the distance to the live edge does not. With a known start of the stream
// (EXT-X-PROGRAM-DATE-TIME) the position is the time since then.
const began = Number(query.get("began") ?? NaN); // when the stream began, ms since 1970
drop.mediaTimeMs = () => {
  const playing = hls?.playingDate;
  return playing && !Number.isNaN(began) ? playing.getTime() - began : video.currentTime * 1000;
};
for (const name of ["routers", "channel"]) {
  const value = query.get(name);
  if (value !== null) drop.setAttribute(name, value);
}
