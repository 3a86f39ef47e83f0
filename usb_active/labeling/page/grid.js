// A page of images as tiles. A tile is kept while its image is on the page: nothing is loaded twice, and the focus stays.

import { PENDING } from "./samples.js";

export class Grid {
  // list: the element that holds the tiles; choose: of a place, when it is clicked; open: when it is clicked twice.
  constructor(list, choose, open) {
    [this.list, this.choose, this.open] = [list, choose, open];
    this.tiles = new Map();
  }

  show(round, places, samples, chosen) {
    const before = round === this.round ? this.tiles : new Map();
    this.round = round;
    this.tiles = new Map(places.map((place) => [place, before.get(place) ?? this.make(place)]));
    const tiles = [...this.tiles.values()];
    const isNew = tiles.length !== this.list.children.length || tiles.some((tile, at) => tile !== this.list.children[at]);
    if (isNew) this.list.replaceChildren(...tiles);
    this.renew(samples, chosen);
    this.tiles.get(chosen)?.focus({ preventScroll: false });
  }

  // What has changed, here or with somebody else.
  renew(samples, chosen) {
    for (const [place, tile] of this.tiles) {
      const label = samples.answer(place);
      const isOthers = samples.others.has(place);
      const shown = label === PENDING ? samples.suggested(place) : `✓ ${samples.name(label)}`;
      const text = isOthers ? "somebody else" : tile.dataset.reason ? `${tile.dataset.reason} ${shown}` : shown;
      tile.classList.toggle("labeled", label !== PENDING);
      tile.setAttribute("aria-selected", String(place === chosen));
      tile.setAttribute("aria-label", `${samples.key(place)} ${text}`);
      tile.tabIndex = place === chosen ? 0 : -1;
      const image = tile.querySelector("img");
      if (isOthers) image?.remove();
      else if (!image) tile.prepend(this.picture(tile, place));
      const caption = tile.querySelector("span");
      if (caption.textContent !== (text || "–")) caption.textContent = text || "–";
    }
  }

  make(place) {
    const tile = document.createElement("div");
    tile.className = "tile";
    tile.setAttribute("role", "option");
    tile.addEventListener("click", () => tile.querySelector("img") && this.choose(place));
    tile.addEventListener("dblclick", () => tile.querySelector("img") && this.open(place));
    tile.append(document.createElement("span"));
    return tile;
  }

  picture(tile, place) {
    const image = document.createElement("img");
    image.loading = "lazy";
    image.alt = "";
    image.addEventListener("load", () => image.classList.toggle("pixels", Math.max(image.naturalWidth, image.naturalHeight) <= 64));
    image.addEventListener("error", () => {
      tile.dataset.reason = "cannot be shown";
      tile.querySelector("span").textContent = "cannot be shown";
    });
    image.src = `small/${this.round}/${place}`;
    return image;
  }

  // Of an image: "seen", "broken", or "" where it is not there (yet).
  state(place) {
    const image = this.tiles.get(place)?.querySelector("img");
    if (!image?.complete) return "";
    return image.naturalWidth > 0 ? "seen" : "broken";
  }

  get columns() {
    const tiles = [...this.list.children];
    const next = tiles.findIndex((tile) => tile.offsetTop !== tiles[0].offsetTop);
    return next < 0 ? tiles.length : next;
  }
}
