/**
 * The HTTP side: POST /predict with {"rows": [[5.1, 3.5, 1.4, 0.2]]}. It is told how to predict, and knows nothing of
 * how that is done.
 */
export type Prediction = { readonly label: string; readonly probability: number };
export type Predict = (rows: number[][]) => Promise<Prediction[]>;

/** What a client is told in place of a prediction. */
export class Refusal extends Error {
  readonly status: number;

  constructor(status: number, message: string, cause?: unknown) {
    super(message, { cause });
    this.status = status;
  }
}

/** Port 0 takes a free one. */
export function listen(port: number, predict: Predict): Bun.Server<undefined> {
  return Bun.serve({
    port,
    hostname: "127.0.0.1",
    routes: {
      "/predict": { POST: async (request) => Response.json(await predict(await rowsOf(request))) },
    },
    fetch: () => Response.json({ error: "there is POST /predict, and nothing else" }, { status: 404 }),
    error: (error) => {
      if (error instanceof Refusal) return Response.json({ error: error.message }, { status: error.status });
      console.error(error);
      return Response.json({ error: "internal error" }, { status: 500 });
    },
  });
}

/** Only the outline: what a row has to be the model knows best. */
async function rowsOf(request: Request): Promise<number[][]> {
  const body = (await request.json().catch(() => undefined)) as { rows?: unknown } | null | undefined;
  if (!Array.isArray(body?.rows)) throw new Refusal(400, `the body is not {"rows": [[number, …], …]}`);
  return body.rows as number[][];
}
