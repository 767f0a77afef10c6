// A constructable stylesheet: it needs neither an inline style nor a style-src in the page's policy. Every piece is a part,
// and the colours are custom properties, so pages theme it without reaching in.
export const style = new CSSStyleSheet();
style.replaceSync(`
  :host { display: block; font: inherit; color: var(--rimlight-text, CanvasText); }
  :host([hidden]) { display: none; }
  [hidden] { display: none !important; }
  section {
    display: grid; gap: 0.5em; padding: 1em; border-radius: 0.75em;
    background: var(--rimlight-card, Canvas); border: 1px solid var(--rimlight-line, GrayText);
  }
  :host([overlay]) section { border: 0; background: var(--rimlight-card, rgb(0 0 0 / 0.6)); color: var(--rimlight-text, white); }
  p { margin: 0; }
  [part="title"] { font-weight: 600; font-size: 1.15em; }
  [part="time"] { font-variant-numeric: tabular-nums; font-weight: 600; }
  progress { inline-size: 100%; block-size: 0.4em; accent-color: var(--rimlight-accent, #b3470c); }
  button {
    font: inherit; font-weight: 600; padding: 0.7em 1em; min-block-size: 2.75em; border: 0; border-radius: 0.5em; cursor: pointer;
    background: var(--rimlight-accent, #b3470c); color: var(--rimlight-on-accent, white);
  }
  [part="choice"] { display: flex; flex-wrap: wrap; gap: 0.5em; }
  [part="choice"][aria-busy="true"] { opacity: 0.55; }
  button[aria-disabled="true"] { opacity: 0.55; cursor: default; }
  button:focus-visible { outline: 3px solid var(--rimlight-focus, Highlight); outline-offset: 2px; }
  .spoken { position: absolute; inline-size: 1px; block-size: 1px; overflow: hidden; clip-path: inset(50%); white-space: nowrap; }
  @media (prefers-reduced-motion: no-preference) {
    button { transition: opacity 0.2s; }
  }
`);
