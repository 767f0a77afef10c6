// Takes the element's attributes from the address, since that is all that a browser source in OBS can set.
import "../element/element.js";

const query = new URLSearchParams(location.search);
document.documentElement.lang = query.get("lang") ?? document.documentElement.lang;
const drop = document.querySelector("rimlight-drop");
for (const name of ["routers", "channel", "drop"]) {
  const value = query.get(name);
  if (value !== null) drop?.setAttribute(name, value);
}
