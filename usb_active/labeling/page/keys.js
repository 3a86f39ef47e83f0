// Which key is meant.

// A letter or digit; where the keyboard's layout gives others (Cyrillic, Greek, or digits that need Shift), the one at that place.
// isKnown: whether a key does something.
export function meant(event, isKnown) {
  if (event.key.length !== 1) return event.key;
  const key = event.key.toLowerCase();
  if (/^[a-z0-9]$/.test(key) || isKnown(key) || event.shiftKey) return key;
  const digit = /^Digit([0-9])$/.exec(event.code ?? "");
  if (digit) return digit[1];
  const letter = key > "\x7f" ? /^Key([A-Z])$/.exec(event.code ?? "") : null;
  return letter ? letter[1].toLowerCase() : key;
}
