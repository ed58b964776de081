/** What somebody may have meant who mistyped a name. */

const TYPOS = 2;
const SHOWN = 3;

/** Those of the names that differ by a typo or two, at most three. */
export function nearTo(typed: string, names: Iterable<string>): string[] {
  const wanted = typed.toLowerCase();
  const near: string[] = [];
  for (const name of names) {
    // One of another length is not compared, so a long name costs nothing.
    const mayBe = Math.abs(name.length - wanted.length) <= TYPOS;
    if (mayBe && distance(name.toLowerCase(), wanted) <= TYPOS && near.push(name) === SHOWN) break;
  }
  return near;
}

/** Edit distance. */
function distance(a: string, b: string): number {
  let row = Array.from({ length: b.length + 1 }, (_, index) => index);
  for (let i = 1; i <= a.length; i++) {
    const next = [i];
    for (let j = 1; j <= b.length; j++)
      next[j] = Math.min(row[j]! + 1, next[j - 1]! + 1, row[j - 1]! + (a[i - 1] === b[j - 1] ? 0 : 1));
    row = next;
  }
  return row[b.length]!;
}
