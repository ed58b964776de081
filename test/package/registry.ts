/**
 * A registry of packages that has ours, as they would be published, and sends whoever wants another one to the
 * machine's own.
 */
import { readFileSync } from "node:fs";

export type Tarball = { readonly path: string; readonly manifest: { readonly name: string; readonly version: string } };

/** The machine's own. */
export const UPSTREAM = Bun.spawnSync(["npm", "config", "get", "registry"])
  .stdout.toString()
  .trim()
  .replace(/\/?$/, "/");

export class Registry implements Disposable {
  readonly #server: Bun.Server<undefined>;

  constructor(tarballs: readonly Tarball[]) {
    this.#server = Bun.serve({
      port: 0,
      hostname: "127.0.0.1",
      fetch: (request) => {
        const { pathname } = new URL(request.url);
        const name = decodeURIComponent(pathname.slice(1));
        const file = tarballs.find(({ path }) => path.endsWith(pathname) && pathname !== "/");
        if (file) return new Response(Bun.file(file.path));
        const ours = tarballs.find(({ manifest }) => manifest.name === name);
        return ours
          ? Response.json(this.#describe(ours))
          : Response.redirect(new URL(pathname.slice(1), UPSTREAM).href);
      },
    });
  }

  get url(): string {
    return this.#server.url.href;
  }

  #describe({ path, manifest }: Tarball): object {
    const { name, version } = manifest;
    const tarball = new URL(path.split("/").at(-1)!, this.url).href;
    const integrity = `sha512-${Bun.SHA512.hash(readFileSync(path), "base64")}`;
    return {
      name,
      "dist-tags": { latest: version },
      versions: { [version]: { ...manifest, dist: { tarball, integrity } } },
    };
  }

  [Symbol.dispose](): void {
    void this.#server.stop(true);
  }
}
